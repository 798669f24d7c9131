"""What can be asked of the dead letters and what is told of them: known without RabbitMQ's driver."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.amqp.letters import DeadLetter

DEFAULT_LIMIT = 100
LARGEST_LIMIT = 1000
"""Letters that one redrive sends at most."""


class AMQPUnavailable(Exception):
    """RabbitMQ cannot be used now; the text says why, without the URL."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Letters, oldest first, and whether there are more than these."""

    letters: tuple[DeadLetter, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters to redrive: those of these ids, those of this reason, or all."""

    ids: frozenset[str] = frozenset()
    reason: str | None = None
    everything: bool = False

    def takes(self, letter: DeadLetter) -> bool:
        return self.everything or letter.id in self.ids or (self.reason is not None and letter.reason == self.reason)


@dataclass(frozen=True, slots=True)
class Left:
    """A letter that stays, and why."""

    letter: DeadLetter
    why: str


@dataclass(slots=True)
class Redrive:
    """What came of a redrive, or what would."""

    applied: bool
    letters: list[DeadLetter] = field(default_factory=list)
    """Sent again; without `applied` those that would be."""
    left: list[Left] = field(default_factory=list)
    not_found: list[str] = field(default_factory=list)
    """Ids asked for that no letter has."""
    more: bool = False
    """There are letters this call did not look at: its limit was reached, or the broker went away."""
