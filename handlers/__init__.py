"""What an event means: one module per family of operations, request and result models beside the handler."""
