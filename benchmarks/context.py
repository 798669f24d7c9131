"""What all benchmarks of one run share: sizes, temporary folders, the PostgreSQL and the MariaDB database."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import mariadb_database
from benchmarks.database import BenchDatabase, made
from benchmarks.mariadb_database import MariaDatabase


@dataclass(slots=True)
class Context:
    quick: bool
    rounds: int
    work: Path
    """Removed at the end of the run."""
    long: bool = False
    """Sizes that take hours, where a benchmark has such."""
    _stack: ExitStack = field(default_factory=ExitStack)
    _database: BenchDatabase | None = None
    _maria: MariaDatabase | None = None

    def folder(self, name: str) -> Path:
        """A new, empty folder."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.work))

    def database(self) -> BenchDatabase:
        """The database to back up, made once per run. Raises `UnavailableError` when there is no server."""
        if self._database is None:
            self._database = self._stack.enter_context(made(self.quick))
        return self._database

    def maria(self) -> MariaDatabase:
        """As `database`, of MariaDB."""
        if self._maria is None:
            rows = mariadb_database.QUICK_ROWS if self.quick else mariadb_database.FULL_ROWS
            self._maria = self._stack.enter_context(mariadb_database.made(rows))
        return self._maria

    def close(self) -> None:
        self._stack.close()


@contextmanager
def opened(quick: bool, rounds: int, long: bool = False) -> Iterator[Context]:
    with tempfile.TemporaryDirectory(prefix="flexdb-bench-", ignore_cleanup_errors=True) as work:
        context = Context(quick, rounds, Path(work), long)
        try:
            yield context
        finally:
            context.close()
