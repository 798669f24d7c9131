"""Restoring a plain dump: its statements and rows through the driver, all in one transaction."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.artefacts.reading import RAW_CHUNK, RawSource
from engines.base import Tool
from engines.errors import AccessDenied, FlexError, ToolFailed
from engines.postgres.allowed import of_the_database, refuse_foreign
from engines.postgres.archive import Archive, content_of, recorded
from engines.postgres.catalog import Server
from engines.postgres.clients import NEWER_SETS_TIMEOUT
from engines.postgres.connection import Address, execute, session, translated
from engines.postgres.load import Owners
from engines.postgres.outline import decoded
from engines.postgres.statements import Piece, UnreadableScriptError, pieces
from engines.run import Run

_LEFT_OUT = re.compile(r"(BEGIN|COMMIT);|SET transaction_timeout |CREATE SCHEMA public;")
"""What would end our transaction, is of newer servers, or is there already."""
_PEOPLE = re.compile(
    r"ALTER .* OWNER TO |GRANT |REVOKE |ALTER DEFAULT PRIVILEGES |SET SESSION AUTHORIZATION ", re.DOTALL
)
_CLEARS = re.compile(r"DROP |ALTER .* (DROP|DETACH) |SELECT pg_catalog\.lo_unlink\(", re.DOTALL)
"""How a script made with --clean begins; the target holds nothing to be cleared."""
_MAKES = re.compile(r"CREATE |COPY |INSERT ")
_COPY = re.compile(r"COPY .* FROM stdin;\Z", re.DOTALL)
COPY_BYTES = 1 << 16


class Blocks:
    """The raw bytes of a stored script, as an iterator."""

    def __init__(self, source: RawSource) -> None:
        self._source = source

    def __iter__(self) -> Iterator[bytes]:
        while data := self._source.read(RAW_CHUNK):
            yield data


class _Lines:
    """The rows of one COPY as the driver reads them."""

    def __init__(self, script: Iterator[Piece]) -> None:
        self._script = script
        self._rest = b""
        self._over = False

    def read(self, size: int = COPY_BYTES, /) -> bytes:
        """At most `size` bytes; none at the end of the rows."""
        while not self._rest and not self._over:
            piece = next(self._script, Piece("rows", b""))
            self._rest, self._over = piece.text, not piece.text
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def readline(self, _size: int = -1, /) -> bytes:
        """Never called by the driver, which asks for it all the same."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class PlainLoad:
    """One run of a plain dump into one database; what `load.Load` is for archives."""

    archive: Archive
    address: Address
    server: Server
    run: Run
    owners: Owners
    jobs: int = 1
    """Always one: a script has one order."""
    before_commit: Callable[[], None] | None = None
    """Called when everything is in the database and nothing committed; an exception rolls it back."""

    @property
    def commits_itself(self) -> bool:
        return False

    @property
    def tool(self) -> Tool | None:
        return None

    def carry_out(self) -> None:
        """Raises `ToolFailed` with the server's words, `InvalidDump`, `Stopped`; then nothing of it is there."""
        artefact, file = self.archive.artefact, self.archive.file
        with (
            artefact.open_raw(file, self.run, "restoring") as source,
            session(self.address, self.run.application_name, seconds=0, stop=self.run.stop) as opened,
        ):
            execute(opened, "SET standard_conforming_strings = on")  # else strings would end elsewhere than we read
            execute(opened, "BEGIN")
            self._make_schemas(opened)
            try:
                self._statements(opened, pieces(Blocks(source)))
            except UnreadableScriptError as error:
                raise ToolFailed(f"The script cannot be restored: {error}.") from error
            except psycopg2.Error as error:
                raise self._refused(error) from error
            if self.before_commit is not None:
                self.before_commit()
            execute(opened, "COMMIT")

    def _refused(self, error: psycopg2.Error) -> FlexError:
        """What the server does not take is told as pg_restore tells it; what may pass, as any session would."""
        self.run.stop.check()
        failure = translated(error, self.address)
        if not isinstance(failure, ToolFailed | AccessDenied):
            return failure
        details = {"exit_code": 1, "stderr": failure.message, "sqlstate": error.pgcode}
        return ToolFailed(f"The script cannot be restored: {failure.message}", details=details)

    def _make_schemas(self, opened: Connection) -> None:
        """A dump of chosen tables names their schemas without making them."""
        for name in recorded(self.archive.artefact, "missing_schemas", []):
            execute(opened, sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(str(name))))

    def _statements(self, opened: Connection, script: Iterator[Piece]) -> None:
        made_something = False
        with opened.cursor() as cursor:
            if content_of(self.archive.artefact) == "data" and self.server.superuser:
                # Triggers would do their work a second time; foreign keys in a circle could never be loaded.
                cursor.execute("SET LOCAL session_replication_role = replica")
            for piece in script:
                if piece.kind != "statement":
                    continue  # psql's own commands were looked at when the dump was taken in
                refuse_foreign(piece.text, piece.line)  # it may have been taken in when more was
                text = decoded(piece.text)
                if of_the_database(piece.text) or self._left_out(text) or (not made_something and _CLEARS.match(text)):
                    continue
                if _COPY.match(text):
                    cursor.copy_expert(piece.text, _Lines(script), COPY_BYTES)
                else:
                    cursor.execute(piece.text)
                made_something = made_something or _MAKES.match(text) is not None

    def _left_out(self, text: str) -> bool:
        if text.startswith("SET transaction_timeout ") and self.server.major >= NEWER_SETS_TIMEOUT:
            return False
        if _LEFT_OUT.match(text):
            return True
        return not self.owners.kept and _PEOPLE.match(text) is not None
