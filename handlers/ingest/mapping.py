"""Fields of records taken from other names, or from within."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from handlers.ingest.documents import Raw, dig, first_byte, members, steps_of


class FieldMapping:
    """Of the collection's fields to paths in a source's record. What is not named keeps its name."""

    def __init__(self, fields: Mapping[str, str], names: Collection[str]) -> None:
        self._paths = {name: steps_of(path) for name, path in fields.items()}
        used = {steps[0] for steps in self._paths.values() if steps}
        self._dropped = used - set(names)

    def __bool__(self) -> bool:
        return bool(self._paths)

    def applied(self, record: Raw) -> Raw:
        """The record by the collection's names; as it came when it is no object."""
        if first_byte(record) != b"{":
            return record
        try:
            inside = members(record)
            found = {name: value for name, steps in self._paths.items() if (value := dig(record, steps)) is not None}
        except ValueError:
            return record
        left = {name: value for name, value in inside.items() if name not in self._dropped and name not in self._paths}
        return Raw(msgspec.json.encode(left | found))
