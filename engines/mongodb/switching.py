"""Putting loaded collections in their places; a journal lets whoever comes next finish what was begun.

Collections are loaded under names of FlexDB's own inside the target database, `flexdb_new_JOB.TOKEN.NUMBER`, because
MongoDB renames a collection at once but a database not at all. The journal, a collection `flexdb_new_JOB`, is written
before the first rename and dropped after the last step. Each step can be done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from engines.errors import TargetBusy, TargetNotEmpty
from engines.mongodb import metadata
from engines.mongodb.address import OWN
from engines.mongodb.connection import Document, Opened, raw_batches
from engines.mongodb.documents import split
from engines.mongodb.load import NAMESPACE_EXISTS, can_be_renamed, creation, wanted_indexes
from engines.mongodb.metadata import BUCKETS, Collection

SWITCH = "switch"
"""The journal's one document."""


@dataclass(frozen=True, slots=True)
class Own:
    """A collection of FlexDB's own in a user's database."""

    name: str
    job_id: str
    token: int | None
    """None for a journal."""


def loading_name(job_id: str, token: int, number: int) -> str:
    return f"flexdb_new_{job_id}.{token}.{number}"


def journal_name(job_id: str) -> str:
    return f"flexdb_new_{job_id}"


def own(database: Database[Document]) -> list[Own]:
    """All of FlexDB's own collections there, of any job."""
    names = database.list_collection_names(filter={"name": {"$regex": "^flexdb_new_"}})
    return [found for name in sorted(names) if (found := _own(name))]


def _own(name: str) -> Own | None:
    match = OWN.match(name)
    if match is None or match[1] != "new":
        return None
    job_id, *rest = match[2].split(".")
    if not rest:
        return Own(name, job_id, None)
    return Own(name, job_id, int(rest[0])) if rest[0].isdigit() else None


def rename_keeps_options(opened: Opened, name: str) -> bool:
    """Whether a collection has its options still after a rename. MongoDB's has; servers that speak its protocol and
    rename by copying may lose them. Tried with a collection of FlexDB's own, which is gone afterwards."""
    database, renamed = opened.database, f"{name}.renamed"
    try:
        database.command({"create": name, "validator": {"n": {"$type": "int"}}})
        _rename(database, name, renamed, _types(database), replaces=False)
        (found,) = database.list_collections(filter={"name": renamed})
        return "validator" in found.get("options", {})
    finally:
        database.drop_collection(name)
        database.drop_collection(renamed)


def steps(
    items: Iterable[Collection],
    named: dict[tuple[str, str], str],
    drops: Sequence[str],
    *,
    raw: set[str],
    copied: set[str],
) -> list[Document]:
    """What has to be done, in order, as the journal keeps it.

    `raw`: time-series collections that were loaded as buckets; `copied`: collections that a rename would harm.
    """
    found: list[Document] = []
    for item in items:
        source = named.get((item.database, item.name), "")
        if item.kind == "view":
            found.append({"do": "view", "name": item.name, "metadata": item.as_json()})
        elif not can_be_renamed(item) or item.name in copied:
            told = {"raw": item.name in raw, "metadata": item.as_json()}
            found.append({"do": "copy", "name": item.name, "from": source, **told})
        else:
            found.append({"do": "rename", "name": item.name, "from": source})
    order = {"rename": 0, "copy": 1, "view": 2}
    found.sort(key=lambda step: order[step["do"]])
    return found + [{"do": "drop", "name": name} for name in drops]


def try_definitions(opened: Opened, items: Iterable[Collection], name: str) -> None:
    """Make what is made only at the switch once before it, empty and under another name: a server that refuses a view
    refuses it while nothing has been touched."""
    for item in items:
        if item.kind != "collection":
            try:
                opened.database.command({"create": name, **creation(item)})
            finally:
                opened.database.drop_collection(name)


def begin(opened: Opened, job_id: str, todo: Sequence[Document], *, replaces: bool) -> None:
    """Write the journal, one document and so all at once: from here on the switch is decided."""
    opened.database[journal_name(job_id)].insert_one({"_id": SWITCH, "replaces": replaces, "steps": list(todo)})


def is_decided(opened: Opened, job_id: str) -> bool:
    """Whether the journal says what to do: a server that died while it was written may have made it and no more."""
    return opened.database[journal_name(job_id)].find_one({"_id": SWITCH}, {"_id": 1}) is not None


