"""The process: doors, the life of a job, delivery, wiring."""

__version__ = "0.1.0"
