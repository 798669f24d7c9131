"""`flexdb jobs`: list, show, cancel, retry."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli.exits import Exit
from service.cli.options import Connection, Json, Limit, Timeout, Wait

app = typer.Typer(help="Jobs: list (the default), show, cancel, retry.", no_args_is_help=False)
JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="Id of the job.")]
Status = Annotated[str | None, typer.Option("--status", help="queued, running, succeeded, failed or canceled.")]
Operation = Annotated[str | None, typer.Option("--operation", help="Only jobs of this operation.")]
COLUMNS = ("job_id", "operation", "connection", "status", "attempts", "created_at", "ended_at", "error")


@app.callback(invoke_without_command=True)
def jobs(
    context: typer.Context,
    status: Status = None,
    operation: Operation = None,
    connection: Connection = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """Jobs: list (the default), show, cancel, retry."""
    if context.invoked_subcommand is None:
        _list(status, operation, connection, limit, as_json)


@app.command("list")
def list_jobs(
    status: Status = None,
    operation: Operation = None,
    connection: Connection = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """Newest first."""
    _list(status, operation, connection, limit, as_json)


def _list(status: str | None, operation: str | None, connection: str | None, limit: int, as_json: bool) -> None:
    from service.cli.client import with_service
    from service.cli.output import write_json, write_table

    wanted = {"status": status, "operation": operation, "connection": connection}
    found = with_service(lambda service: service.pages("/jobs", limit, wanted))
    if as_json:
        write_json(found)
    else:
        write_table(COLUMNS, [[_cell(job, column) for column in COLUMNS] for job in found], title="jobs")


def _cell(job: dict[str, Any], column: str) -> Any:
    return (job.get("error") or {}).get("code") if column == "error" else job.get(column)


@app.command()
def show(job_id: JobId, as_json: Json = False) -> None:
    """Everything of one job."""
    from service.cli.client import segment, with_service
    from service.cli.output import write_json
    from service.cli.sending import show_job

    job = with_service(lambda service: service.call("GET", f"/jobs/{segment(job_id)}")).body
    write_json(job) if as_json else show_job(job)


@app.command()
def cancel(job_id: JobId, as_json: Json = False) -> None:
    """Ask a queued or running job to stop."""
    from service.cli.client import segment, with_service
    from service.cli.output import say, write_json

    answer = with_service(lambda service: service.call("POST", f"/jobs/{segment(job_id)}/cancel")).body or {}
    if as_json:
        write_json(answer)
    elif answer.get("status") == "canceled":
        say(f"{job_id} is canceled")
    else:
        say(f"{job_id} was asked to stop; `flexdb jobs show {job_id}` tells when it has")


@app.command()
def retry(job_id: JobId, wait: Wait = False, timeout: Timeout = None, as_json: Json = False) -> None:
    """Make a new job like a failed or canceled one."""
    from service.cli.client import ServiceClient, segment, with_service
    from service.cli.output import write_json
    from service.cli.sending import Submission, interruptible, show_accepted, wait_and_show

    submission = Submission("retry", {}, None)

    async def work(service: ServiceClient) -> Exit:
        accepted = (await service.call("POST", f"/jobs/{segment(job_id)}/retry")).body
        submission.accepted = accepted
        if wait:
            return await wait_and_show(service, accepted, timeout, as_json)
        write_json(accepted) if as_json else show_accepted(accepted)
        return Exit.COMPLETED

    raise typer.Exit(interruptible(lambda: with_service(work), submission))
