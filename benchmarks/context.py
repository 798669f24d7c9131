"""What all benchmarks of one run share: sizes, temporary folders, the PostgreSQL database."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.database import BenchDatabase, made


@dataclass(slots=True)
class Context:
    quick: bool
    rounds: int
    work: Path
    """Removed at the end of the run."""
    _stack: ExitStack = field(default_factory=ExitStack)
    _database: BenchDatabase | None = None

    def folder(self, name: str) -> Path:
        """A new, empty folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.work))

    def database(self) -> BenchDatabase:
        """The database to back up, made once per run. Raises `UnavailableError` when there is no server."""
        if self._database is None:
            self._database = self._stack.enter_context(made(self.quick))
        return self._database

    def close(self) -> None:
        self._stack.close()


@contextmanager
def opened(quick: bool, rounds: int) -> Iterator[Context]:
    with tempfile.TemporaryDirectory(prefix="flexdb-bench-", ignore_cleanup_errors=True) as work:
        context = Context(quick, rounds, Path(work))
        try:
            yield context
        finally:
            context.close()
