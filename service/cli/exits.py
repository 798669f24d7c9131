"""How commands end: exit codes, and the errors that every command may raise."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """What the shell sees."""

    COMPLETED = 0
    FAILED = 1
    """The job failed; for `doctor`: something would."""
    REFUSED = 2
    """Wrong usage, refused by the service, or the service does not answer."""
    CANCELED = 3
    RUNNING = 4
    """Not ended when the time was up."""
    INTERRUPTED = 130


ENDINGS = {"completed": Exit.COMPLETED, "failed": Exit.FAILED, "canceled": Exit.CANCELED}
"""The stage of a terminal event, as an exit code."""


def exit_of(event: dict[str, Any] | None) -> Exit:
    """The exit code of a wait; None means it did not end in time."""
    if event is None:
        return Exit.RUNNING
    return ENDINGS.get(str(event.get("type", "")).rpartition(".")[2], Exit.FAILED)


class CommandError(Exception):
    """Something the user can mend; `hint` says how."""

    code: Exit = Exit.REFUSED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotReachable(CommandError):
    """The service does not answer; `sent` is true when it may have received the request."""

    def __init__(self, url: str, reason: str, *, sent: bool = False) -> None:
        self.sent = sent
        super().__init__(
            f"The service at {url} does not answer ({reason}).",
            "Start it with `flexdb serve` in another terminal, or set FLEXDB_URL to where it runs.",
        )


class Refused(CommandError):
    """The service answered with an error; `problem` is its body (RFC 9457), `status` the HTTP status."""

    def __init__(self, status: int, problem: dict[str, Any], hint: str = "") -> None:
        self.status = status
        self.problem = problem
        title = str(problem.get("title") or f"The service answered {status}.")
        super().__init__(title, hint)
