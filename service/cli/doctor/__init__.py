"""`flexdb doctor`: what is configured, what would fail, and how to mend it."""
