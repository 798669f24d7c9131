"""The problems of jobs that the ledger itself ends."""

from __future__ import annotations

from service.jobs import Problem

CANCELED = Problem("canceled", "Canceled on request.", hint="Retry the job if it is wanted after all.")

EXPIRED = Problem(
    "expired",
    "The event's expirytime passed before the job could start.",
    hint="Send the event again with a later expirytime, or with none.",
)

DEADLINE_EXCEEDED = Problem(
    "deadline_exceeded",
    "The deadline passed before the job could start or be tried again.",
    hint="Ask for a longer deadline_seconds, or look for what kept its target busy.",
)


def worker_lost(crashes: int) -> Problem:
    """The worker that had the job vanished once too often."""
    return Problem(
        "worker_lost",
        f"The worker died or lost contact {crashes} times while it had this job.",
        hint="Look in the service's log for what ends it (memory, disk), then retry the job.",
    )
