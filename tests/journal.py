"""A file in which test handlers of all replicas of one machine note when they worked, and for what."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

Moment = Literal["begin", "end", "killed"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `at` is monotonic time, which all processes of a machine share."""

    moment: Moment
    at: float
    pid: int
    job_id: str = ""
    token: int = 0
    key: str | None = None
    how: str = ""
    """Of an end: `done`, `failed`, or `stopped:` and the reason."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """One attempt's work, from its begin to its end or to the end of its process."""

    job_id: str
    token: int
    key: str | None
    pid: int
    begin: float
    end: float
    how: str
    """As in `Entry`, else `killed`, or `open`: it goes on."""


class Journal:
    """Each line is one write at the file's end, so lines of several processes never mix."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, moment: Moment, *, job_id: str, token: int, key: str | None = None, how: str = "") -> None:
        self._write(Entry(moment, time.monotonic(), os.getpid(), job_id, token, key, how))

    def note_killed(self, pid: int, at: float) -> None:
        """A process did nothing more from `at` on."""
        self._write(Entry("killed", at, pid))

    def _write(self, entry: Entry) -> None:
        opened = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(opened, (json.dumps(asdict(entry)) + "\n").encode())
        finally:
            os.close(opened)

    def entries(self) -> list[Entry]:
        """In the order in which they were written."""
        if not self.path.exists():
            return []
        return [Entry(**json.loads(line)) for line in self.path.read_text().splitlines()]

    def stretches(self) -> list[Stretch]:
        """What every attempt did, by the time it began."""
        return stretches(self.entries())


def stretches(entries: Iterable[Entry]) -> list[Stretch]:
    open_ones: dict[tuple[str, int], Stretch] = {}
    found: list[Stretch] = []
    for entry in entries:
        if entry.moment == "begin":
            open_ones[entry.job_id, entry.token] = Stretch(
                entry.job_id, entry.token, entry.key, entry.pid, entry.at, float("inf"), "open"
            )
        elif entry.moment == "end":
            begun = open_ones.pop((entry.job_id, entry.token))
            found.append(replace(begun, end=entry.at, how=entry.how))
        else:
            for at in [at for at, begun in open_ones.items() if begun.pid == entry.pid]:
                begun = open_ones.pop(at)
                found.append(replace(begun, end=max(begun.begin, entry.at), how="killed"))
    return sorted([*found, *open_ones.values()], key=lambda each: each.begin)


def overlaps(worked: Iterable[Stretch]) -> list[tuple[Stretch, Stretch]]:
    """Pairs of attempts that were at work at one time on one key (attempts without a key: for one job)."""
    found: list[tuple[Stretch, Stretch]] = []
    latest: dict[tuple[str, str], Stretch] = {}
    for each in sorted(worked, key=lambda stretch: stretch.begin):
        place = ("key", each.key) if each.key is not None else ("job", each.job_id)
        before = latest.get(place)
        if before is not None and each.begin < before.end:
            found.append((before, each))
        if before is None or each.end > before.end:
            latest[place] = each
    return found
