"""Commands that send an event: submit it, wait for the job, show its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from service.cli.client import ServiceClient, segment, with_service
from service.cli.exits import Exit, NotReachable, exit_of
from service.cli.following import event_of, follow
from service.cli.output import note, say, write_fields, write_json
from service.cli.progress import watching
from service.jobs import new_id


class Submission:
    """One event on its way; knows its job as soon as the service has told it."""

    def __init__(self, operation: str, data: dict[str, Any], event_id: str | None) -> None:
        self.operation = operation
        self.data = data
        self.event_id = event_id or f"cli-{new_id()}"
        self.accepted: dict[str, Any] | None = None

    async def submit(self, service: ServiceClient) -> dict[str, Any]:
        """The acceptance. Sent once more when the answer was lost: the id makes that harmless."""
        try:
            return await self._post(service)
        except NotReachable as error:
            if not error.sent:
                raise
            return await self._post(service)

    async def _post(self, service: ServiceClient) -> dict[str, Any]:
        headers = {"Idempotency-Key": self.event_id}
        answer = await service.call("POST", f"/hooks/{segment(self.operation)}", body=self.data, headers=headers)
        accepted: dict[str, Any] = answer.body
        self.accepted = accepted
        return accepted


def send_and_wait(
    operation: str,
    data: dict[str, Any],
    *,
    event_id: str | None = None,
    wait: bool = True,
    seconds: float | None = None,
    as_json: bool = False,
) -> Exit:
    """Send, wait when asked to, print; the exit code the command ends with."""
    submission = Submission(operation, data, event_id)

    async def work(service: ServiceClient) -> Exit:
        accepted = await submission.submit(service)
        if not wait:
            write_json(accepted) if as_json else show_accepted(accepted)
            return Exit.COMPLETED
        return await wait_and_show(service, accepted, seconds, as_json)

    return interruptible(lambda: with_service(work), submission)


def interruptible(work: Callable[[], Exit], submission: Submission) -> Exit:
    """Ctrl-C leaves the job running: say so, and how to cancel it."""
    try:
        return work()
    except KeyboardInterrupt:
        if submission.accepted is None:
            note(f"Interrupted before an answer. Send it again with --id {submission.event_id}: it runs once.")
        else:
            job_id = submission.accepted["job_id"]
            note(f"The job goes on. See it: flexdb jobs show {job_id}; cancel it: flexdb jobs cancel {job_id}.")
        return Exit.INTERRUPTED


async def wait_and_show(
    service: ServiceClient,
    accepted: dict[str, Any],
    seconds: float | None,
    as_json: bool,
    told: Callable[[dict[str, Any]], None] | None = None,
) -> Exit:
    """Follow an accepted job, print its end; `told` is given the terminal event afterwards."""
    job_id = accepted["job_id"]
    with watching(f"{accepted.get('operation', 'job')} {job_id}") as watcher:
        event = await follow(service, job_id, watcher, seconds)
    if event is None:
        await _show_running(service, job_id, as_json)
        return Exit.RUNNING
    write_json(event) if as_json else show_end(event)
    if told is not None:
        told(event)
    return exit_of(event)


async def _show_running(service: ServiceClient, job_id: str, as_json: bool) -> None:
    note(f"Not ended in time; the job goes on. See it with `flexdb jobs show {job_id}`.")
    if as_json:
        write_json((await service.call("GET", f"/jobs/{segment(job_id)}")).body)


def show_accepted(accepted: dict[str, Any]) -> None:
    write_fields({name: value for name, value in accepted.items() if name != "links"})
    note(f"See it with `flexdb jobs show {accepted['job_id']}`.")


def show_end(event: dict[str, Any]) -> None:
    """The terminal event: what came of it first, then its fields."""
    data = dict(event["data"])
    error = data.pop("error", None)
    about = " ".join(str(data[name]) for name in ("operation", "connection") if data.get(name))
    say(f"{about} {event['type'].rpartition('.')[2]}")
    write_fields({name: value for name, value in data.items() if name not in {"operation", "connection"}})
    if error:
        show_job_error(error)


def show_job_error(error: dict[str, Any]) -> None:
    note(f"{error.get('message', 'failed')} [{error.get('code', 'unknown')}]")
    if error.get("hint"):
        note(str(error["hint"]))


def show_job(job: dict[str, Any]) -> None:
    """A job as `GET /jobs/{id}` gives it."""
    plain = {name: value for name, value in job.items() if name not in {"result", "error", "links"}}
    write_fields(plain)
    if (event := event_of(job)) is not None and job.get("result"):
        say("")
        write_fields({name: value for name, value in event["data"].items() if name not in plain and name != "error"})
    if job.get("error"):
        show_job_error(job["error"])
