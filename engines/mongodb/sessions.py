"""What earlier attempts left on a server: operations still running, databases and collections half made."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from pymongo.errors import OperationFailure

from engines.errors import TargetBusy, TargetNotEmpty
from engines.mongodb import switching
from engines.mongodb.address import OWN, SYSTEM, Address
from engines.mongodb.connection import Opened, opened
from engines.run import Run

SEEN_GONE_SECONDS = 15.0


def end_older(address: Address, run: Run) -> None:
    """Kill operations of earlier attempts of this job and see them gone; `TargetBusy` when they stay.

    Where the user may not look at operations there is nothing to be done: the names of what attempts make differ.
    """
    with opened(address, run.application_name, stop=run.stop) as found:
        deadline = time.monotonic() + SEEN_GONE_SECONDS
        while older := _older(found, run):
            for number in older:
                with suppress(OperationFailure):  # not allowed, or gone already: seen in the next round
                    found.client.admin.command("killOp", op=number)
            if time.monotonic() > deadline:
                raise TargetBusy(f"{len(older)} operation(s) of an earlier attempt are still running.")
            run.stop.check()
            threading.Event().wait(0.1)


def _older(found: Opened, run: Run) -> list[Any]:
    for everybody in (True, False):  # one's own may be seen without a privilege
        try:
            listed = list(found.client.admin.aggregate([{"$currentOp": {"allUsers": everybody}}]))
        except OperationFailure:
            continue
        return [item["opid"] for item in listed if _is_older(item, run)]
    return []


def _is_older(item: dict[str, Any], run: Run) -> bool:
    name = str(item.get("appName", ""))
    head, _, token = name.rpartition("/")
    return (
        bool(item.get("active"))
        and "opid" in item
        and head == f"flexdb/{run.job_id}"
        and token.isdigit()
        and int(token) < run.token
    )


def drop(address: Address, database: str, run: Run) -> bool:
    with opened(address, run.application_name, stop=run.stop) as found:
        there = bool(found.on(database).list_collection_names())
        found.client.drop_database(database)
    return there


def drop_quietly(address: Address, database: str) -> None:
    """After work has ended in whatever way; not held up by its stop."""
    with opened(address, "flexdb") as found:
        found.client.drop_database(database)


def sweep(address: Address, is_dead: Callable[[str], bool]) -> list[str]:
    """Databases and collections of dead jobs go; a switch that was begun is finished instead."""
    gone: list[str] = []
    with opened(address, "flexdb") as found:
        for name in _databases(found, address):
            match = OWN.match(name)
            if match is None:
                gone += _sweep_within(found, name, is_dead)
            elif is_dead(match[2]):
                found.client.drop_database(name)
                gone.append(name)
    return gone


def _databases(found: Opened, address: Address) -> list[str]:
    try:
        names = set(found.client.list_database_names())
    except OperationFailure:  # not allowed: what can be reached is the target itself
        names = {address.database}
    return sorted(names - SYSTEM - {""})


def _sweep_within(found: Opened, name: str, is_dead: Callable[[str], bool]) -> Iterator[str]:
    there = Opened(found.client, found.address.with_database(name), found.sessions)
    try:
        items = [item for item in switching.own(there.database) if is_dead(item.job_id)]
    except OperationFailure:  # a database whose collections one may not list
        return
    begun = {item.job_id for item in items if item.token is None}
    for job_id in sorted(begun):
        try:
            switching.finish(there, job_id)
        except OperationFailure:  # refused again: what was loaded is the only copy of it, and stays
            items = [item for item in items if item.job_id != job_id]
        except TargetNotEmpty:  # undone
            continue
    left = {item.name for item in switching.own(there.database)}
    for item in items:
        if item.name in left:
            there.database.drop_collection(item.name)
        yield f"{name}.{item.name}"


def user_databases(address: Address, run: Run) -> tuple[str, ...]:
    with opened(address, run.application_name, stop=run.stop) as found:
        names = found.client.list_database_names()
    return tuple(sorted(name for name in names if name not in SYSTEM and not OWN.match(name)))
