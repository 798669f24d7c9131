"""The parts of the demo: the shop's rows, the databases, the service's process, the webhook receiver."""
