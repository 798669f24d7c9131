"""Named stacks of numbers: each change is one transaction that only one process makes at a time."""

from __future__ import annotations

from collections.abc import Sequence

from handlers.supplies import Taken
from service.ledger.queries import sql
from service.ledger.transaction import Session, Transaction


def size(session: Session, name: str) -> int:
    return _state(session, name)[0]


def top(tx: Transaction, name: str, count: int) -> Taken:
    """In a transaction, because the values and the state they belong to must be of one moment."""
    _hold(tx, name)
    size, revision = _state(tx.session, name)
    rows = tx.all(sql.top_of_stack, name=name, floor=max(0, size - count))
    return Taken(tuple(row["value"] for row in rows), size, revision)


def push(tx: Transaction, name: str, values: Sequence[str], made: str | None) -> int:
    _hold(tx, name)
    if made is not None and (outcome := step(tx.session, made)) is not None:
        return int(outcome)
    size, _ = _state(tx.session, name)
    grown = size + len(values)
    tx.run(sql.make_stack, name=name)
    tx.insert(sql.push_stack_values, [(name, size + number, value) for number, value in enumerate(values, 1)])
    tx.run(sql.resize_stack, name=name, size=grown)
    _note(tx, made, str(grown))
    return grown


def pop(tx: Transaction, name: str, count: int, revision: int, made: str | None, outcome: str) -> bool:
    _hold(tx, name)
    if made is not None and step(tx.session, made) is not None:
        return True
    size, present = _state(tx.session, name)
    if present != revision or count > size:
        return False
    tx.run(sql.pop_stack_values, name=name, size=size - count)
    tx.run(sql.resize_stack, name=name, size=size - count)
    _note(tx, made, outcome)
    return True


def step(session: Session, made: str) -> str | None:
    row = session.one(sql.stack_step, step=made)
    return None if row is None else str(row["outcome"])


def _hold(tx: Transaction, name: str) -> None:
    tx.session.lock(["stack:" + name])


def _state(session: Session, name: str) -> tuple[int, int]:
    """Size and revision; a stack nobody has put anything on is empty."""
    row = session.one(sql.stack, name=name)
    return (0, 0) if row is None else (int(row["size"]), int(row["revision"]))


def _note(tx: Transaction, made: str | None, outcome: str) -> None:
    if made is not None:
        tx.run(sql.keep_stack_step, step=made, outcome=outcome, now=tx.now)
