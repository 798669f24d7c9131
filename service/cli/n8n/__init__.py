"""`flexdb n8n`: brings the shipped workflows into an n8n and looks whether the two work together."""
