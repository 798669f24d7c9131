"""`flexdb n8n`: install, check."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.exits import CommandError, Exit
from service.cli.options import Json

if TYPE_CHECKING:
    from service.cli.n8n.installing import Step, Wishes

app = typer.Typer(help="Workflows for n8n: install them there, check that both work together.", no_args_is_help=True)

Url = Annotated[str, typer.Option("--url", envvar="N8N_URL", show_envvar=True, help="Where n8n answers.")]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="N8N_API_KEY",
        show_envvar=True,
        help="Key of n8n's public API; - reads it from a line of standard input. Others on this machine can see what "
        "stands on a command line: better set N8N_API_KEY.",
    ),
]
NotifyUrl = Annotated[
    str | None,
    typer.Option(
        "--notify-url",
        envvar="N8N_NOTIFY_URL",
        show_envvar=True,
        help="Where messages to the team are posted: a chat's incoming webhook. Whoever knows it can post: better "
        "set N8N_NOTIFY_URL; - reads a line of standard input, the API key first where both are -.",
    ),
]
Folder = Annotated[Path | None, typer.Option("--folder", help="Of the workflows; default those that came with FlexDB.")]


@app.command()
def install(
    url: Url = "http://127.0.0.1:5678",
    api_key: ApiKey = None,
    flexdb_url: Annotated[
        str | None, typer.Option("--flexdb-url", help="Where n8n finds FlexDB; default where this command finds it.")
    ] = None,
    notify_url: NotifyUrl = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only this workflow; may be repeated.")] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="Publish those that start by themselves and lack nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace workflows you changed, and drafts, too; Settings stay.")
    ] = False,
    replace_credentials: Annotated[
        bool,
        typer.Option(
            "--replace-credentials", help="Write FlexDB's token, secret and RabbitMQ anew where they are already."
        ),
    ] = False,
    keys_file: Annotated[
        Path | None,
        typer.Option(
            "--keys-file", help="Where keys made up for callers of n8n are kept; default n8n_keys.json in FLEXDB_HOME."
        ),
    ] = None,
    folder: Folder = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done; change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Bring the shipped workflows and their credentials into an n8n. Again: only what is new there.

    What you set in a Settings node, a trigger's schedule, path or queue, the timezone and credentials you chose stay.

    Exit codes: 0 done, 1 something was left undone, 2 refused.
    """
    from service.cli.client import load_settings
    from service.cli.n8n.installing import Wishes

    settings = load_settings()
    key, notify_url = _key(api_key), _notify_url(notify_url)
    given = {"flexdbUrl": flexdb_url and flexdb_url.rstrip("/"), "notifyUrl": notify_url}
    wishes = Wishes(
        settings={name: value for name, value in given.items() if value},
        first_settings={"flexdbUrl": settings.service_url},
        only=tuple(only or ()),
        publish=publish,
        overwrite=overwrite,
        replace_credentials=replace_credentials,
        dry_run=dry_run,
    )
    steps = _install(url, key, folder, wishes, keys_file)
    _show_steps(steps, as_json=as_json, dry_run=dry_run)
    raise typer.Exit(Exit.FAILED if any(step.failed for step in steps) else Exit.COMPLETED)


def _install(url: str, key: str, folder: Path | None, wishes: Wishes, keys_file: Path | None) -> list[Step]:
    import asyncio

    from service.cli.client import load_settings
    from service.cli.n8n.api import N8n
    from service.cli.n8n.credentials import Values
    from service.cli.n8n.installing import Installer, alone
    from service.cli.n8n.workflows import read_workflows, shipped_folder

    shipped = read_workflows(folder or shipped_folder())

    settings = load_settings()

    async def work() -> list[Step]:
        async with N8n(url, key) as n8n:
            n8n.hide(str(wishes.settings.get("notifyUrl", "")))
            return await Installer(n8n, shipped, wishes, Values.of(settings, keys_file)).run()

    with alone(settings.home):
        return asyncio.run(work())


def _show_steps(steps: list[Step], *, as_json: bool, dry_run: bool) -> None:
    from service.cli.n8n.installing import summed_up
    from service.cli.output import say, write_json, write_table

    if as_json:
        write_json({"dry_run": dry_run, "steps": [asdict(step) for step in steps]})
        return
    columns = ("kind", "name", "action", "id", "published", "note")
    rows = [[getattr(step, column) for column in columns] for step in steps]
    write_table(columns, rows, title="would be done" if dry_run else "n8n")
    for what in ("credential", "workflow"):
        found = [step for step in steps if step.kind == what]
        say(f"{what}s: {summed_up(found) or 'none'}{' (nothing was changed: a dry run)' if dry_run else ''}")


@app.command()
def check(
    url: Url = "http://127.0.0.1:5678",
    api_key: ApiKey = None,
    flexdb_url: Annotated[
        str | None,
        typer.Option("--flexdb-url", help="Where n8n looks for FlexDB; default where its workflows look for it."),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            help="Run this workflow by a copy and tell how it ended; may be repeated. all-safe: those that only check, "
            "inspect, back up and verify. Its messages to the team are sent.",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1.0, max=3600.0, help="How long the callback may take.")
    ] = 30.0,
    run_seconds: Annotated[
        float, typer.Option("--run-seconds", min=1.0, help="How long each workflow of --run may take.")
    ] = 600.0,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    """Try whether n8n and FlexDB work together: workflows, credentials, settings, and one job there and back.

    The round trip is made by a workflow and a credential of its own, removed afterwards.

    Exit codes: 0 all is well, 1 something would fail, 2 n8n does not answer or refuses the key.
    """
    from service.cli.client import load_settings
    from service.cli.n8n.checking import Questions, examine
    from service.cli.n8n.workflows import read_workflows, shipped_folder

    settings = load_settings()
    questions = Questions(
        shipped=read_workflows(folder or shipped_folder()),
        settings=settings,
        flexdb_url=flexdb_url and flexdb_url.rstrip("/"),
        run=tuple(run or ()),
        seconds=seconds,
        run_seconds=run_seconds,
    )
    findings = examine(url, _key(api_key), questions)
    raise typer.Exit(_show_findings(findings, as_json=as_json))


def _show_findings(findings: list[Any], *, as_json: bool) -> Exit:
    from service.cli.doctor.finding import State
    from service.cli.output import say, write_json, write_table

    count = {state: sum(finding.state is state for finding in findings) for state in State}
    failing = count[State.FAILS]
    if as_json:
        write_json({"ok": not failing, "findings": [asdict(finding) for finding in findings]})
    else:
        columns = ("area", "name", "state", "detail", "mend")
        write_table(columns, [[getattr(finding, column) for column in columns] for finding in findings], title="n8n")
        say(f"{count[State.OK]} ok, {count[State.WARNING]} warnings, {failing} would fail")
    return Exit.FAILED if failing else Exit.COMPLETED


def _key(given: str | None) -> str:
    key = _told(given)
    if not key:
        raise CommandError(
            "There is no API key for n8n.", "Make one in n8n under Settings > n8n API and set N8N_API_KEY to it."
        )
    return key


def _notify_url(given: str | None) -> str | None:
    url = _told(given)
    if given == "-" and not url:
        raise CommandError("There is no URL for --notify-url on standard input.", "Put it on a line of its own.")
    return url


def _told(given: str | None) -> str | None:
    """What an option was given, for - the next line of standard input."""
    text = sys.stdin.readline() if given == "-" else given
    return text.strip() if text else None
