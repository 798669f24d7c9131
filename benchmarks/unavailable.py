"""What a benchmark raises that cannot run on this machine."""


class UnavailableError(Exception):
    """The message says what is missing."""
