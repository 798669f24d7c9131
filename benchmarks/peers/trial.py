"""What every program of a trial needs to know: the broker, the two queues, how many messages, and what is in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BODY_BYTES = 314
PREFETCH = 100
"""Of every peer: more makes none of them faster, and RabbitMQ's own advice is 100 to 300."""
QUORUM: dict[str, Any] = {"x-queue-type": "quorum"}


@dataclass(frozen=True, slots=True)
class Trial:
    url: str
    name: str
    """What the names of all its queues and exchanges begin with."""
    count: int

    @classmethod
    def of_environment(cls) -> Trial:
        found = os.environ
        return cls(found["BENCH_URL"], found["BENCH_NAME"], int(found["BENCH_COUNT"]))

    def environment(self) -> Mapping[str, str]:
        return {"BENCH_URL": self.url, "BENCH_NAME": self.name, "BENCH_COUNT": str(self.count)}

    @property
    def requests(self) -> str:
        """The queue that is full at the start."""
        return f"{self.name}.requests"

    @property
    def replies(self) -> str:
        """The queue that is full at the end."""
        return f"{self.name}.replies"


def payload(number: int) -> dict[str, Any]:
    """A request of `BODY_BYTES` as JSON, each a little different."""
    head = len('{"number": , "padding": ""}') + len(str(number))
    return {"number": number, "padding": "x" * (BODY_BYTES - head)}
