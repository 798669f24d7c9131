"""Looking, before a backup or a restore, for what it would fail of; nothing is touched."""

from __future__ import annotations

from collections.abc import Callable

from engines.artefacts.reading import Artefact
from engines.base import BackupOptions, Finding, RestoreOptions, Target
from engines.errors import AccessDenied, FlexError, Stopped, TargetMissing
from engines.mysql import catalog, databases, privileges
from engines.mysql.address import Address
from engines.mysql.catalog import Server
from engines.mysql.clients import Clients, Release
from engines.mysql.dump import choose, consistency
from engines.mysql.load import refuse_rows_only
from engines.mysql.restore import chosen, refuse_long_rows, refuse_objects
from engines.mysql.session import Session, session
from engines.run import Run

READ = ("SELECT",)
SEEN_ONLY_WITH = ("SHOW VIEW", "TRIGGER", "EVENT")
"""Without them the dump program fails, or, for triggers, leaves out what it does not see."""
BUILDS = ("CREATE", "DROP", "INSERT", "ALTER", "SELECT")


def before_backup(target: Target, options: BackupOptions, run: Run, clients: Clients) -> tuple[Finding, ...]:
    found: list[Finding] = []
    address = Address.of(target)

    def look(opened: Session) -> None:
        server = catalog.server(opened, address.database)
        found.append(_reachable(server))
        if not databases.exists(opened, address.database):
            problem = TargetMissing(f"Database {address.database!r} does not exist, or this user may not see it.")
            found.append(_failed("target", problem))
            return
        tables = catalog.tables(opened, address.database)
        found.append(_tried("client", lambda: f"{clients.dumper(server.release).path} fits the server."))
        found.append(_reading(opened, address.database))
        found.append(_tried("patterns", lambda: f"{len(choose(tables, options, address.database))} tables and views."))
        outside = [item.name for item in tables if not item.transactional]
        hint = "Convert those tables to InnoDB, or let nobody write while the backup runs."
        found.append(Finding("consistency", not outside, consistency(tables), hint if outside else ""))

    return _looked(found, address, run, look)


def before_restore(
    artefact: Artefact, target: Target, options: RestoreOptions, run: Run, clients: Clients
) -> tuple[Finding, ...]:
    found: list[Finding] = []
    address = Address.of(target)

    def look(opened: Session) -> None:
        server = catalog.server(opened, address.database)
        found.append(_reachable(server))
        found.append(_tried("client", lambda: f"{clients.shell(server.release).path} fits the server."))
        found.append(_version(artefact, server))
        found.append(_building(opened, run))
        found.append(_tried("patterns", lambda: _planned(artefact, options)))
        found.append(_tried("rows", lambda: _takes_rows(artefact, server)))
        found.append(_tried("target", lambda: _place(opened, address.database, options.mode)))

    return _looked(found, address, run, look)


def _looked(found: list[Finding], address: Address, run: Run, look: Callable[[Session], None]) -> tuple[Finding, ...]:
    """One session for everything; what fails in it is the last finding."""
    try:
        with session(address, run.application_name, seconds=30, stop=run.stop) as opened:
            look(opened)
    except Stopped:
        raise
    except FlexError as error:
        found.append(_failed("reachable", error))
    return tuple(found)


def _failed(check: str, problem: FlexError) -> Finding:
    return Finding(check, False, problem.message, problem.hint, problem)


def _tried(check: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(check, True, attempt())
    except Stopped:
        raise
    except FlexError as error:
        return _failed(check, error)


def _reachable(server: Server) -> Finding:
    return Finding("reachable", True, f"{server.release} answers ({server.version}).")


def _reading(opened: Session, database: str) -> Finding:
    """A grant may hide in a role or cover single tables: what seems to be missing is a warning, the dump decides."""
    lacking = privileges.missing(opened, database, (*READ, *SEEN_ONLY_WITH))
    if not lacking:
        return Finding("privileges", True, "The user may read tables, views, triggers and events.")
    return Finding(
        "privileges",
        False,
        f"Not granted on the whole database: {', '.join(lacking)}. What the user does not see is in no backup.",
        "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT on the database to the user.",
    )


def _building(opened: Session, run: Run) -> Finding:
    name = databases.new_name(run.job_id)
    lacking = privileges.missing(opened, name, BUILDS)
    if not lacking:
        return Finding("privileges", True, "The user may make the database that is built beside the target.")
    problem = AccessDenied(
        f"A restore builds beside the target; on {name!r} this user lacks {', '.join(lacking)}.",
        hint="GRANT ALL PRIVILEGES ON `flexdb\\_%`.* TO the user.",
    )
    return Finding("privileges", False, problem.message, problem.hint)


def _version(artefact: Artefact, server: Server) -> Finding:
    """Scripts restore into newer servers; into older ones or another make they may not."""
    made = Release.read(artefact.manifest.server_version)
    same = made.mariadb == server.release.mariadb and made.number <= server.release.number
    detail = f"The backup is of {made}, the target is {server.release}."
    hint = "" if same else "Definitions may hold what that server does not know; level 3 on it shows whether they do."
    return Finding("version", same, detail, hint)


def _planned(artefact: Artefact, options: RestoreOptions) -> str:
    refuse_rows_only(artefact)
    names = chosen(artefact, options.include)
    return "The whole backup." if names is None else f"{len(names)} tables and views."


def _takes_rows(artefact: Artefact, server: Server) -> str:
    refuse_long_rows(artefact, server)
    return f"The server takes statements of {server.max_packet} bytes, enough for the longest row."


def _place(opened: Session, database: str, mode: str) -> str:
    if not databases.exists(opened, database):
        return f"Database {database!r} does not exist and will be made."
    if mode == "create":
        refuse_objects(opened, database)
        return f"Database {database!r} is there and empty."
    return f"Database {database!r} is there and will be replaced."
