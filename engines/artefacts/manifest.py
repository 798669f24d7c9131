"""The manifest beside every artefact: what it holds, how it was made and proven, how to restore it."""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MANIFEST_NAME = "manifest.json"
ANY_EXTENT: tuple[bool | None, ...] = (True, False, None)
"""All that `Manifest.whole` may be."""
SIGNS_OF_A_PART = ("include", "exclude", "missing_tables")
"""Options that are set when something of the database was left out, by wish or by what a dump shows of itself."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)  # ignore: newer versions may add fields


class ObjectCount(_Part):
    """One table or collection in a dump."""

    name: str
    kind: str = "table"
    rows: int | None = None
    """Rows in the dump's own snapshot; None when they were not counted."""
    database: str | None = None
    """Where a backup holds several databases: the one it is of."""


class Evidence(_Part):
    """One thing that was looked at while verifying, and what was seen."""

    level: int
    check: str
    object: str | None = None
    expected: int | str | None = None
    found: int | str | None = None
    ok: bool = True


class StoredFile(_Part):
    """One file of an artefact. `raw_*` are over the tool's own bytes, the others over what is stored."""

    name: str
    format: str
    """`pg_dump-custom`, `pg_dump-directory-tar`, `pg_dump-sql`, `pg_dumpall-sql`, `sqlite-database`, `sqlite-sql`,
    `mongodump-archive`, `mongodump-directory-tar`, `mysqldump-sql`."""
    database: str | None = None
    """Where a backup holds several databases: the one it is of."""
    compression: Literal["none", "zstd"]
    raw_bytes: int
    raw_sha256: str
    bytes: int
    sha256: str


class Verification(_Part):
    level: int
    at: datetime
    evidence: tuple[Evidence, ...] = ()


class Manifest(_Part):
    """Written last, as `manifest.json`: its presence is what publishes an artefact."""

    manifest_version: Literal[1] = 1
    backup_id: str
    job_id: str
    event_id: str
    connection: str
    engine: str
    database: str
    server_version: str
    tool: dict[str, str] | None = None
    flexdb_version: str
    options: dict[str, Any] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    started_at: datetime
    ended_at: datetime
    seconds: float
    consistency: str
    counts: Literal["exact", "none"]
    objects: tuple[ObjectCount, ...]
    files: tuple[StoredFile, ...]
    verification: Verification
    restore_by_hand: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Stored size of all files."""
        return sum(file.bytes for file in self.files)

    @property
    def sha256(self) -> str:
        """SHA-256 of the main (first) file as stored."""
        return self.files[0].sha256

    @property
    def whole(self) -> bool | None:
        """Whether all of the database is in it, or all databases of a whole server.

        False for a part: chosen tables, definitions without rows, rows without definitions. None where nobody can know
        it: a dump made by hand does not tell what else the database held, unless somebody said so when it was adopted.
        """
        return _whole(self.options)

    def to_bytes(self) -> builtins.bytes:
        return self.model_dump_json(indent=2).encode() + b"\n"


def _whole(options: dict[str, Any]) -> bool | None:
    if options.get("scope") == "server":
        return all(_whole(each) is True for each in options.get("databases", {}).values())
    if options.get("content", "all") != "all" or any(options.get(sign) for sign in SIGNS_OF_A_PART):
        return False
    if options.get("missing_schemas") and not options.get("extensions"):  # an extension may have made them
        return False
    return options.get("whole") if "adopted" in options else True
