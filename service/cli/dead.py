"""`flexdb dead`: list, show, redrive."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from service.cli.exits import CommandError, Exit
from service.cli.options import Json

app = typer.Typer(
    help="Messages from RabbitMQ that could not be taken: list (the default), show, redrive.", no_args_is_help=False
)
Limit = Annotated[int, typer.Option("--limit", min=1, max=500, help="How many at most.")]
COLUMNS = ("id", "dead_at", "reason", "type", "exchange", "routing_key", "message_id", "bytes")
MOVES = ("id", "reason", "type", "exchange", "routing_key", "message_id")


@app.callback(invoke_without_command=True)
def dead(context: typer.Context, limit: Limit = 50, as_json: Json = False) -> None:
    """Messages from RabbitMQ that could not be taken: list (the default), show, redrive."""
    if context.invoked_subcommand is None:
        _list(limit, as_json)


@app.command("list")
def list_dead(limit: Limit = 50, as_json: Json = False) -> None:
    """Oldest first, with why; looking takes nothing out of the queue."""
    _list(limit, as_json)


def _list(limit: int, as_json: bool) -> None:
    from service.cli.client import with_service
    from service.cli.output import note, write_json, write_table

    found = with_service(lambda service: service.call("GET", "/dead-letters", params={"limit": limit})).body
    if as_json:
        write_json(found["data"])
    else:
        write_table(COLUMNS, [[item.get(column) for column in COLUMNS] for item in found["data"]], title="dead letters")
    if found.get("more"):
        note(f"there are more than these {len(found['data'])}; --limit shows up to 500")


@app.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the dead letter.")], as_json: Json = False
) -> None:
    """All of one: why it died, its headers and its body, credentials struck out."""
    from service.cli.client import segment, with_service
    from service.cli.output import say, write_fields, write_json

    letter = with_service(lambda service: service.call("GET", f"/dead-letters/{segment(letter_id)}")).body
    if as_json:
        write_json(letter)
        return
    body, encoding = letter.pop("body", None), letter.pop("body_encoding", None)
    write_fields(letter)
    say(f"\nbody{' (base64)' if encoding == 'base64' else ''}:\n{body or ''}")


@app.command()
def redrive(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Ids of dead letters.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="All that died for this reason.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, max=1000, help="How many at most; 100 with --reason and --all."),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without this it is only told what would be.")] = False,
    as_json: Json = False,
) -> None:
    """Send them again to where they came in. First without --apply: it tells what would be sent where.

    Exit codes: 0 all of them were sent (or would be), 1 some were not found or could not be sent, 2 refused.
    """
    from service.cli.client import with_service
    from service.cli.output import write_json

    body = _asked(ids or [], reason, everything, limit) | {"apply": apply}
    answer = with_service(lambda service: service.call("POST", "/dead-letters/redrive", body=body)).body
    if as_json:
        write_json(answer)
    else:
        _tell(answer, _again(ids or [], reason, everything, limit))
    raise typer.Exit(Exit.FAILED if answer["left"] or answer["not_found"] else Exit.COMPLETED)


def _asked(ids: list[str], reason: str | None, everything: bool, limit: int | None) -> dict[str, Any]:
    if [bool(ids), reason is not None, everything].count(True) != 1:
        raise CommandError("Name the letters, or give --reason REASON or --all.", "`flexdb dead` lists what there is.")
    asked: dict[str, Any] = {"ids": ids} if ids else {"reason": reason} if reason is not None else {"all": True}
    return asked | ({"limit": limit} if limit is not None else {})


def _again(ids: list[str], reason: str | None, everything: bool, limit: int | None) -> str:
    """The same command with --apply."""
    words = ["flexdb", "dead", "redrive", *ids]
    words += ["--reason", reason] if reason is not None else []
    words += ["--all"] if everything else []
    words += ["--limit", str(limit)] if limit is not None else []
    return shlex.join([*words, "--apply"])


def _tell(answer: dict[str, Any], again: str) -> None:
    from service.cli.output import note, say, write_table

    applied = answer["applied"]
    letters = answer["redriven" if applied else "would_redrive"]
    title = "sent again" if applied else "would be sent again"
    write_table(MOVES, [[letter.get(column) for column in MOVES] for letter in letters], title=title)
    if answer["left"]:
        say("\ncould not be sent, and stays:")
        write_table(("id", "why"), [[left["id"], left["why"]] for left in answer["left"]])
    for letter_id in answer["not_found"]:
        note(f"{letter_id}: there is no such dead letter")
    if answer["more"]:
        note("there are more letters than this call looked at")
    if not applied and letters:
        note(f"nothing was sent; to do it: {again}")
