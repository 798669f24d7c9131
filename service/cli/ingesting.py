"""`flexdb ingest` and `flexdb rejected`: records from a source or a file into a collection."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.exits import CommandError, Exit, Refused
from service.cli.options import EventId, Json, Timeout, Wait

if TYPE_CHECKING:
    from service.cli.client import ServiceClient

COLUMNS = ("page", "position", "reasons", "record")


def ingest(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="Where the records go.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Further data: source.records=/items source.paginator=cursor"),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="A URL, or the name of a feed; default the collection's own.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Send this file: CSV, NDJSON or JSON, as its name says.")
    ] = None,
    commit: Annotated[
        str | None, typer.Option("--commit", help="page: as pages come (the default); run: all or nothing.")
    ] = None,
    max_rejected: Annotated[
        int | None, typer.Option("--max-rejected", min=0, help="More rejected records than these fail the job.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Begin an incremental source at its start again.")] = False,
    event_id: EventId = None,
    wait: Wait = True,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Take records in from a source or a file, by key: what is new, what has changed.

    Exit codes as for send. `flexdb rejected JOB` lists records that were not taken.
    """
    from service.cli.arguments import parse_fields
    from service.cli.client import with_service
    from service.cli.output import write_json
    from service.cli.sending import Submission, interruptible, show_accepted, wait_and_show

    given = {"commit": commit, "max_rejected": max_rejected, "full": full or None}
    data: dict[str, Any] = {"collection": collection} | _source(source, file)
    data |= {name: value for name, value in given.items() if value is not None}
    submission = Submission("ingest", parse_fields(words or [], data), event_id)

    async def work(service: ServiceClient) -> Exit:
        name = await _send_file(service, submission.event_id, file) if file else None
        if name is not None:
            submission.data["source"] = {**submission.data.get("source", {}), "upload": name}
        try:
            accepted = await submission.submit(service)
        except Refused:
            await _remove(service, name)
            raise
        if not wait:
            write_json(accepted) if as_json else show_accepted(accepted)
            return Exit.COMPLETED
        code = await wait_and_show(service, accepted, timeout, as_json, told=_tell_rejected)
        if code is Exit.COMPLETED:  # this event's job may have been over before; a failed one's file stays, for a retry
            await _remove(service, name)
        return code

    raise typer.Exit(interruptible(lambda: with_service(work), submission))


def _source(source: str | None, file: Path | None) -> dict[str, Any]:
    if source is not None and file is not None:
        raise CommandError("Give --source or --file, not both.")
    if source is None:
        return {}
    return {"source": {"url": source} if "://" in source else {"feed": source}}


async def _send_file(service: ServiceClient, event_id: str, file: Path) -> str:
    """Upload it under a name that the same event gives it again."""
    from handlers.incoming import READ_ONCE
    from service.cli.packing import file_parcel
    from service.cli.uploading import LONGEST_NAME, name_of, upload

    mark = hashlib.sha256(event_id.encode()).hexdigest()[:16]
    begun = f"{READ_ONCE}{mark}-"  # the service removes it when all of it is taken in
    name = begun + name_of(file)[-(LONGEST_NAME - len(begun)) :]
    await upload(service, file_parcel(file), name, None, replace=True)
    return name


async def _remove(service: ServiceClient, name: str | None) -> None:
    from service.cli.client import segment
    from service.cli.output import note

    if name is None:
        return
    try:
        await service.call("DELETE", f"/incoming/{segment(name)}")
    except Refused as error:
        if error.problem.get("code") == "incoming_not_found":
            return
        note(f"The uploaded file {name} stays there: {error.message}")


def _tell_rejected(event: dict[str, Any]) -> None:
    from service.cli.output import note

    data = event["data"]
    if data.get("rejected"):
        note(f"{data['rejected']} records were not taken in: flexdb rejected {data['job_id']}")


def rejected(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="Id of the ingest's job.")],
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many at most.")] = 50,
    as_json: Json = False,
) -> None:
    """The records an ingest did not take in, with the reasons, in the order of the source."""
    from service.cli.client import segment, with_service
    from service.cli.output import write_json, write_table

    found = with_service(lambda service: service.pages(f"/jobs/{segment(job_id)}/rejected", limit, {}))
    if as_json:
        write_json(found)
        return
    rows = [[item["page"], item["position"], _reasons(item["reasons"]), item["record"]] for item in found]
    write_table(COLUMNS, rows, title="rejected")


def _reasons(reasons: list[dict[str, str]]) -> str:
    return "; ".join(f"{each.get('pointer', '')}: {each.get('detail', '')}".removeprefix(": ") for each in reasons)
