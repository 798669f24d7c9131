"""The terminal event: what engines tell of a job never takes the place of what the job itself says."""

from __future__ import annotations

import json

from service.event import terminal_event
from service.jobs import Job, Problem, Status

JOB = Job(
    job_id="j1",
    source="/flexdb/admin",
    event_id="e1",
    operation="ingest",
    connection="shop",
    data={},
    status=Status.RUNNING,
    attempts=2,
    crashes=0,
    max_attempts=3,
    created_at=0.0,
    due_at=0.0,
    started_at=0.0,
    ended_at=None,
    deadline_at=None,
    expires_at=None,
    cancel_requested=False,
    fencing_token=1,
    result=None,
    error=None,
)


def test_details_of_a_failure_do_not_hide_the_jobs_own_fields() -> None:
    problem = Problem("source_failed", "no", details={"status": 404, "attempts": 9, "error": "x", "host": "a"})
    data = json.loads(terminal_event(JOB, Status.FAILED, 1.0, problem=problem).body)["data"]
    assert (data["status"], data["attempts"], data["error"]["code"], data["host"]) == (
        "failed",
        2,
        "source_failed",
        "a",
    )


def test_a_result_does_not_hide_the_jobs_own_fields() -> None:
    event = terminal_event(JOB, Status.SUCCEEDED, 1.0, {"status": "success", "job_id": "other", "pages": 3})
    data = json.loads(event.body)["data"]
    assert (data["status"], data["job_id"], data["pages"]) == ("succeeded", "j1", 3)
