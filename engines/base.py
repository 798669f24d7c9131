"""What engines promise: one small capability class per operation; an engine inherits what it can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol
from urllib.parse import quote

from pydantic import SecretStr

from engines.artefacts.manifest import Evidence, ObjectCount
from engines.artefacts.reading import Artefact
from engines.artefacts.writing import ArtefactWriter
from engines.assertions import Assertion
from engines.errors import FlexError, UnsupportedOperation
from engines.run import Run

Content = Literal["all", "schema", "data"]
Layout = Literal["archive", "directory"]


@dataclass(frozen=True, slots=True)
class Target:
    """A database to work on. Its URL may hold a password and prints as `**********`."""

    connection: str
    """Name of the connection it came from, as events name it."""
    engine: str
    """`kind` of the engine that serves it: `postgres`, `sqlite` …"""
    url: SecretStr
    host: str
    port: int | None
    database: str
    """Database name; for SQLite the real path of the file."""

    @property
    def key(self) -> str:
        """Names the database itself, whatever connection leads to it; what claims are taken on."""
        return f"{self.engine}://{self.host}:{self.port or ''}/{quote(self.database, safe='/')}"


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """`include` and `exclude` are patterns as engines read them (`schema.table`, `schema.*`, `table`)."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    counts: str = "exact"
    """`exact`: rows counted in the dump's own snapshot; `none`: not counted, level 3 is then impossible."""
    jobs: int = 1
    globals: bool = False
    content: Content = "all"
    """`schema`: definitions without rows; `data`: rows without definitions."""
    layout: Layout = "archive"
    """`directory`: one file per collection, where the engine has that, stored as one tar stream."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A client program that was used: name, version, path."""

    name: str
    version: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Dump:
    """What an engine says of a dump it has just written."""

    server_version: str
    objects: tuple[ObjectCount, ...]
    counts: str
    consistency: str
    """One sentence: what moment the dump shows, and what it held off meanwhile."""
    restore_by_hand: tuple[str, ...]
    """Command lines, in order, with placeholders in capitals, that restore without FlexDB."""
    tool: Tool | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    mode: str = "create"
    """`create` or `replace`; see `handlers.restore`."""
    include: tuple[str, ...] = ()
    jobs: int = 2


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore put into the target."""

    database: str
    objects: tuple[ObjectCount, ...]
    """Rows are those counted in the target after the restore (None: not counted)."""
    notes: tuple[str, ...] = ()
    tool: Tool | None = None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Whether a target can be worked with. `problem` has code, message, hint when something is wrong."""

    reachable: bool
    server_version: str | None
    latency_ms: float | None
    client_tools: dict[str, Any] = field(default_factory=dict)
    """For engines that use tools: `{"compatible": bool, "tools": {name: {"version", "path"}}, "hint"}`."""
    problem: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class TableInfo:
    name: str
    kind: str
    rows: int | None
    rows_exact: bool
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Inspection:
    server_version: str
    database: str
    size_bytes: int
    databases: tuple[str, ...]
    tables: tuple[TableInfo, ...]
    fingerprint: str
    """SHA-256 over the structure (tables, columns, types, indexes, constraints), not over rows."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at before a backup or restore."""

    check: str
    """`reachable`, `client`, `privileges`, `target`, `space` …: a constant word, for programs."""
    ok: bool
    detail: str
    """A sentence with what was seen."""
    hint: str = ""
    """How to mend it, when it is not ok."""
    problem: FlexError | None = None
    """What the operation would end with; None when it is ok, or would not keep the operation from succeeding."""


class Source(Protocol):
    """The plain bytes of a dump that was made by hand."""

    def read(self, size: int = ..., /) -> bytes:
        """At most `size` bytes, none at the end."""
        ...


class Engine(ABC):
    """A strategy for one kind of database. Holds no connection and no state: safe in any thread."""

    kind: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def target(self, connection: str, url: str) -> Target:
        """Parse a connection URL (no I/O but path resolution); raises `InvalidTarget` without its secret."""

    @abstractmethod
    def into(self, target: Target, database: str) -> Target:
        """The same server, another database (SQLite: a plain file name beside the target)."""

    def end_older_sessions(self, target: Target, run: Run) -> None:  # noqa: B027  doing nothing is right for most
        """End what an earlier attempt of this job left working on the target, and see it gone.

        Raises `TargetBusy` when it does not go in time. Engines without server sessions do nothing.
        """

    def remove_leftovers(self, target: Target, is_dead: Callable[[str], bool]) -> list[str]:
        """Drop scratch and half-built databases of the jobs that `is_dead` knows to be over; names of what went.

        Only names FlexDB gives (`flexdb_scratch_JOB`, `flexdb_new_JOB`) are touched. `is_dead` says False for
        jobs of other services that share the server: their databases stay.
        """
        return []


