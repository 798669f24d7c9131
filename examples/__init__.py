"""Programs that show FlexDB at work; run them with `python -m`."""
