"""`flexdb calculate`: one calculation, or one step on a named stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.exits import CommandError, Exit
from service.cli.options import EventId, Json, Timeout

if TYPE_CHECKING:
    from service.cli.client import ServiceClient

PUSH = "push"


def calculate(
    operation: Annotated[
        str, typer.Argument(help="plus, minus, times, divide, pow, abs, fact, fibonacci; push with --stack.")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="NUMBER", help="Numbers of any size, exactly as written.")
    ] = None,
    stack: Annotated[
        str | None, typer.Option("--stack", help="Work on this stack; numbers are pushed first, the last one on top.")
    ] = None,
    history: Annotated[
        list[str] | None, typer.Option("--history", help="Connection that keeps it; may be repeated.")
    ] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Whether an earlier result will do.")] = True,
    event_id: EventId = None,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Calculate, print the result.

    Exit codes as for send.
    """
    from service.cli.client import with_service
    from service.cli.sending import Submission, interruptible

    if operation == PUSH and stack is None:
        raise CommandError("There is nothing to push to.", "Name the stack with --stack NAME.")
    data: dict[str, Any] = {"arguments": arguments or []}
    data |= {} if operation == PUSH else {"operation": operation}
    data |= {} if stack is None else {"mode": "stack", "stack": stack}
    data |= {"history": history} if history else {}
    data |= {} if cache else {"cache": False}
    submission = Submission("calculation", data, event_id)

    async def work(service: ServiceClient) -> Exit:
        return await _end(service, await submission.submit(service), timeout, as_json)

    raise typer.Exit(interruptible(lambda: with_service(work), submission))


async def _end(service: ServiceClient, accepted: dict[str, Any], seconds: float | None, as_json: bool) -> Exit:
    from service.cli.exits import exit_of
    from service.cli.following import follow
    from service.cli.output import note, write_json
    from service.cli.progress import watching
    from service.cli.sending import show_job_error

    job_id = accepted["job_id"]
    with watching(f"calculation {job_id}") as watcher:
        event = await follow(service, job_id, watcher, seconds)
    if event is None:
        note(f"Not ended in time; the job goes on. See it with `flexdb jobs show {job_id}`.")
        return Exit.RUNNING
    code = exit_of(event)
    if as_json:
        write_json(event)
    elif code is Exit.COMPLETED:
        _show(event["data"])
    else:
        show_job_error(event["data"].get("error") or {})
    return code


def _show(data: dict[str, Any]) -> None:
    """The result alone on standard output, what else is known beside it."""
    from service.cli.output import note, say

    if data.get("result") is not None:
        say(str(data["result"]))
    if data.get("exact") is False:
        note("rounded: the exact result has no end, or too many digits")
    if data.get("stack") is not None:
        note(f"the stack {data['stack']} has {data['size']} values")
