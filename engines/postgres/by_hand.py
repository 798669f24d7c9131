"""The commands of a manifest that restore a dump without FlexDB."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from engines.artefacts.manifest import StoredFile
from engines.base import Content
from engines.postgres.archive import CUSTOM, DIRECTORY, GLOBALS, SQL
from engines.postgres.clients import needs_filter

SERVER = "--host=HOST --port=PORT --username=USER"


@dataclass(frozen=True, slots=True)
class ByHand:
    """What the commands depend on."""

    files: Sequence[StoredFile]
    content: Content
    client_major: int
    server_major: int
    encoding: str | None = None
    schemas: Sequence[str] = ()
    """Statements about schemas that come before a dump of chosen parts."""

    def lines(self) -> tuple[str, ...]:
        """In order, for the artefact's folder; fill in what is in capitals."""
        return (*self._unpacking(), *self._database(), *self._loading(), _psql("DATABASE", "--command=ANALYZE"))

    def _name(self, format: str) -> str | None:
        names = [file.name.removesuffix(".zst") for file in self.files if file.format == format]
        return shlex.quote(names[0]) if names else None

    def _unpacking(self) -> list[str]:
        return [f"zstd -d {shlex.quote(file.name)}" for file in self.files if file.compression == "zstd"]

    def _database(self) -> list[str]:
        roles = self._name(GLOBALS)
        lines = [_psql("postgres", f"--file={roles}  # roles")] if roles else []
        if self.content == "data":
            return lines
        encoding = f" --encoding={self.encoding}" if self.encoding else ""
        lines.append(f"createdb {SERVER} --template=template0{encoding} DATABASE")
        return lines + [_psql("DATABASE", f"--command={shlex.quote(line)}") for line in self.schemas]

    def _loading(self) -> list[str]:
        script, tar = self._name(SQL), self._name(DIRECTORY)
        if script:
            return [_psql("DATABASE", f"--set=ON_ERROR_STOP=1 --file={script}")]
        archive = "pg_dump" if tar else self._name(CUSTOM) or "DUMP"
        return [*([f"mkdir pg_dump && tar -xf {tar} -C pg_dump"] if tar else []), self._pg_restore(archive)]

    def _pg_restore(self, archive: str) -> str:
        what = " --data-only --disable-triggers" if self.content == "data" else ""
        note = "  # DATABASE has the tables already, without rows" if self.content == "data" else ""
        if needs_filter(self.client_major, self.server_major):
            return (
                f"pg_restore{what} --single-transaction --file=- {archive} "
                "| sed '1,40{/^SET transaction_timeout = 0;$/d}' "
                f"| psql -X -v ON_ERROR_STOP=1 {SERVER} --dbname=DATABASE{note}"
            )
        how = "--single-transaction" if self.content == "data" else "--jobs=2"
        return f"pg_restore {SERVER} --exit-on-error{what} {how} --dbname=DATABASE {archive}{note}"


def _psql(database: str, what: str) -> str:
    return f"psql -X {SERVER} --dbname={database} {what}"
