"""`flexdb collections`: list, show, put, delete."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli.options import Json

app = typer.Typer(help="Collections of records: list (the default), show, put, delete.", no_args_is_help=False)
Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="Name of the collection.")]
COLUMNS = ("name", "connection", "table", "key", "origin")


@app.callback(invoke_without_command=True)
def collections(context: typer.Context, as_json: Json = False) -> None:
    """Collections of records: list (the default), show, put, delete."""
    if context.invoked_subcommand is None:
        _list(as_json)


@app.command("list")
def list_collections(as_json: Json = False) -> None:
    """All of them: those that come with FlexDB, those declared in files, those put by callers."""
    _list(as_json)


def _list(as_json: bool) -> None:
    from service.cli.client import with_service
    from service.cli.output import write_json, write_table

    found = with_service(lambda service: service.call("GET", "/collections")).body["data"]
    if as_json:
        write_json(found)
    else:
        write_table(COLUMNS, [[item.get(column) for column in COLUMNS] for item in found], title="collections")


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """One collection with its fields."""
    from service.cli.client import segment, with_service
    from service.cli.output import write_fields, write_json

    found = with_service(lambda service: service.call("GET", f"/collections/{segment(name)}")).body
    write_json(found) if as_json else write_fields(_flat(found))


def _flat(found: dict[str, Any]) -> dict[str, Any]:
    """Its schema as a table of fields."""
    schema = found.get("schema") or {}
    required = schema.get("required") or []
    fields = [
        {"field": name, "required": name in required} | (rules if isinstance(rules, dict) else {})
        for name, rules in (schema.get("properties") or {}).items()
    ]
    return {name: value for name, value in found.items() if name != "schema"} | {"fields": fields}


@app.command()
def put(
    name: Name,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Fields of the declaration: connection=shop key=order_id"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="A file with the declaration as a JSON object, - for standard input."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done to the table.")] = False,
    as_json: Json = False,
) -> None:
    """Declare a collection, or replace its declaration; its table is made or checked first."""
    from service.cli.arguments import parse_fields, read_data
    from service.cli.client import segment, with_service
    from service.cli.output import note, say, write_json

    body = parse_fields(words or [], read_data(data))
    params = {"dry_run": "true" if dry_run else None}
    path = f"/collections/{segment(name)}"
    answer = with_service(lambda service: service.call("PUT", path, body=body, params=params)).body
    if as_json:
        write_json(answer)
        return
    say(f"{name} {'would be' if dry_run else 'is'} declared: {_table(answer, 'would be' if dry_run else 'was')}")
    for line in answer["prepared"]["notes"]:
        note(line)


def _table(answer: dict[str, Any], verb: str) -> str:
    """What was done to its table, as the end of a sentence."""
    done = answer["prepared"]
    table = f"table {answer['table']} of connection {answer['connection']}"
    if done["created"]:
        return f"{table} {verb} made"
    if done["added"]:
        return f"{table} {verb} given {', '.join(done['added'])}"
    return f"{table} fits as it is"


@app.command()
def delete(name: Name, as_json: Json = False) -> None:
    """Forget a collection; its table and records stay."""
    from service.cli.client import segment, with_service
    from service.cli.output import say, write_json

    with_service(lambda service: service.call("DELETE", f"/collections/{segment(name)}"))
    write_json({"deleted": name}) if as_json else say(f"{name} is forgotten; its table and records stay")
