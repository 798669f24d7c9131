"""The real service as a program of its own, with handlers beside the product's that tests and benchmarks drive.

`python -m tests.replica --port N`; everything else comes from the environment, as for `flexdb serve`.
FLEXDB_TEST_JOURNAL names the file in which `sleep` notes its work.
"""

from __future__ import annotations

import tests.wrong_clock  # noqa: F401  before anything that keeps a reference to the clock

# isort: split
import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from engines.errors import Stopped, TargetBusy, ToolFailed
from engines.run import Run
from handlers.base import Claim, Handler, Outcome, Request, Result
from service.app import serve
from service.cli.client import load_settings
from tests.journal import Journal

POLL_SECONDS = 0.02


def claims_of(key: str | None) -> tuple[Claim, ...]:
    return (Claim(f"test:{key}", "exclusive"),) if key else ()


class NoopRequest(Request):
    number: int = Field(default=0, description="Comes back in the result.")
    key: str | None = Field(default=None, description="One at a time per key.")
    padding: str = Field(default="", description="Makes the event as large as one likes.")


class NoopResult(Result):
    number: int


class NoopHandler(Handler[NoopRequest]):
    """Returns at once: what is left is what the service itself costs."""

    operation = "noop"
    request_model = NoopRequest
    result_model = NoopResult

    def claims(self, request: NoopRequest) -> tuple[Claim, ...]:
        return claims_of(request.key)

    def run(self, request: NoopRequest, run: Run) -> Outcome:
        return Outcome(NoopResult(number=request.number))


class SleepRequest(Request):
    seconds: float = Field(default=0.0, ge=0, le=3600)
    key: str | None = Field(default=None, description="One at a time per key.")
    number: int = Field(default=0, description="Comes back in the result.")
    busy: int = Field(default=0, ge=0, description="How many attempts end in an error that may pass.")
    broken: bool = Field(default=False, description="Ends in an error that will not pass.")
    stubborn: bool = Field(default=False, description="Hears no wish to stop and asks nobody before it returns.")


class SleepResult(Result):
    number: int
    token: int


class SleepHandler(Handler[SleepRequest]):
    """Works on nothing for a while, and notes in the journal from when to when."""

    operation = "sleep"
    request_model = SleepRequest
    result_model = SleepResult

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal

    def claims(self, request: SleepRequest) -> tuple[Claim, ...]:
        return claims_of(request.key)

    def run(self, request: SleepRequest, run: Run) -> Outcome:
        how = "failed"
        self._note("begin", request, run)
        try:
            self._sleep(request, run)
            if request.broken:
                raise ToolFailed("The test wants this attempt to fail.")
            if run.attempt <= request.busy:
                raise TargetBusy("The test wants this attempt to fail and the next to be made.")
            if not request.stubborn:
                run.point_of_no_return()
            how = "done"
        except Stopped as stopped:
            how = f"stopped:{stopped.reason}"
            raise
        finally:
            self._note("end", request, run, how)
        return Outcome(SleepResult(number=request.number, token=run.token))

    def _sleep(self, request: SleepRequest, run: Run) -> None:
        began = time.monotonic()
        while (slept := time.monotonic() - began) < request.seconds:
            if not request.stubborn:
                run.progress("sleeping", round(slept * 1000), round(request.seconds * 1000), unit="ms")
            time.sleep(min(POLL_SECONDS, request.seconds - slept))

    def _note(self, moment: Any, request: SleepRequest, run: Run, how: str = "") -> None:
        if self._journal is not None:
            self._journal.note(moment, job_id=run.job_id, token=run.token, key=request.key, how=how)


def extra_handlers() -> tuple[Handler[Any], ...]:
    journal = os.environ.get("FLEXDB_TEST_JOURNAL")
    return NoopHandler(), SleepHandler(Journal(Path(journal)) if journal else None)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=None)
    parser.add_argument("--role", default=None)
    asked = parser.parse_args(arguments)
    settings = load_settings(role=asked.role, host=None, port=asked.port)
    return serve(settings, extra_handlers=extra_handlers())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
