"""Collections by HTTP: declared, shown, forgotten; their tables are made or checked meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from aiohttp import web

from engines.errors import FlexError
from engines.records.base import Prepared
from handlers.base import Fault
from handlers.collections import Collection, InvalidCollection, parse_collection
from service.bodies import parse
from service.collections import Declared, refusals
from service.http.bodies import read, unpacked
from service.http.keys import PARTS, RecordParts, records_of
from service.http.query import flag
from service.intake import Refused
from service.jobs import iso

MOST_TOLD = 100


def shown(found: Declared) -> dict[str, Any]:
    """A collection with everything that its declaration leaves to be understood."""
    collection = found.collection
    understood = {
        "name": collection.name,
        "origin": found.origin,
        "connection": collection.connection,
        "table": collection.table.name,
        "key": collection.table.key,
        "schema": collection.schema,
        "source": collection.source,
    }
    return {
        **understood,
        **{name: value for name, value in found.document.items() if name not in understood},
        "created_at": iso(found.created_at),
        "updated_at": iso(found.updated_at),
        "links": {"self": f"/collections/{collection.name}", "records": f"/api/{collection.name}"},
    }


async def list_collections(request: web.Request) -> web.Response:
    """GET /collections: by name."""
    collections = records_of(request).collections
    await collections.load()
    found = [collections.declared(name) for name in collections.names()]
    return web.json_response({"data": [shown(one) for one in found], "next_cursor": None})


async def show_collection(request: web.Request) -> web.Response:
    """GET /collections/{name}."""
    found = await records_of(request).collections.found(request.match_info["name"])
    return web.json_response(shown(found))


async def put_collection(request: web.Request) -> web.Response:
    """PUT /collections/{name}: 201 when callers had declared none of that name, 200 when it replaces one.

    The table is made or checked first; when that fails nothing is declared.
    """
    records, name, only_look = records_of(request), request.match_info["name"], flag(request, "dry_run")
    _refuse_fixed(records, name)
    document = parse(unpacked(request, await read(request)))
    collection = _checked(request, name, document)
    work = partial(records.tables.prepare, collection, change=not only_look)
    done = await asyncio.get_running_loop().run_in_executor(records.threads, work)
    if only_look:
        answer = shown(Declared(collection, document, "caller"))
        return web.json_response(answer | {"prepared": _told(done), "dry_run": True})
    new = await records.collections.put(name, document)
    answer = shown(records.collections.declared(name)) | {"prepared": _told(done)}
    headers = {"Location": f"/collections/{name}"} if new else None
    return web.json_response(answer, status=201 if new else 200, headers=headers)


async def delete_collection(request: web.Request) -> web.Response:
    """DELETE /collections/{name}: its table and records stay; a ready one of that name counts again."""
    collections, name = records_of(request).collections, request.match_info["name"]
    _refuse_fixed(records_of(request), name)
    if not await collections.delete(name):
        if (await collections.found(name)).origin == "ready":
            raise _fixed(f"The collection {name!r} comes with FlexDB; PUT declares another in its place.")
        collections.declared(name)
    return web.Response(status=204)


def _told(done: Prepared) -> dict[str, Any]:
    return {"created": done.created, "added": list(done.added), "notes": list(done.notes)}


def _refuse_fixed(records: RecordParts, name: str) -> None:
    if records.collections.is_fixed(name):
        raise _fixed(f"A file of FLEXDB_COLLECTIONS declares the collection {name!r}; change that and restart.")


def _fixed(detail: str) -> Refused:
    return Refused(409, "collection_fixed", detail)


def _checked(request: web.Request, name: str, document: Any) -> Collection:
    """Raises `Refused` (422) for what cannot be a collection here."""
    if not isinstance(document, Mapping):
        raise _invalid([Fault("", "A collection is a JSON object.")])
    parts = request.app[PARTS]
    try:
        collection = parse_collection(name, document)
        faults = refusals(collection, parts.connections, parts.engines)
    except InvalidCollection as error:
        raise _invalid(error.faults) from None
    except FlexError as error:
        raise _invalid([Fault("/connection", f"{error.message} {error.hint}")]) from error
    if faults:
        raise _invalid(faults)
    return collection


def _invalid(faults: Sequence[Fault]) -> Refused:
    return Refused(
        422, "invalid_request", f"The collection is not valid: {faults[0].detail}", tuple(faults[:MOST_TOLD])
    )
