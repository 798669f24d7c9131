"""Speed and memory, side by side with the raw tools: `python -m benchmarks [NAME…]`."""
