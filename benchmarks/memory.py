"""How much memory a service and its children take, the database's own tools left out."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

TOOLS = frozenset(
    {"pg_dump", "pg_dumpall", "pg_restore", "psql", "sqlite3", "mariadb-dump", "mysqldump", "mariadb", "mysql"}
)
EVERY_SECONDS = 0.05
_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)


@dataclass(slots=True)
class Peak:
    """Highest sums seen, in bytes. Pages shared by processes are split among them (PSS) where known.

    What lasts from one sample to the next counts: a child that has not become its tool yet has all its parent's pages.
    """

    ours: int = 0
    tools: int = 0
    samples: int = 0
    _before: int | None = None

    def take(self, pid: int) -> None:
        ours = tools = 0
        for process in _family(pid):
            try:
                name, size = process.name(), _size(process)
            except (psutil.Error, OSError):  # gone meanwhile
                continue
            if name in TOOLS:
                tools += size
            else:
                ours += size
        lasting = ours if self._before is None else min(ours, self._before)
        self.ours, self.tools = max(self.ours, lasting), max(self.tools, tools)
        self._before = ours
        self.samples += 1


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _size(process: psutil.Process) -> int:
    rollup = Path(f"/proc/{process.pid}/smaps_rollup")  # Linux 4.14 and later
    found = _PSS.search(rollup.read_bytes()) if rollup.exists() else None
    return int(found[1]) * 1024 if found else int(process.memory_info().rss)


@contextmanager
def watching(pid: int) -> Iterator[Peak]:
    """Sample a process and its children until the context ends; the peak so far."""
    peak, over = Peak(), threading.Event()

    def work() -> None:
        while not over.wait(EVERY_SECONDS):
            peak.take(pid)

    thread = threading.Thread(target=work, name="memory")
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def peak_of(pid: int, work: Callable[[], object]) -> Peak:
    """The peak while `work` lasts."""
    with watching(pid) as peak:
        work()
    return peak
