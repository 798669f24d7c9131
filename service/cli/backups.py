"""`flexdb backups`: list, show, download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.options import Connection, Json, Limit

if TYPE_CHECKING:
    from service.cli.client import ServiceClient

app = typer.Typer(help="Backups: list (the default), show, download.", no_args_is_help=False)
BackupId = Annotated[str, typer.Argument(metavar="BACKUP_ID", help="Id of the backup.")]
COLUMNS = ("backup_id", "connection", "engine", "database", "created_at", "bytes", "level", "state")


@app.callback(invoke_without_command=True)
def backups(context: typer.Context, connection: Connection = None, limit: Limit = 50, as_json: Json = False) -> None:
    """Backups: list (the default), show, download."""
    if context.invoked_subcommand is None:
        _list(connection, limit, as_json)


@app.command("list")
def list_backups(connection: Connection = None, limit: Limit = 50, as_json: Json = False) -> None:
    """Newest first."""
    _list(connection, limit, as_json)


def _list(connection: str | None, limit: int, as_json: bool) -> None:
    from service.cli.client import with_service
    from service.cli.output import write_json, write_table

    found = with_service(lambda service: service.pages("/backups", limit, {"connection": connection}))
    if as_json:
        write_json(found)
    else:
        write_table(COLUMNS, [[_cell(backup, column) for column in COLUMNS] for backup in found], title="backups")


def _cell(backup: dict[str, Any], column: str) -> Any:
    from service.cli.output import console, size

    if column == "state":
        return _state(backup)
    if column == "bytes" and console().is_terminal:
        return size(backup.get("bytes"))
    return backup.get(column)


def _state(backup: dict[str, Any]) -> str:
    """What speaks against restoring it, the worst first."""
    if backup.get("damaged"):
        return "damaged"
    if not backup.get("listed", True):
        return "unlisted"
    whole = backup.get("whole", True)
    return "ok" if whole else "whole?" if whole is None else "part"


@app.command()
def show(backup_id: BackupId, as_json: Json = False) -> None:
    """The manifest: what it holds, how it was made and proven, how to restore it by hand."""
    from service.cli.client import segment, with_service
    from service.cli.output import say, write_fields, write_json

    backup = with_service(lambda service: service.call("GET", f"/backups/{segment(backup_id)}")).body
    if as_json:
        write_json(backup)
        return
    write_fields(_flat(backup))
    for number, line in enumerate(_manifest(backup).get("restore_by_hand") or []):
        say(line if number else f"\nrestore by hand:\n{line}")


def _flat(backup: dict[str, Any]) -> dict[str, Any]:
    """Summary and manifest as one; what proved it becomes a table of its own."""
    apart = ("manifest", "restore_by_hand", "verification")
    flat = {name: value for name, value in {**backup, **_manifest(backup)}.items() if name not in apart}
    verification = _manifest(backup).get("verification") or {}
    return flat | {"verified_at": verification.get("at"), "evidence": verification.get("evidence") or []}


def _manifest(backup: dict[str, Any]) -> dict[str, Any]:
    inner = backup.get("manifest")
    return inner if isinstance(inner, dict) else backup


@app.command()
def download(
    backup_id: BackupId,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to put it; default its own name, here.")
    ] = None,
    file: Annotated[str | None, typer.Option("--file", help="Which file of the backup; default the main one.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch a backup's file; it gets its name only when its SHA-256 is the manifest's."""
    from service.cli.client import with_service
    from service.cli.output import say, size, write_json

    saved = with_service(lambda service: _download(service, backup_id, output, file, force))
    if as_json:
        write_json(saved)
    else:
        say(f"{saved['path']}: {size(saved['bytes'])}, SHA-256 matches the manifest")


async def _download(
    service: ServiceClient, backup_id: str, output: Path | None, name: str | None, force: bool
) -> dict[str, Any]:
    from service.cli.client import segment
    from service.cli.saving import save_checked

    backup = (await service.call("GET", f"/backups/{segment(backup_id)}")).body
    stored = _file_of(_manifest(backup), name)
    path = output or Path(Path(stored["name"]).name)
    path = path / Path(stored["name"]).name if path.is_dir() else path
    params = {"file": stored["name"]} if name else None
    with save_checked(path, stored["bytes"], stored["sha256"], force=force) as write:
        await service.download(f"/backups/{segment(backup_id)}/download", write, params)
    return {"path": str(path), "file": stored["name"], "bytes": stored["bytes"], "sha256": stored["sha256"]}


def _file_of(manifest: dict[str, Any], name: str | None) -> dict[str, Any]:
    from service.cli.exits import CommandError

    files: list[dict[str, Any]] = manifest["files"]
    for stored in files:
        if name is None or stored["name"] == name:
            return stored
    raise CommandError(f"The backup has no file {name!r}.", "It has: " + ", ".join(stored["name"] for stored in files))
