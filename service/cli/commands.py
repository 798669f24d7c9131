"""Every command of `flexdb`, by name; what each does lies in a module of its family."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli import (
    backups,
    calculating,
    collections,
    dead,
    deliveries,
    ingesting,
    jobs,
    records,
    schedules,
    subscriptions,
)
from service.cli.exits import CommandError, Exit
from service.cli.n8n import commands as n8n
from service.cli.options import EventId, Json, Timeout, Wait
from service.cli.output import write_error

app = typer.Typer(
    name="flexdb",
    help="Database work on request: backups that are proven before they are called completed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(jobs.app, name="jobs")
app.add_typer(backups.app, name="backups")
app.add_typer(deliveries.app, name="deliveries")
app.add_typer(subscriptions.app, name="subscriptions")
app.add_typer(schedules.app, name="schedules")
app.add_typer(dead.app, name="dead")
app.add_typer(collections.app, name="collections")
app.add_typer(n8n.app, name="n8n")


def run(arguments: list[str] | None = None) -> None:
    """Run one command and end the process with its exit code."""
    try:
        app(arguments)
    except CommandError as error:
        write_error(error)
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.COMPLETED)


@app.command()
def serve(
    role: Annotated[str | None, typer.Option(help="all, intake, worker or relay.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = None,
) -> None:
    """Run the service until SIGTERM or Ctrl-C; running jobs may finish first."""
    from service.app import serve as serve_until_stopped
    from service.cli.client import load_settings

    raise typer.Exit(serve_until_stopped(load_settings(role=role, host=host, port=port)))


@app.command()
def send(
    operation: Annotated[str, typer.Argument(help="backup, restore, verification, inspection, check …")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Data of the event. JSON where it is JSON; dots nest: latest.connection=shop",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="A file with the data as a JSON object, - for standard input."),
    ] = None,
    event_id: EventId = None,
    wait: Wait = True,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Send an event, wait for its job, end like it.

    Exit codes: 0 completed, 1 failed, 2 refused, 3 canceled, 4 still running.
    """
    from service.cli.arguments import parse_fields, read_data
    from service.cli.sending import send_and_wait

    fields = parse_fields(words or [], read_data(data))
    raise typer.Exit(send_and_wait(operation, fields, event_id=event_id, wait=wait, seconds=timeout, as_json=as_json))


