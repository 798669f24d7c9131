"""The MySQL and MariaDB engine: what it can do, each capability in a module of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pydantic import SecretStr

from engines.artefacts.manifest import Evidence, ObjectCount
from engines.artefacts.reading import Artefact
from engines.artefacts.writing import ArtefactWriter
from engines.assertions import Assertion
from engines.base import (
    AdoptionEngine,
    BackupEngine,
    BackupOptions,
    CheckEngine,
    CheckReport,
    Dump,
    Finding,
    Inspection,
    InspectionEngine,
    PreflightEngine,
    Restored,
    RestoreEngine,
    RestoreOptions,
    Source,
    Target,
    VerificationEngine,
)
from engines.errors import InvalidTarget
from engines.mysql import adopt, databases, look, preflight, switch, verify
from engines.mysql.address import SCHEMES, Address, refuse_name
from engines.mysql.clients import Clients
from engines.mysql.dump import MySQLDump
from engines.mysql.records.definition import refused
from engines.mysql.records.table import MySQLTable
from engines.mysql.restore import MySQLRestore, chosen, end_older
from engines.mysql.session import session
from engines.records.base import RecordEngine, RecordTable
from engines.records.fields import Table
from engines.run import Run

__all__ = ["MySQLEngine"]


class MySQLEngine(
    CheckEngine,
    InspectionEngine,
    BackupEngine,
    RestoreEngine,
    VerificationEngine,
    PreflightEngine,
    AdoptionEngine,
    RecordEngine,
):
    """MariaDB from 10.3 and MySQL from 5.7 on, through their own client programs."""

    kind = "mysql"
    schemes = SCHEMES

    def __init__(self, tool_path: str | None = None, *, clients: Clients | None = None) -> None:
        self._clients = clients or Clients.installed(tool_path)

    def target(self, connection: str, url: str) -> Target:
        address = Address.parse(url)
        return Target(connection, self.kind, SecretStr(url), address.host, address.port, address.database)

    def into(self, target: Target, database: str) -> Target:
        refuse_name(database)
        if database.lower() in databases.SERVERS_OWN or databases.PREFIX.match(database):
            raise InvalidTarget(f"The name {database!r} is kept for the server's or FlexDB's own use.")
        return replace(target, database=database)

    def end_older_sessions(self, target: Target, run: Run) -> None:
        end_older(Address.of(target), run)

    def remove_leftovers(self, target: Target, is_dead: Callable[[str], bool]) -> list[str]:
        address = Address.of(target)
        gone = []
        with session(address, "flexdb", seconds=600) as opened:
            for name, what, job_id in databases.of_dead_jobs(opened, is_dead):
                databases.end_sessions_on(opened, name)
                if what == "old":
                    switch.settle(opened, job_id)
                else:
                    databases.drop(address, name, None)
                if not databases.exists(opened, name):
                    gone.append(name)
        return gone

    def check(self, target: Target, run: Run) -> CheckReport:
        return look.check(target, run, self._clients)

    def inspect(self, target: Target, run: Run) -> Inspection:
        return look.inspect(target, run)

    def refuse_options(self, options: BackupOptions) -> dict[str, str]:
        refused = {}
        for name in ("include", "exclude"):
            if any("\0" in pattern or not pattern for pattern in getattr(options, name)):
                refused[name] = "A pattern is not empty and holds no NUL character."
        if options.jobs > 1:
            refused["jobs"] = "The dump programs of MySQL and MariaDB work with one connection."
        if options.layout != "archive":
            refused["layout"] = "A dump of MySQL or MariaDB is one script."
        return refused

    def backup(self, target: Target, options: BackupOptions, out: ArtefactWriter, run: Run) -> Dump:
        return MySQLDump(target, options, out, run, self._clients).make()

    def databases(self, target: Target, run: Run) -> tuple[str, ...]:
        with session(Address.of(target), run.application_name, stop=run.stop) as opened:
            return tuple(look.databases(opened))

    def plan(self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run) -> tuple[ObjectCount, ...]:
        names = chosen(artefact, options.include)
        listed = artefact.manifest.objects
        return listed if names is None else tuple(item for item in listed if item.name in names)

    def restore(self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run) -> Restored:
        return MySQLRestore(artefact, target, options, run, self._clients).make()

    def drop(self, target: Target, run: Run) -> bool:
        return databases.drop(Address.of(target), target.database, run)

    def parse(self, artefact: Artefact, run: Run) -> tuple[Evidence, ...]:
        return verify.parse(artefact, run)

    def rehearse(
        self, artefact: Artefact, scratch: Target, run: Run, assertions: tuple[Assertion, ...] = ()
    ) -> tuple[Evidence, ...]:
        return verify.rehearse(artefact, scratch, run, self._clients, assertions)

    def preflight_backup(self, target: Target, options: BackupOptions, run: Run) -> tuple[Finding, ...]:
        return preflight.before_backup(target, options, run, self._clients)

    def preflight_restore(
        self, artefact: Artefact, target: Target, options: RestoreOptions, run: Run
    ) -> tuple[Finding, ...]:
        return preflight.before_restore(artefact, target, options, run, self._clients)

    def recognise(self, head: bytes) -> str | None:
        return adopt.recognise(head)

    def adopt(self, source: Source, format: str, out: ArtefactWriter, run: Run) -> Dump:
        return adopt.adopt(source, out, run)

    def refuse_table(self, table: Table) -> dict[str, str]:
        return refused(table)

    def open_table(self, target: Target, table: Table) -> RecordTable:
        return MySQLTable(target, table)
