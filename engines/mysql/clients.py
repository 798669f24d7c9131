"""Which MySQL and MariaDB client programs are installed, and which of them fits a server."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from engines.base import Tool
from engines.command import Command, answer
from engines.errors import NoFittingClient, ToolFailed

DUMPERS = ("mariadb-dump", "mysqldump")
SHELLS = ("mariadb", "mysql")
SYSTEM_FOLDERS = (
    ("/usr/local", "*mysql*/bin"),
    ("/opt", "*mysql*/bin"),
    ("/opt", "*mariadb*/bin"),
    ("/opt/homebrew/opt", "mysql*/bin"),
    ("/opt/homebrew/opt", "mariadb*/bin"),
)

_VERSION = re.compile(r"(?:Distrib |from |Ver )((\d+)\.(\d+)\.\d+\S*?)[, ]")


@dataclass(frozen=True, slots=True)
class Program:
    path: Path
    version: str
    mariadb: bool
    release: tuple[int, int]
    """Major and minor number: MariaDB's and MySQL's are compared only among themselves."""

    def tool(self) -> Tool:
        return Tool(self.path.name, self.version, str(self.path))


@dataclass(frozen=True, slots=True)
class Release:
    """A server, as far as the choice of its programs depends on it."""

    mariadb: bool
    number: tuple[int, int]

    @classmethod
    def read(cls, version: str) -> Release:
        """From `SELECT VERSION()`; old MariaDB servers put `5.5.5-` before it."""
        found = re.match(r"(?:5\.5\.5-)?(\d+)\.(\d+)", version)
        number = (int(found[1]), int(found[2])) if found else (0, 0)
        return cls("mariadb" in version.lower(), number)

    def __str__(self) -> str:
        return f"{'MariaDB' if self.mariadb else 'MySQL'} {self.number[0]}.{self.number[1]}"


@dataclass(frozen=True, slots=True)
class Clients:
    """Finds and chooses programs in a list of folders."""

    folders: Callable[[], Sequence[Path]] = field(repr=False)

    @classmethod
    def installed(cls, tool_path: str | None = None) -> Clients:
        return cls(lambda: default_folders(tool_path))

    def dumper(self, server: Release) -> Program:
        """`mariadb-dump` or `mysqldump` for that server; raises `NoFittingClient`."""
        return self._fitting(DUMPERS, server)

    def shell(self, server: Release) -> Program:
        """`mariadb` or `mysql` for that server; raises `NoFittingClient`."""
        return self._fitting(SHELLS, server)

    def _fitting(self, names: Sequence[str], server: Release) -> Program:
        """The server's own kind, and of these the nearest that is not older; MariaDB's for a MySQL server too.

        Never an older one than a MySQL server, nor MySQL's for a MariaDB server: they do not know sequences and
        system versioning, and would leave out what they do not know.
        """
        found = self._all(names)
        own = [item for item in found if item.mariadb == server.mariadb]
        newer = [item for item in own if item.release >= server.number]
        if newer:
            return min(newer, key=lambda item: item.release)
        if server.mariadb and own:
            return max(own, key=lambda item: item.release)
        other = [item for item in found if item.mariadb and not server.mariadb]
        if other:
            return max(other, key=lambda item: item.release)
        seen = ", ".join(f"{item.path} {item.version}" for item in found) or "none"
        raise NoFittingClient(
            f"No {' or '.join(names)} for a {server} server: found {seen}.",
            hint="Install the server's own client programs (Debian: mariadb-client; MySQL: mysql-community-client), "
            "or name their folder in FLEXDB_TOOL_PATH.",
        )

    def _all(self, names: Sequence[str]) -> list[Program]:
        """In search order, each real file once."""
        found: dict[Path, Program] = {}
        for folder in self.folders():
            for name in names:
                path = folder / name
                real = Path(os.path.realpath(path))
                if real not in found and os.access(path, os.X_OK) and path.is_file():
                    program = _program(path)
                    if program is not None:
                        found[real] = program
        return list(found.values())


def default_folders(tool_path: str | None) -> list[Path]:
    """Where programs are looked for, in order: `tool_path`, PATH, folders of packages."""
    named = [*(tool_path or "").split(os.pathsep), *os.environ.get("PATH", os.defpath).split(os.pathsep)]
    folders = [Path(name) for name in named if name]
    for root, pattern in SYSTEM_FOLDERS:
        folders += sorted(Path(root).glob(pattern))
    return folders


def _program(path: Path) -> Program | None:
    stat = path.stat()
    said = _asked_version(path, stat.st_mtime_ns, stat.st_size)
    found = _VERSION.search(said)
    if found is None:
        return None
    return Program(path, found[1], "mariadb" in said.lower(), (int(found[2]), int(found[3])))


@lru_cache(maxsize=256)
def _asked_version(path: Path, _changed: int, _size: int) -> str:
    """Asked once per file as it is now; nothing for what cannot run here."""
    try:
        return answer(Command(path, ("--version",)))
    except ToolFailed:
        return ""
