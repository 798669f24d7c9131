"""`flexdb deliveries`: list, redeliver."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.options import Json, Limit

app = typer.Typer(help="Completion events on their way: list (the default), redeliver.", no_args_is_help=False)
Status = Annotated[str | None, typer.Option("--status", help="pending, delivered or abandoned.")]
Job = Annotated[str | None, typer.Option("--job", help="Only those of this job.")]
COLUMNS = ("delivery_id", "job_id", "event_type", "kind", "destination", "status", "attempts", "last_error")


@app.callback(invoke_without_command=True)
def deliveries(
    context: typer.Context, status: Status = None, job: Job = None, limit: Limit = 50, as_json: Json = False
) -> None:
    """Completion events on their way: list (the default), redeliver."""
    if context.invoked_subcommand is None:
        _list(status, job, limit, as_json)


@app.command("list")
def list_deliveries(status: Status = None, job: Job = None, limit: Limit = 50, as_json: Json = False) -> None:
    """Newest first, with what came of the last try."""
    _list(status, job, limit, as_json)


def _list(status: str | None, job: str | None, limit: int, as_json: bool) -> None:
    from service.cli.client import with_service
    from service.cli.output import write_json, write_table

    found = with_service(lambda service: service.pages("/deliveries", limit, {"status": status, "job_id": job}))
    if as_json:
        write_json(found)
    else:
        write_table(COLUMNS, [[item.get(column) for column in COLUMNS] for item in found], title="deliveries")


@app.command()
def redeliver(
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY_ID", help="Id of the delivery.")],
    as_json: Json = False,
) -> None:
    """Send one again, now: the same event with the same id."""
    from service.cli.client import segment, with_service
    from service.cli.output import say, write_json

    path = f"/deliveries/{segment(delivery_id)}/redeliver"
    answer = with_service(lambda service: service.call("POST", path)).body
    write_json(answer) if as_json else say(f"{delivery_id} is sent again; `flexdb deliveries` tells what came of it")
