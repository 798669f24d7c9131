"""`flexdb schedules`: list, show, put, remove."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.options import Json

app = typer.Typer(help="Events made by the clock: list (the default), show, put, remove.", no_args_is_help=False)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]
COLUMNS = ("name", "cron", "timezone", "operation", "enabled", "next_at", "last_at", "last_job_id", "last_refusal")


@app.callback(invoke_without_command=True)
def schedules(context: typer.Context, as_json: Json = False) -> None:
    """Events made by the clock: list (the default), show, put, remove."""
    if context.invoked_subcommand is None:
        _list(as_json)


@app.command("list")
def list_schedules(as_json: Json = False) -> None:
    """All of them, with what comes next and what came last."""
    _list(as_json)


def _list(as_json: bool) -> None:
    from service.cli.client import with_service
    from service.cli.output import write_json, write_table

    found = with_service(lambda service: service.call("GET", "/schedules")).body["data"]
    if as_json:
        write_json(found)
        return
    rows = [[_cell(item.get(column)) for column in COLUMNS] for item in found]
    write_table(COLUMNS, rows, title="schedules")


def _cell(value: object) -> object:
    return value.get("code") if isinstance(value, dict) else value


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """One schedule with its data."""
    from service.cli.client import segment, with_service
    from service.cli.output import write_fields, write_json

    found = with_service(lambda service: service.call("GET", f"/schedules/{segment(name)}")).body
    write_json(found) if as_json else write_fields(found)


@app.command()
def put(
    name: Name,
    operation: Annotated[str, typer.Argument(help="backup, verification, inspection, check …")],
    cron: Annotated[str, typer.Option("--cron", help="Minute, hour, day, month, weekday: '0 3 * * *'.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Data of the event. JSON where it is JSON; dots nest: latest.connection=shop",
        ),
    ] = None,
    timezone: Annotated[str, typer.Option("--timezone", help="Whose clock is meant: Europe/Berlin.")] = "UTC",
    data: Annotated[
        str | None,
        typer.Option("--data", help="A file with the data as a JSON object, - for standard input."),
    ] = None,
    enabled: Annotated[bool, typer.Option("--enabled/--disabled", help="Whether it makes events.")] = True,
    as_json: Json = False,
) -> None:
    """Make a schedule, or replace the one of that name."""
    from service.cli.arguments import parse_fields, read_data
    from service.cli.client import segment, with_service
    from service.cli.output import say, write_json

    body = {
        "cron": cron,
        "timezone": timezone,
        "operation": operation,
        "data": parse_fields(words or [], read_data(data)),
        "enabled": enabled,
    }
    answer = with_service(lambda service: service.call("PUT", f"/schedules/{segment(name)}", body=body)).body
    if as_json:
        write_json(answer)
    else:
        say(f"{name} asks for {operation} next at {answer['next_at']}" if enabled else f"{name} is kept, disabled")


@app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Remove a schedule; jobs it has made go on."""
    from service.cli.client import segment, with_service
    from service.cli.output import say, write_json

    with_service(lambda service: service.call("DELETE", f"/schedules/{segment(name)}"))
    write_json({"removed": name}) if as_json else say(f"{name} is removed")
