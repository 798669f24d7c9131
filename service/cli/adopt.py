"""`flexdb adopt`: upload a dump made by hand, have it adopted, end like its job."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.cli.client import ServiceClient, segment, with_service
from service.cli.exits import CommandError, Exit, NotReachable, Refused
from service.cli.output import note, size, write_json
from service.cli.packing import Parcel, file_parcel, folder_parcel
from service.cli.progress import watching
from service.cli.sending import Submission, interruptible, show_accepted, wait_and_show

LONGEST_NAME = 150


def adopt_and_wait(
    dump: Path,
    data: dict[str, Any],
    *,
    name: str | None = None,
    replace: bool = False,
    event_id: str | None = None,
    wait: bool = True,
    seconds: float | None = None,
    as_json: bool = False,
) -> Exit:
    """Upload, send the event with `data`, wait when asked to, print; the exit code the command ends with.

    A folder goes as a tar stream. Raises `CommandError` for what cannot be read or uploaded.
    """
    parcel = folder_parcel(dump) if dump.is_dir() else file_parcel(dump)
    path = name or name_of(dump)
    made_at = datetime.fromtimestamp(changed_at(dump), UTC).isoformat(timespec="seconds")
    submission = Submission("adoption", data | {"path": path, "made_at": made_at}, event_id)

    async def work(service: ServiceClient) -> Exit:
        uploaded = await _upload(service, parcel, path, data.get("storage"), replace=replace)
        submission.data["sha256"] = uploaded["sha256"]
        try:
            accepted = await submission.submit(service)
        except Refused:
            _tell_what_stays(path)
            raise
        if not wait:
            write_json(accepted) if as_json else show_accepted(accepted)
            return Exit.COMPLETED
        code = await wait_and_show(service, accepted, seconds, as_json)
        if code in (Exit.FAILED, Exit.CANCELED):
            _tell_what_stays(path)
        return code

    return interruptible(lambda: with_service(work), submission)


def name_of(dump: Path) -> str:
    """What the upload of that file or folder is called, as the service allows it."""
    name = dump.resolve().name + (".tar" if dump.is_dir() else "")
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("._-")[:LONGEST_NAME] or "dump"


def changed_at(dump: Path) -> float:
    """When the file, or the newest file in the folder, was written last: seconds since the epoch."""
    files = [path for path in dump.rglob("*") if path.is_file()] if dump.is_dir() else [dump]
    return max((path.stat().st_mtime for path in files), default=dump.stat().st_mtime)


def labels_of(words: Sequence[str]) -> dict[str, str]:
    """`k=v` words. Raises `CommandError` for one without `=`."""
    pairs = [word.partition("=") for word in words]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise CommandError(f"{name!r} is not a label.", "Write --label name=value.")
    return {name: value for name, _, value in pairs}


async def _upload(
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


def _tell_what_stays(name: str) -> None:
    note(f"The upload {name} stays where it is: adopt it with `flexdb send adoption connection=NAME path={name}`.")
