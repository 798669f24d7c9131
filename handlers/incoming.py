"""Where uploaded files wait in a store."""

from __future__ import annotations

from engines.storage.base import Store, StoredObject

INCOMING = "_incoming"
"""The folder of a store where uploaded files wait; no connection can have this name."""
NAME = r"^(?:[A-Za-z0-9][A-Za-z0-9._-]{0,149}|_ingest-[A-Za-z0-9._-]{1,142})$"
READ_ONCE = "_ingest-"
"""What the names of files begin with that an ingest removes when it has taken all of them in: bodies of requests, and
what `flexdb ingest --file` sends. All others belong to whoever uploaded them."""


def incoming_key(name: str) -> str:
    """Where the uploaded file of that name lies in its store."""
    return f"{INCOMING}/{name}"


def uploaded(store: Store, name: str) -> StoredObject | None:
    """The uploaded file of that name, None when there is none. Raises `StorageFailed`."""
    key = incoming_key(name)
    return next((found for found in store.list(key) if found.key == key), None)
