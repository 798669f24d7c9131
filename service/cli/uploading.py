"""Uploads: a parcel sent to the service's folder of incoming files, and what arrived compared with what was sent."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from service.cli.client import ServiceClient, segment
from service.cli.exits import CommandError, NotReachable, Refused
from service.cli.output import note, size
from service.cli.packing import Parcel
from service.cli.progress import watching

LONGEST_NAME = 150


def name_of(dump: Path) -> str:
    """What the upload of that file or folder is called, as the service allows it."""
    name = dump.resolve().name + (".tar" if dump.is_dir() else "")
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._-")[:LONGEST_NAME] or "dump"


async def upload(
    service: ServiceClient, parcel: Parcel, name: str, storage: str | None, *, replace: bool
) -> dict[str, Any]:
    """What the service says of the upload, which is what was sent. Raises `CommandError` when it is not."""
    params = {"storage": storage, "replace": "true" if replace else None}
    with watching(f"upload of {name}") as watcher:
        sending = _Sending(parcel, watcher.job)
        try:
            answer = await service.upload(f"/incoming/{segment(name)}", sending.chunks(), parcel.length, params)
        except Refused as error:
            if error.problem.get("code") == "incoming_exists":
                error.hint = "Choose another name with --name, or put this one in its place with --replace."
            raise
        except NotReachable as error:
            raise sending.failed or error from error
    told: dict[str, Any] = answer.body
    sent = sending.digest.hexdigest()
    if (told["bytes"], told["sha256"]) != (parcel.length, sent):
        await service.call("DELETE", f"/incoming/{segment(name)}", params={"storage": storage})
        raise CommandError(
            f"What arrived of {name} is not what was sent: {told['bytes']} bytes of SHA-256 {told['sha256']} "
            f"instead of {parcel.length} of {sent}. It was removed there.",
            "Try again; something on the way changes what passes.",
        )
    note(f"{name}: {size(parcel.length)} uploaded, SHA-256 {sent}")
    return told


class _Sending:
    """A parcel's blocks on their way, hashed and counted."""

    def __init__(self, parcel: Parcel, tell: Callable[[dict[str, Any]], None]) -> None:
        self.digest = hashlib.sha256()
        self.failed: CommandError | None = None
        """Why no further block could be read."""
        self._parcel, self._tell = parcel, tell
        self._blocks = parcel.blocks()

    async def chunks(self) -> AsyncIterator[bytes]:
        done, began = 0, time.monotonic()
        while block := await asyncio.to_thread(self._next):
            yield block
            done += len(block)
            self._tell(_progress(done, self._parcel.length, done / max(time.monotonic() - began, 0.001)))

    def _next(self) -> bytes:
        """The next block, empty when none is left."""
        try:
            block = next(self._blocks, b"")
        except CommandError as error:
            self.failed = error
            raise
        self.digest.update(block)
        return block


def _progress(done: int, total: int, rate: float) -> dict[str, Any]:
    """As a job that runs tells it."""
    told = {
        "stage": "uploading",
        "done": done,
        "total": total,
        "unit": "bytes",
        "rate": rate,
        "eta_seconds": (total - done) / rate,
    }
    return {"status": "running", "progress": told}