class CheckEngine(Engine):
    @abstractmethod
    def check(self, target: Target, run: Run) -> CheckReport:
        """Connect and look; an unreachable target is a report, not an exception."""


class InspectionEngine(Engine):
    @abstractmethod
    def inspect(self, target: Target, run: Run) -> Inspection:
        """Structure and sizes of the target's database."""


class BackupEngine(Engine):
    has_servers: ClassVar[bool] = True
    """Whether a target is one of several databases of a server."""
    globals_of_database: ClassVar[bool] = False
    """Whether `globals` belong to one database (MongoDB's users) and not to the server."""

    @abstractmethod
    def refuse_options(self, options: BackupOptions) -> dict[str, str]:
        """Options this engine lacks, field name to reason; empty when all is well. No I/O."""

    @abstractmethod
    def backup(self, target: Target, options: BackupOptions, out: ArtefactWriter, run: Run) -> Dump:
        """Write a consistent dump into `out` and say what is in it.

        Returns only when every tool has exited with success. Raises from `engines.errors`; what was
        written then is thrown away by the caller.
        """

    def databases(self, target: Target, run: Run) -> tuple[str, ...]:
        """Every user database of the target's server, for a backup of all of them; raises `UnsupportedOperation`."""
        raise UnsupportedOperation(f"The engine {self.kind!r} has no server with several databases.")


class RestoreEngine(Engine):
    @abstractmethod
    def plan(self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run) -> tuple[ObjectCount, ...]:
        """What a restore would put into the target, without touching it."""

    @abstractmethod
    def restore(self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run) -> Restored:
        """Restore as `options.mode` says. A failed restore leaves the target as it was.

        Stored bytes are checked against their SHA-256 before the target is touched. Calls
        `run.point_of_no_return()` right before the switch.
        """

    @abstractmethod
    def drop(self, target: Target, run: Run) -> bool:
        """Drop the whole database, ending the sessions on it; False when there was none.

        Only ever called for databases that FlexDB made and named itself.
        """


class VerificationEngine(Engine):
    rehearses_rows_alone: ClassVar[bool] = False
    """Whether a backup of rows without definitions can be restored into a scratch database."""

    @abstractmethod
    def parse(self, artefact: Artefact, run: Run) -> tuple[Evidence, ...]:
        """Level 2: read the whole artefact with the format's own reader, checking stored and raw SHA-256.

        Raises `ArtefactDamaged` with evidence.
        """

    @abstractmethod
    def rehearse(
        self, artefact: Artefact, scratch: Target, run: Run, assertions: tuple[Assertion, ...] = ()
    ) -> tuple[Evidence, ...]:
        """Level 3: restore into a database `flexdb_scratch_JOB` on `scratch`'s server, compare, drop it.

        Compares object by object with the counts of the manifest, then asks the user's `assertions` of the
        restored database. Raises `ArtefactDamaged` with evidence on a difference, `AssertionFailed` with evidence,
        `VerificationImpossible` when it cannot be done. The scratch database is dropped in every case.
        """


class PreflightEngine(Engine):
    """Looks without touching anything. What cannot be looked at is a finding; only `Stopped` is raised."""

    @abstractmethod
    def preflight_backup(self, target: Target, options: BackupOptions, run: Run) -> tuple[Finding, ...]:
        """Reachable, client program, privileges, patterns that mean something, room in the work folder …"""

    @abstractmethod
    def preflight_restore(
        self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run
    ) -> tuple[Finding, ...]:
        """Reachable, versions both ways, privileges, absent or empty target (as the mode wants it), room there …

        Reads the manifest only, no stored byte.
        """


class AdoptionEngine(Engine):
    """Takes dumps that were made by hand."""

    @abstractmethod
    def recognise(self, head: bytes) -> str | None:
        """The format, as `StoredFile.format` lists them, of a dump that begins with `head` (at least 64 KiB of it,
        or all); None when it is not one of this engine's."""

    @abstractmethod
    def adopt(self, source: Source, format: str, out: ArtefactWriter, run: Run) -> Dump:
        """Read the dump to its end into `out`, looking at all of it.

        Counts are `exact` where the format tells them. Raises `ArtefactDamaged` for one that is not whole.
        """
