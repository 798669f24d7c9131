"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many at most, newest first.")]
Connection = Annotated[str | None, typer.Option("--connection", help="Only those of this connection.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the job has ended.")]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0.0, help="Seconds to wait; the job goes on, the exit code is 4."),
]
EventId = Annotated[str | None, typer.Option("--id", help="Id of the event; the same id twice is one job.")]
