"""`flexdb records` and `flexdb export`: pages of a collection, one record, everything as a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.exits import CommandError
from service.cli.options import Json

if TYPE_CHECKING:
    from service.cli.client import ServiceClient

Collection = Annotated[str, typer.Argument(metavar="COLLECTION", help="Name of the collection.")]
Sort = Annotated[str | None, typer.Option("--sort", help="Fields, separated by commas; - before one: descending.")]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", help="FIELD=VALUE, or FIELD[gte]=VALUE (ne, gt, lt, lte, null); may be repeated."),
]
FORMATS = ("csv", "ndjson", "parquet")


def records(
    collection: Collection,
    page: Annotated[int, typer.Option("--page", min=1, help="Which page.")] = 1,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Records on a page.")] = 50,
    sort: Sort = None,
    where: Where = None,
    get: Annotated[str | None, typer.Option("--get", metavar="KEY", help="Only the record of this key.")] = None,
    as_json: Json = False,
) -> None:
    """A page of a collection, or one record."""
    from service.cli.client import segment, with_service
    from service.cli.output import note, write_fields, write_table

    path = f"/api/{segment(collection)}"
    params: dict[str, Any] = {"page": page, "limit": limit, "sort": sort} | _conditions(where)
    if get is not None:
        path, params = f"{path}/{segment(get)}", {}
    text = with_service(lambda service: _text(service, path, params))
    if as_json:
        sys.stdout.write(text + "\n")  # as it came: 1234.50 stays 1234.50
        return
    found = json.loads(text, parse_float=str)
    if get is not None:
        write_fields(found)
        return
    columns = list(dict.fromkeys(name for record in found["data"] for name in record))
    rows = [[record.get(column) for column in columns] for record in found["data"]]
    write_table(columns, rows, title=collection)
    note(f"page {found['page']} of {-(-found['total'] // found['limit'])}, {found['total']} records in all")


def _conditions(where: list[str] | None) -> dict[str, str]:
    """Raises `CommandError`."""
    found: dict[str, str] = {}
    for word in where or ():
        field, equals, value = word.partition("=")
        if not equals or not field:
            raise CommandError(f"{word!r} is no condition.", "Write for example --where last_name=Chen.")
        if field in found or field in {"page", "limit", "sort", "cursor", "format"}:
            raise CommandError(f"There can be only one condition {field!r}.", "Ranges: FIELD[gte]=1, FIELD[lt]=5.")
        found[field] = value
    return found


async def _text(service: ServiceClient, path: str, params: dict[str, Any]) -> str:
    """The body as it is: numbers read and written again would lose their zeros."""
    chunks: list[bytes] = []
    await service.download(path, chunks.append, params)
    return b"".join(chunks).decode()


def export(
    collection: Collection,
    form: Annotated[str | None, typer.Option("--format", help="csv, ndjson or parquet; by the file's name.")] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="Where to put it, - for standard output; default its own name.")
    ] = None,
    sort: Sort = None,
    where: Where = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write all records of a collection into a file; it gets its name when it is whole."""
    from service.cli.client import segment, with_service
    from service.cli.output import say, size, write_json
    from service.cli.saving import save_whole

    form = form or _form_of(output)
    if form not in FORMATS:
        raise CommandError(f"There is no format {form!r}.", f"It is one of {', '.join(FORMATS)}.")
    params = {"format": form, "sort": sort} | _conditions(where)

    def fetch(write: Callable[[bytes], object]) -> None:
        with_service(lambda service: service.download(f"/api/{segment(collection)}", write, params))

    if output == "-":
        fetch(sys.stdout.buffer.write)
        return
    path = Path(output or f"{collection}.{form}")
    with save_whole(path, force=force) as write:
        fetch(write)
    written = path.stat().st_size
    write_json({"path": str(path), "bytes": written}) if as_json else say(f"{path}: {size(written)}")


def _form_of(output: str | None) -> str:
    """The format that a file's name asks for; CSV when it does not say."""
    ending = Path(output or "").suffix.removeprefix(".").lower()
    return {"jsonl": "ndjson"}.get(ending, ending if ending in FORMATS else "csv")
