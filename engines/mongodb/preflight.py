"""Looking, before a backup or a restore, at what would make it fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from engines.artefacts.reading import Artefact
from engines.base import BackupOptions, Finding, RestoreOptions, Target
from engines.errors import (
    AccessDenied,
    FlexError,
    Stopped,
    StorageFull,
    TargetMissing,
    TargetNotEmpty,
    TargetUnavailable,
)
from engines.mongodb import catalog
from engines.mongodb.address import Address
from engines.mongodb.connection import DENIED, Opened, opened
from engines.mongodb.metadata import Collection
from engines.mongodb.moment import of_snapshot
from engines.mongodb.restore import planned
from engines.mongodb.users import accounts
from engines.run import Run

READING_ROLES = frozenset({"read", "readAnyDatabase", "backup", "clusterMonitor"})
MOST_READ = 200
NEEDED = ("createCollection", "createIndex", "dropCollection", "find", "insert")


def before_backup(
    target: Target, options: BackupOptions, run: Run, free_bytes: Callable[[Path], int]
) -> tuple[Finding, ...]:
    found: list[Finding] = []

    def look(there: Opened) -> None:
        items = catalog.listed(there)
        catalog.refuse_missing(items, there)
        found.append(Finding("target", True, f"The database holds {len(items)} collection(s) and view(s)."))
        found.append(_patterns(items, options, there.address.database))
        found.append(_readable(there, items))
        if options.globals:
            found.append(_accounts(there))
        found.append(_consistency(there, items))
        if options.layout == "directory":
            found.append(_space(there, run, free_bytes))

    return _looked(target, run, found, look)


def before_restore(artefact: Artefact, target: Target, options: RestoreOptions, run: Run) -> tuple[Finding, ...]:
    found: list[Finding] = []

    def look(there: Opened) -> None:
        found.append(_writable(there))
        found.append(_version(there, artefact.manifest.server_version))
        found.append(_chosen(artefact, target, options))
        found.append(_privileges(there))
        found.append(_empty(there, options, run))

    return _looked(target, run, found, look)


def _looked(target: Target, run: Run, found: list[Finding], look: Callable[[Opened], None]) -> tuple[Finding, ...]:
    """What `look` finds; what keeps it from looking on is the last finding."""
    try:
        address = Address.of(target)
        address.user_database()
        with opened(address, run.application_name, stop=run.stop) as there:
            version = str(there.client.server_info()["version"])
            found.append(Finding("reachable", True, f"MongoDB {version} at {address.shown} answers."))
            found.append(Finding("client", True, f"The driver pymongo {pymongo.version} does the work."))
            look(there)
    except Stopped:
        raise
    except FlexError as error:
        check = {TargetMissing: "target", AccessDenied: "privileges"}.get(type(error), "reachable")
        found.append(_problem(check, error))
    return tuple(found)


def _problem(check: str, error: FlexError) -> Finding:
    return Finding(check, False, error.message, error.hint, error)


def _patterns(items: list[Collection], options: BackupOptions, database: str) -> Finding:
    try:
        chosen = catalog.choose(items, options, database)
    except FlexError as error:
        return _problem("patterns", error)
    return Finding("patterns", True, f"{len(chosen)} of {len(items)} collection(s) and view(s) are meant.")


def _readable(there: Opened, items: list[Collection]) -> Finding:
    """By reading one document of each: the surest way to know, and cheap."""
    for item in [item for item in items if item.data_in][:MOST_READ]:
        try:
            there.database.command({"find": item.data_in, "limit": 1, "batchSize": 1})
        except OperationFailure as error:
            if error.code not in DENIED:
                continue  # the backup will tell, if it is still so
            denied = AccessDenied(
                f"The connection's user may not read {item.data_in!r}.", hint="Grant the role `read` or `backup`."
            )
            return _problem("privileges", denied)
    return Finding("privileges", True, "Every collection may be read.")


def _accounts(there: Opened) -> Finding:
    try:
        accounts(there)
    except FlexError as error:
        return _problem("privileges", error)
    return Finding("privileges", True, "Users and roles may be read.")


def _consistency(there: Opened, items: list[Collection]) -> Finding:
    moment = of_snapshot(there, items)
    hint = "" if moment.at else "Back up from a replica set of 5.0 or later, or hold writers off meanwhile."
    return Finding("consistency", moment.at is not None, moment.sentence, hint)


def _space(there: Opened, run: Run, free_bytes: Callable[[Path], int]) -> Finding:
    needed = int(there.database.command("dbStats").get("dataSize", 0))
    free = free_bytes(run.workspace)
    if free < needed:
        text = f"The layout `directory` stages {needed} bytes; the work folder has {free} free."
        return _problem("space", StorageFull(text, hint="Free space in FLEXDB_HOME, or use the layout `archive`."))
    return Finding("space", True, f"{free} bytes are free in the work folder, {needed} are staged there.")


def _writable(there: Opened) -> Finding:
    hello = there.client.admin.command("hello")
    if hello.get("isWritablePrimary", True) and not hello.get("readOnly", False):
        return Finding("writable", True, "The server takes writes.")
    error = TargetUnavailable(
        "The server that answers takes no writes: it is a secondary, or read-only.",
        hint="Let the URL name the whole replica set, without directConnection.",
    )
    return _problem("writable", error)


def major(version: str) -> tuple[int, int] | None:
    """The release series: 8.0 and 8.2 differ as 7.0 and 8.0 do."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else None


