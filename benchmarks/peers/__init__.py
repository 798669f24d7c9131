"""Programs that do with a queue what FlexDB does, each with a framework's own means; run in .venv-peers."""
