"""Schedules: kept, found when they are due, moved from tick to tick with the event that a tick makes."""

from __future__ import annotations

import json
from typing import Any

from service.jobs import new_id
from service.ledger.intake import accept_many
from service.ledger.queries import sql
from service.ledger.records import Acceptance, Accepted, Schedule, ScheduleStep, Submission
from service.ledger.rows import Row
from service.ledger.transaction import Session, Transaction


def put(tx: Transaction, schedule: Schedule) -> bool:
    is_new = tx.one(sql.schedule, name=schedule.name) is None
    tx.run(
        sql.put_schedule,
        name=schedule.name,
        revision=new_id(),
        cron=schedule.cron,
        timezone=schedule.timezone,
        operation=schedule.operation,
        data=json.dumps(schedule.data, ensure_ascii=False),
        enabled=int(schedule.enabled),
        next_at=schedule.next_at,
        now=tx.now,
    )
    tx.tell("schedule")
    return is_new


def delete(tx: Transaction, name: str) -> bool:
    return tx.run(sql.delete_schedule, name=name) > 0


def fire(tx: Transaction, step: ScheduleStep, submission: Submission) -> Acceptance | None:
    """The row is locked first: of several processes, all but one find that it has moved on."""
    if tx.one(sql.hold_schedule, name=step.name, revision=step.revision, from_tick=step.from_tick) is None:
        return None
    (answer,) = accept_many(tx, [submission])
    if isinstance(answer, Accepted):
        tx.run(sql.move_schedule, name=step.name, tick=step.tick, to_tick=step.to_tick, job_id=answer.job_id)
    return answer


def advance(tx: Transaction, step: ScheduleStep, refusal: dict[str, Any]) -> bool:
    moved = tx.run(
        sql.refuse_tick,
        name=step.name,
        revision=step.revision,
        from_tick=step.from_tick,
        to_tick=step.to_tick,
        refusal=json.dumps(refusal, ensure_ascii=False),
    )
    return moved > 0


def one(session: Session, name: str) -> Schedule | None:
    row = session.one(sql.schedule, name=name)
    return None if row is None else schedule_of(row)


def every(session: Session) -> list[Schedule]:
    return [schedule_of(row) for row in session.all(sql.schedules)]


def due(session: Session, limit: int) -> list[Schedule]:
    return [schedule_of(row) for row in session.all(sql.due_schedules, now=session.now(), limit=limit)]


def next_due(session: Session) -> float | None:
    row = session.one(sql.next_schedule_due)
    if row is None or row["next_at"] is None:
        return None
    return max(0.0, float(row["next_at"]) - session.now())


def schedule_of(row: Row) -> Schedule:
    refusal = row["last_refusal"]
    return Schedule(
        name=row["name"],
        cron=row["cron"],
        timezone=row["timezone"],
        operation=row["operation"],
        data=json.loads(row["data"]),
        enabled=bool(row["enabled"]),
        next_at=row["next_at"],
        revision=row["revision"],
        last_at=row["last_at"],
        last_job_id=row["last_job_id"],
        last_refusal=None if refusal is None else json.loads(refusal),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