def _version(there: Opened, dumped: str) -> Finding:
    here = str(there.client.server_info()["version"])
    source, target = major(dumped), major(here)
    text = f"The backup is of MongoDB {dumped}, the target is {here}."
    if source is None or target is None or source <= target:
        return Finding("version", True, text)
    hint = (
        "It often works; options and indexes that the older server does not know make it fail, leaving all as it was."
    )
    return Finding("version", False, f"{text} Restoring into an older version is not supported by MongoDB.", hint)


def _chosen(artefact: Artefact, target: Target, options: RestoreOptions) -> Finding:
    try:
        objects = planned(artefact, target, options)
    except FlexError as error:
        return _problem("patterns", error)
    return Finding("patterns", True, f"{len(objects)} collection(s) and view(s) of the backup are meant.")


def _privileges(there: Opened) -> Finding:
    try:
        told = there.client.admin.command("connectionStatus", showPrivileges=True)["authInfo"]
    except (PyMongoError, KeyError):
        return Finding("privileges", True, "The server does not say what the user may do.")
    if not told.get("authenticatedUsers"):
        return Finding("privileges", True, "The server asks for no login.")
    listed = told.get("authenticatedUserPrivileges") or []
    allowed = {action for item in listed if _covers(item, there.address.database) for action in item.get("actions", ())}
    missing = [action for action in NEEDED if action not in allowed]
    roles = {str(role.get("role")) for role in told.get("authenticatedUserRoles") or []}
    reads_only = bool(roles) and roles <= READING_ROLES  # for servers that list no privileges
    if not missing or "anyAction" in allowed or not (listed or reads_only):
        return Finding("privileges", True, "The user may write to the target database.")
    text = f"The user lacks privileges on the target database: {', '.join(missing)}."
    return _problem("privileges", AccessDenied(text, hint="Grant the roles readWrite and dbAdmin, or `restore`."))


def _covers(item: dict[str, Any], database: str) -> bool:
    resource = item.get("resource", {})
    if resource.get("anyResource"):
        return True
    return resource.get("db") in {"", database} and resource.get("collection", None) == ""


def _empty(there: Opened, options: RestoreOptions, run: Run) -> Finding:
    names = sorted(str(item["name"]) for item in catalog.everything(there))
    if not names:
        return Finding("target", True, "The database is absent or empty.")
    if options.mode == "create" and run.attempt == 1:
        error = TargetNotEmpty(
            f"Database {there.address.database!r} is not empty: it holds {names[0]!r}"
            + (" and more." if len(names) > 1 else "."),
            details={"objects": names[:10]},
        )
        return _problem("target", error)
    return Finding("target", True, f"The database holds {len(names)} collection(s) and view(s).")
