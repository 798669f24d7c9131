"""Backups by HTTP: the catalogue, one backup with its manifest, its stored file."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any, BinaryIO

from aiohttp import web

from engines.artefacts.manifest import ANY_EXTENT, StoredFile
from engines.errors import ArtefactDamaged, ObjectMissing, UnknownBackup
from engines.storage.base import Store
from handlers.base import Fault
from handlers.ports import CatalogueEntry
from service.http.keys import PARTS
from service.http.paging import page_response, wished_limit
from service.http.problems import BEGUN
from service.http.query import flag
from service.intake import Refused
from service.ledger.records import BackupFilter

CHUNK = 1 << 20
HIGHEST_LEVEL = 3


def shown(entry: CatalogueEntry) -> dict[str, Any]:
    """The summary every list shows."""
    manifest = entry.manifest
    return {
        "backup_id": manifest.backup_id,
        "connection": manifest.connection,
        "engine": manifest.engine,
        "database": manifest.database,
        "job_id": manifest.job_id,
        "event_id": manifest.event_id,
        "created_at": manifest.ended_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "seconds": manifest.seconds,
        "bytes": manifest.bytes,
        "sha256": manifest.sha256,
        "level": entry.level,
        "whole": manifest.whole,
        "damaged": entry.damaged,
        "listed": entry.listed,
        "labels": manifest.labels,
        "storage": entry.store,
        "objects_total": len(manifest.objects),
        "links": {
            "self": f"/backups/{manifest.backup_id}",
            "download": f"/backups/{manifest.backup_id}/download",
        },
    }


async def _entry(request: web.Request) -> CatalogueEntry:
    entry = await request.app[PARTS].ledger.backup(request.match_info["id"])
    if entry is None:
        raise UnknownBackup("There is no such backup.")
    return entry


async def list_backups(request: web.Request) -> web.Response:
    """GET /backups: newest first, filtered by connection, label=name:value, min_level and whole."""
    query = request.query
    labels = {}
    for text in query.getall("label", ()):
        name, colon, value = text.partition(":")
        if not colon:
            raise Refused(422, "invalid_request", "A label is NAME:VALUE.", (Fault("/label", "This is NAME:VALUE."),))
        labels[name] = value
    level = query.get("min_level", "0")
    if level not in {str(number) for number in range(HIGHEST_LEVEL + 1)}:
        raise Refused(422, "invalid_request", "min_level is 0 to 3.", (Fault("/min_level", "This is 0 to 3."),))
    whole = (flag(request, "whole"),) if "whole" in query else ANY_EXTENT
    page = await request.app[PARTS].ledger.backups(
        BackupFilter(query.get("connection"), labels, int(level), whole),
        cursor=query.get("cursor") or None,
        limit=wished_limit(query),
    )
    return page_response(request, page, shown)


async def show_backup(request: web.Request) -> web.Response:
    """GET /backups/{id}: the summary and the manifest."""
    entry = await _entry(request)
    return web.json_response(shown(entry) | {"manifest": entry.manifest.model_dump(mode="json")})


async def download_backup(request: web.Request) -> web.StreamResponse:
    """GET /backups/{id}/download: one stored file as it is; `file` names it when there are several."""
    entry = await _entry(request)
    file = _wanted_file(entry, request.query.get("file"))
    store = request.app[PARTS].stores.store(entry.store)
    source = await asyncio.to_thread(_open, store, f"{entry.folder}/{file.name}", file)
    try:
        return await _stream(request, source, file)
    finally:
        await asyncio.to_thread(source.close)


def _open(store: Store, key: str, file: StoredFile) -> BinaryIO:
    """Raises `ObjectMissing`, or `ArtefactDamaged` when the length alone shows that it is not what was written."""
    found = store.size(key)
    if found != file.bytes:
        raise ArtefactDamaged(f"The stored file has {found} bytes; {file.bytes} were written.")
    return store.open(key)


def _wanted_file(entry: CatalogueEntry, name: str | None) -> StoredFile:
    files = entry.manifest.files
    found = files[0] if name is None else next((file for file in files if file.name == name), None)
    if found is None:
        known = ", ".join(file.name for file in files)
        raise ObjectMissing(f"This backup has no file {name!r}; it has: {known}.")
    return found


async def _stream(request: web.Request, source: BinaryIO, file: StoredFile) -> web.StreamResponse:
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", file.name)
    response = web.StreamResponse(
        headers={
            "Content-Type": "application/octet-stream",
            "Content-Length": str(file.bytes),
            "Content-Disposition": f'attachment; filename="{safe}"',
            "ETag": f'"{file.sha256}"',
            "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:",  # RFC 9530
        }
    )
    chunk = await asyncio.to_thread(source.read, CHUNK)  # before the status line: a store that fails gives a problem
    await response.prepare(request)
    request[BEGUN] = response
    sent = 0
    while chunk and request.method != "HEAD":
        await response.write(chunk)
        sent += len(chunk)
        chunk = await asyncio.to_thread(source.read, CHUNK)
    if sent != file.bytes and request.method != "HEAD":
        raise ArtefactDamaged("The stored file changed while it was sent.")
    await response.write_eof()
    return response