@app.command()
def restore(
    to: Annotated[str, typer.Option("--to", help="Connection to restore into.")],
    backup_id: Annotated[str | None, typer.Argument(help="The backup; or use --latest.")] = None,
    latest: Annotated[
        str | None,
        typer.Option("--latest", help="The newest undamaged backup of this connection; parts of it are passed over."),
    ] = None,
    into: Annotated[
        str | None, typer.Option("--into", help="Another database there (SQLite: a file beside it).")
    ] = None,
    mode: Annotated[
        str, typer.Option("--mode", help="plan only lists, create wants an empty target, replace switches.")
    ] = "create",
    include: Annotated[list[str] | None, typer.Option("--include", help="Only these objects; may be repeated.")] = None,
    database: Annotated[
        str | None, typer.Option("--database", help="Of a backup of a whole server: which one.")
    ] = None,
    keep_seconds: Annotated[
        float | None, typer.Option("--keep-seconds", help="Into a database of its own, dropped after so long.")
    ] = None,
    safety_backup: Annotated[
        bool, typer.Option("--safety-backup/--no-safety-backup", help="Before a replace, back up what is there.")
    ] = True,
    event_id: EventId = None,
    wait: Wait = True,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Bring a backup into a database."""
    from service.cli.sending import send_and_wait

    given = {"into": into, "include": include or None, "database": database, "keep_seconds": keep_seconds}
    data = {"connection": to, "mode": mode} | _which(backup_id, latest)
    data |= {field: value for field, value in given.items() if value is not None}
    data |= {} if safety_backup else {"safety_backup": False}
    raise typer.Exit(send_and_wait("restore", data, event_id=event_id, wait=wait, seconds=timeout, as_json=as_json))


def _which(backup_id: str | None, latest: str | None) -> dict[str, Any]:
    if (backup_id is None) == (latest is None):
        raise CommandError("Name the backup, or give --latest CONNECTION.", "`flexdb backups` lists what there is.")
    return {"backup_id": backup_id} if backup_id else {"latest": {"connection": latest}}


@app.command()
def preflight(
    connection: Annotated[str, typer.Argument(help="The connection to back up, or to restore into.")],
    backup_id: Annotated[str | None, typer.Option("--restore", help="Look before a restore of this backup.")] = None,
    latest: Annotated[
        str | None, typer.Option("--latest", help="Look before a restore of the newest of this connection.")
    ] = None,
    into: Annotated[str | None, typer.Option("--into", help="Another database there.")] = None,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """What a backup or restore would fail of, and how to mend it; touches nothing."""
    from service.cli.sending import send_and_wait

    data: dict[str, Any] = {"connection": connection}
    data |= _which(backup_id, latest) if backup_id or latest else {}
    data |= {"into": into} if into is not None else {}
    raise typer.Exit(send_and_wait("preflight", data, seconds=timeout, as_json=as_json))


@app.command()
def verify(
    backup_id: Annotated[str, typer.Argument(help="The backup to prove again.")],
    level: Annotated[
        int, typer.Option("--level", min=0, max=3, help="3 restores into a scratch database and compares.")
    ] = 2,
    event_id: EventId = None,
    wait: Wait = True,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Prove a stored backup again."""
    from service.cli.sending import send_and_wait

    data = {"backup_id": backup_id, "level": level}
    raise typer.Exit(
        send_and_wait("verification", data, event_id=event_id, wait=wait, seconds=timeout, as_json=as_json)
    )


@app.command()
def adopt(
    dump: Annotated[
        Path, typer.Argument(help="The file, or the folder, that the dump tool wrote; gzip and zstd stay.")
    ],
    connection: Annotated[str, typer.Option("--connection", help="Whose backup it becomes; its engine reads it.")],
    label: Annotated[list[str] | None, typer.Option("--label", help="NAME=VALUE; may be repeated.")] = None,
    verify: Annotated[int, typer.Option("--verify", min=0, max=3, help="Level to reach before it counts.")] = 2,
    storage: Annotated[str | None, typer.Option("--storage", help="Name of a configured store.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the upload; default that of the file.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="In place of an upload of that name.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the upload there when it was adopted.")] = False,
    whole: Annotated[
        bool | None,
        typer.Option("--whole/--part", help="Whether all of the database is in it, which FlexDB cannot know."),
    ] = None,
    event_id: EventId = None,
    wait: Wait = True,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Take a dump made by hand into the catalogue: upload, prove, publish.

    Exit codes as for send.
    """
    from service.cli.adopt import adopt_and_wait, labels_of

    data: dict[str, Any] = {"connection": connection, "verify": verify, "keep": keep}
    data |= {"labels": labels_of(label)} if label else {}
    data |= {"storage": storage} if storage else {}
    data |= {} if whole is None else {"whole": whole}
    raise typer.Exit(
        adopt_and_wait(
            dump, data, name=name, replace=replace, event_id=event_id, wait=wait, seconds=timeout, as_json=as_json
        )
    )


app.command()(records.records)
app.command()(records.export)
app.command()(ingesting.ingest)
app.command()(ingesting.rejected)
app.command(context_settings={"ignore_unknown_options": True})(calculating.calculate)  # -5 is a number, no option


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is configured, what would fail, and how to mend it. Works without a running service."""
    from service.cli.doctor.command import examine_and_show

    raise typer.Exit(examine_and_show(as_json))


@app.command()
def openapi(as_json: Json = False) -> None:
    """Print the OpenAPI document (JSON, with and without --json)."""
    from service.cli.documents import openapi_document
    from service.cli.output import write_json

    write_json(openapi_document())


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version."""
    from service import __version__
    from service.cli.output import say, write_json

    write_json({"flexdb": __version__, "python": sys.version.split()[0]}) if as_json else say(f"flexdb {__version__}")
