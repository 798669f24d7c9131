"""`flexdb adopt`: upload a dump made by hand, have it adopted, end like its job."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.cli.client import ServiceClient, with_service
from service.cli.exits import CommandError, Exit, Refused
from service.cli.output import note, write_json
from service.cli.packing import file_parcel, folder_parcel
from service.cli.sending import Submission, interruptible, show_accepted, wait_and_show
from service.cli.uploading import name_of, upload


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
        uploaded = await upload(service, parcel, path, data.get("storage"), replace=replace)
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


def _tell_what_stays(name: str) -> None:
    note(f"The upload {name} stays where it is: adopt it with `flexdb send adoption connection=NAME path={name}`.")
