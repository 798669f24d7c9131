"""`flexdb subscriptions`: list, put, delete."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.options import Json

app = typer.Typer(help="Who is told of which events: list (the default), put, delete.", no_args_is_help=False)
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the subscription.")]
COLUMNS = ("name", "types", "url", "created_at")


@app.callback(invoke_without_command=True)
def subscriptions(context: typer.Context, as_json: Json = False) -> None:
    """Who is told of which events: list (the default), put, delete."""
    if context.invoked_subcommand is None:
        _list(as_json)


@app.command("list")
def list_subscriptions(as_json: Json = False) -> None:
    """All of them."""
    _list(as_json)


def _list(as_json: bool) -> None:
    from service.cli.client import with_service
    from service.cli.output import write_json, write_table

    found = with_service(lambda service: service.call("GET", "/subscriptions")).body["data"]
    if as_json:
        write_json(found)
        return
    rows = [[item["name"], " ".join(item["types"]), item["url"], item.get("created_at")] for item in found]
    write_table(COLUMNS, rows, title="subscriptions")


@app.command()
def put(
    name: Name,
    url: Annotated[str, typer.Argument(metavar="URL", help="Receives the events, signed.")],
    types: Annotated[
        list[str] | None, typer.Option("--type", help="backup.*, *.failed, * …; may be repeated; default *.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a subscription, or replace the one of that name."""
    from service.cli.client import segment, with_service
    from service.cli.output import say, write_json

    body = {"url": url, "types": types or ["*"]}
    answer = with_service(lambda service: service.call("PUT", f"/subscriptions/{segment(name)}", body=body)).body
    write_json(answer) if as_json else say(f"{name} receives {' '.join(body['types'])}")


@app.command()
def delete(name: Name, as_json: Json = False) -> None:
    """Remove a subscription; what is on its way to it is still delivered."""
    from service.cli.client import segment, with_service
    from service.cli.output import say, write_json

    with_service(lambda service: service.call("DELETE", f"/subscriptions/{segment(name)}"))
    write_json({"deleted": name}) if as_json else say(f"{name} is removed")
