"""How far a job is, on standard error: a bar on a terminal, a line per stage elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from service.cli.output import console, note, printable, size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ProgressLines:
    """A `Watcher` for pipes and logs: says when something new begins."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said = ""

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def event(self, event: dict[str, Any]) -> None:
        data = event.get("data", {})
        self._progress(data.get("status"), data.get("progress"))

    def job(self, job: dict[str, Any]) -> None:
        self._progress(job.get("status"), job.get("progress"))

    def lost(self) -> None:
        self._say("the service does not answer, asking again")

    def _progress(self, status: str | None, progress: dict[str, Any] | None) -> None:
        self._say(str((progress or {}).get("stage") or status or ""))

    def _say(self, what: str) -> None:
        if what and what != self._said:
            self._said = what
            note(f"{self._what}: {what}")


class ProgressBar(ProgressLines):
    """A `Watcher` for people: one line that fills."""

    _bar: Progress
    _task: TaskID

    def __enter__(self) -> ProgressBar:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            console=console(stderr=True),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(f"{self._what} queued", total=None, figures="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _progress(self, status: str | None, progress: dict[str, Any] | None) -> None:
        told = progress or {}
        stage = printable(told.get("stage") or status)
        self._bar.update(
            self._task,
            description=f"{self._what} {stage}",
            total=told.get("total"),
            completed=told.get("done") or 0,
            figures=figures(told),
        )

    def _say(self, what: str) -> None:
        self._bar.update(self._task, description=f"{self._what} ({what})")


def figures(progress: dict[str, Any]) -> str:
    """`12.0 MB of 48.0 MB, 30.1 MB/s, 2 s left`, as far as it is known."""
    if not progress:
        return ""
    in_bytes = progress.get("unit") == "bytes"

    def amount(value: Any) -> str:
        return size(value) if in_bytes else f"{value:,.0f}"

    parts = [amount(progress.get("done") or 0) + (f" of {amount(progress['total'])}" if progress.get("total") else "")]
    if not in_bytes:
        parts[0] += f" {progress.get('unit', '')}"
    parts += [f"{amount(progress['rate'])}/s"] if progress.get("rate") else []
    parts += [f"{progress['eta_seconds']:.0f} s left"] if progress.get("eta_seconds") is not None else []
    return printable(", ".join(parts))


def watching(what: str) -> ProgressLines:
    """The watcher that fits standard error."""
    return ProgressBar(what) if console(stderr=True).is_terminal else ProgressLines(what)