def finish(opened: Opened, job_id: str) -> None:
    """Carry out what the journal says; again, when it was begun before.

    Where nothing was to be replaced, a refusal of the server undoes what was switched. Raises `TargetNotEmpty` when
    somebody made a collection of the same name meanwhile.
    """
    database, journal = opened.database, journal_name(job_id)
    told = database[journal].find_one({"_id": SWITCH})
    if told is None:  # it was made, and never written
        database.drop_collection(journal)
        return
    todo, done = list(told["steps"]), 0
    there = _types(database)  # once: asked at each step, this would take the square of the number of collections
    try:
        for step in todo:
            _carry_out(database, journal, done, step, there, replaces=bool(told["replaces"]))
            done += 1
    except OperationFailure as error:
        if told["replaces"]:
            raise
        _undo(database, journal, todo, done)
        if error.code != NAMESPACE_EXISTS:
            raise
        raise TargetNotEmpty("Somebody made a collection of the backup's in the target meanwhile.") from error
    database.drop_collection(journal)


def _undo(database: Database[Document], journal: str, todo: Sequence[Document], done: int) -> None:
    for number, step in enumerate(todo):
        if number < done or step.get("begun"):
            database.drop_collection(step["name"])
    database.drop_collection(journal)
    for step in todo:
        if step.get("from"):
            database.drop_collection(step["from"])


def _carry_out(
    database: Database[Document], journal: str, number: int, step: Document, there: Mapping[str, str], *, replaces: bool
) -> None:
    """`there`: what the database held before the first step, names and types."""
    name = str(step["name"])
    match step["do"]:
        case "rename":
            _rename(database, str(step["from"]), name, there, replaces=replaces)
        case "copy" if step["from"] in there:  # else an earlier attempt did it
            again = bool(step.get("begun"))
            if again or replaces:
                _make_room(database, name)
            item = metadata.read(str(step["metadata"]), database.name, name)
            _copy(database, item, step, lambda: _mark(database, journal, number, step))
        case "view":
            item = metadata.read(str(step["metadata"]), database.name, name)
            if replaces:
                database.drop_collection(name)
            _create_view(database, item)
        case "drop":
            database.drop_collection(name)


def _make_room(database: Database[Document], name: str) -> None:
    if not name.startswith("system."):
        database.drop_collection(name)


def _mark(database: Database[Document], journal: str, number: int, step: Document) -> None:
    """What is there under the step's name is from now on FlexDB's own making."""
    step["begun"] = True
    database[journal].update_one({"_id": SWITCH}, {"$set": {f"steps.{number}.begun": True}})


def _create_view(database: Database[Document], item: Collection) -> None:
    """One that is there already and is the very same was made by an earlier attempt."""
    try:
        database.command({"create": item.name, **creation(item)})
    except OperationFailure as error:
        there = [found.get("options") for found in database.list_collections(filter={"name": item.name})]
        if error.code != NAMESPACE_EXISTS or there != [creation(item)]:
            raise


def _rename(database: Database[Document], source: str, name: str, there: Mapping[str, str], *, replaces: bool) -> None:
    if source not in there:
        return  # an earlier attempt did it
    if replaces and there.get(name, "collection") != "collection":
        database.drop_collection(name)  # only a collection can be replaced by a rename
    database.client.admin.command(
        {"renameCollection": f"{database.name}.{source}", "to": f"{database.name}.{name}", "dropTarget": replaces}
    )


def _copy(database: Database[Document], item: Collection, step: Document, begun: Callable[[], None]) -> None:
    """For what cannot be renamed. Its documents are in the database already, so this needs nothing else."""
    if item.kind == "time-series":
        make_time_series(database, item)
    elif item.name.startswith("system."):
        database[item.name].delete_many({})
    else:
        database.command({"create": item.name, **creation(item)})
    begun()
    source, into = database[str(step["from"])], database[BUCKETS + item.name if step["raw"] else item.name]
    bypass = True if item.options.get("validator") else None
    copied = 0
    for block in raw_batches(source):
        documents = [RawBSONDocument(one) for one in split(block)]
        into.insert_many(documents, bypass_document_validation=bypass)
        copied += len(documents)
    if copied < (there := source.count_documents({})):  # else what is dropped below is the only copy
        raise TargetBusy(f"{copied} of {there} documents of {item.name!r} were read; nothing of them was dropped.")
    if item.kind == "collection" and (indexes := wanted_indexes(item)):
        database.command({"createIndexes": item.name, "indexes": indexes})
    source.drop()


def make_time_series(database: Database[Document], item: Collection) -> None:
    """With its indexes: those can be made before the data, and buckets are few."""
    database.command({"create": item.name, **creation(item)})
    if indexes := wanted_indexes(item):
        database.command({"createIndexes": item.name, "indexes": indexes})


def _types(database: Database[Document]) -> dict[str, str]:
    return {str(found["name"]): str(found.get("type", "collection")) for found in database.list_collections()}


def drop_loaded(opened: Opened, job_id: str, names: Iterable[str]) -> None:
    """After a failure before the switch: what was loaded goes, the journal first, or its steps would find nothing.

    What cannot be dropped now is the sweep's.
    """
    with suppress(PyMongoError):
        opened.database.drop_collection(journal_name(job_id))
        for name in names:
            opened.database.drop_collection(name)
