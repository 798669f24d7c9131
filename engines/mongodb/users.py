"""Users and roles of one database, as `mongodump --dumpDbUsersAndRoles` writes them.

https://www.mongodb.com/docs/database-tools/mongodump/#std-option-mongodump.--dumpDbUsersAndRoles
"""

from __future__ import annotations

from dataclasses import dataclass

from pymongo.errors import OperationFailure

from engines.errors import AccessDenied
from engines.mongodb.connection import DENIED, Opened, raw_batches
from engines.mongodb.documents import count_documents
from engines.mongodb.metadata import Collection

SOURCES = ("system.users", "system.roles", "system.version")


@dataclass(frozen=True, slots=True)
class Accounts:
    item: Collection
    documents: bytes
    number: int


def accounts(opened: Opened) -> tuple[Accounts, ...]:
    """Raises `AccessDenied` where the connection's user may not read them."""
    database = opened.address.database
    found = []
    for source in SOURCES:
        query: dict[str, str] = {} if source == "system.version" else {"db": database}
        try:
            read = list(raw_batches(opened.on("admin")[source], query))
        except OperationFailure as error:
            if error.code in DENIED:
                raise AccessDenied(
                    "The connection's user may not read users and roles (admin.system.users).",
                    hint="Grant the role `backup` on admin, or back up without `globals`.",
                ) from error
            raise
        item = Collection(database, f"$admin.{source}", "collection", {}, (), "", source)
        documents = b"".join(read)
        found.append(Accounts(item, documents, count_documents(documents)))
    return tuple(found)
