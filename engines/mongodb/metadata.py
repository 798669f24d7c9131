"""What mongodump says of a collection: its options, indexes, kind, as one line of canonical Extended JSON.

https://github.com/mongodb/specifications/blob/master/source/extended-json/extended-json.md
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from bson import json_util
from bson.binary import UuidRepresentation
from bson.json_util import DatetimeRepresentation, JSONMode, JSONOptions

from engines.mongodb.documents import Malformed

Kind = Literal["collection", "view", "time-series"]
CANONICAL = JSONOptions(
    json_mode=JSONMode.CANONICAL,
    datetime_representation=DatetimeRepresentation.NUMBERLONG,
    uuid_representation=UuidRepresentation.UNSPECIFIED,
    tz_aware=False,
)
BUCKETS = "system.buckets."
TYPES: dict[str, Kind] = {"collection": "collection", "view": "view", "timeseries": "time-series", "": "collection"}
WRITTEN = {kind: text for text, kind in TYPES.items() if text}
_WRAPPERS = [
    *({name} for name in ("$oid", "$symbol", "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal")),
    *({name} for name in ("$binary", "$uuid", "$code", "$timestamp", "$regularExpression", "$dbPointer", "$date")),
    *({name} for name in ("$minKey", "$maxKey", "$undefined")),
    {"$code", "$scope"},
]


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection, view or time-series collection, as a server or a dump describes it."""

    database: str
    name: str
    kind: Kind
    options: dict[str, Any]
    indexes: tuple[dict[str, Any], ...] = ()
    uuid: str = ""
    data_in: str = ""
    """The collection its documents are read from; empty for a view."""

    @property
    def capped(self) -> bool:
        return bool(self.options.get("capped"))

    def as_json(self) -> str:
        """In mongodump's own order of keys."""
        found: dict[str, Any] = {"options": self.options} if self.options else {}
        found["indexes"] = list(self.indexes)
        if self.uuid:
            found["uuid"] = self.uuid
        found |= {"collectionName": self.name, "type": WRITTEN[self.kind]}
        return json_util.dumps(found, json_options=CANONICAL, separators=(",", ":"), ensure_ascii=False)


def read(text: str, database: str, name: str, kind: str = "") -> Collection:
    """What a metadata text says (empty: nothing is known but the name); raises `Malformed`."""
    try:
        found = json.loads(text, object_hook=_value) if text.strip() else {}
    except (ValueError, TypeError) as error:
        raise Malformed(f"the metadata of {name!r} are not Extended JSON") from error
    if not isinstance(found, dict):
        raise Malformed(f"the metadata of {name!r} are not an object")
    options, indexes = found.get("options", {}), found.get("indexes", [])
    indexes = [] if indexes is None else indexes  # what mongodump wrote before 100.0
    if not isinstance(options, dict) or not isinstance(indexes, list):
        raise Malformed(f"the metadata of {name!r} have no options and indexes")
    known = TYPES.get(str(found.get("type") or kind))
    if known is None:
        raise Malformed(f"the metadata of {name!r} name a type that is not known")
    if known == "collection" and "viewOn" in options:
        known = "view"
    if known == "collection" and "timeseries" in options:
        known = "time-series"
    real = str(found.get("collectionName") or name)
    return Collection(
        database, real, known, options, tuple(indexes), str(found.get("uuid") or ""), "" if known == "view" else real
    )


def _value(found: dict[str, Any]) -> Any:
    """Values written the canonical way only: `$regex` and `$type` in a validator are operators, not values."""
    if found.keys() and set(found) in _WRAPPERS:
        return json_util.object_hook(found, CANONICAL)
    return found
