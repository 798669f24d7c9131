"""Whether more replicas do more: one, two and four on one PostgreSQL ledger, with jobs that only take time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from benchmarks.context import Context
from benchmarks.database import empty
from benchmarks.ledgers import answers, until_all_ended
from benchmarks.processes import BenchmarkError, replica
from benchmarks.report import Goal, Result
from benchmarks.rounds import in_turn

SECONDS, CONCURRENCY = 0.25, 4
JOBS, QUICK_JOBS = 400, 96
BATCH = "application/cloudevents-batch+json"
ROWS = {1: "1 replica", 2: "2 replicas", 4: "4 replicas"}


def run(context: Context) -> Result:
    jobs = QUICK_JOBS if context.quick else JOBS
    variants = {row: lambda number=number: _jobs_per_second(context, number, jobs) for number, row in ROWS.items()}
    return Result(
        title=f"Replicas on one PostgreSQL ledger: {jobs} jobs of {SECONDS} s, concurrency {CONCURRENCY} each",
        unit="jobs/s",
        rows=in_turn(variants, context.rounds),
        baseline=ROWS[1],
        goals=(Goal(ROWS[2], ROWS[1], 1.8, at_least=True), Goal(ROWS[4], ROWS[1], 3.2, at_least=True)),
        notes=[f"no more than {CONCURRENCY / SECONDS:.0f} jobs/s are possible for each replica"],
    )


def _jobs_per_second(context: Context, number: int, jobs: int) -> float:
    """From the first start to the last end, by the ledger's clock."""
    with empty() as url, ExitStack() as stack:
        settings = {"LEDGER_URL": url, "CONCURRENCY": str(CONCURRENCY)}
        servers = [stack.enter_context(replica(context.folder("replica"), **settings)) for _ in range(number)]
        answered = servers[0].post("/events", [_event(one) for one in range(jobs)], content_type=BATCH)
        if any("job_id" not in each for each in answered):
            raise BenchmarkError("not every event of the batch was accepted")
        until_all_ended(ROWS[number], url, servers[0].folder)
        question = (
            "SELECT count(*), sum(attempts), max(ended_at) - min(started_at) FROM jobs WHERE status = 'succeeded'"
        )
        ((succeeded, attempts, took),) = answers(url, servers[0].folder, question)
    if not succeeded == attempts == jobs:
        raise BenchmarkError(f"{jobs} jobs were sent, {succeeded} succeeded in {attempts} attempts")
    return jobs / float(took)


def _event(number: int) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": str(number),
        "source": "/benchmarks",
        "type": "sleep.requested",
        "datacontenttype": "application/json",
        "data": {"seconds": SECONDS, "number": number},
    }
