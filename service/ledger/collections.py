"""Collections that callers have put, by name."""

from __future__ import annotations

import json
from typing import Any

from service.ledger.queries import sql
from service.ledger.records import StoredCollection
from service.ledger.transaction import Session, Transaction


def put(tx: Transaction, name: str, document: dict[str, Any]) -> bool:
    is_new = tx.one(sql.collection, name=name) is None
    tx.run(sql.put_collection, name=name, document=json.dumps(document, ensure_ascii=False), now=tx.now)
    tx.tell("collection")
    return is_new


def delete(tx: Transaction, name: str) -> bool:
    tx.tell("collection")
    return tx.run(sql.delete_collection, name=name) > 0


def every(session: Session) -> list[StoredCollection]:
    return [
        StoredCollection(row["name"], json.loads(row["document"]), row["created_at"], row["updated_at"])
        for row in session.all(sql.collections)
    ]
