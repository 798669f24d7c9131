"""What became of a run's records so far, countable across attempts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from engines.records.base import Written
from engines.records.fields import Row
from handlers.ingest.guards import Seen, key_hash

MOST_REASONS = 100
MOST_NAMES = 100
SHOWN_REASONS = 20
OTHERS = "…"
_COUNTS = ("pages", "fetched", "inserted", "updated", "unchanged", "rejected", "duplicates", "again", "requests")


@dataclass(slots=True)
class Tally:
    """Counts, and which keys were seen. Small however many records there are."""

    pages: int = 0
    fetched: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    duplicates: int = 0
    again: int = 0
    """Records that were written more than once, each in another transaction."""
    requests: int = 0
    before: int = 0
    """Distinct records that earlier attempts saw; their keys are forgotten."""
    reasons: dict[tuple[str, str], int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    keys: Seen = field(default_factory=Seen)

    @property
    def processed(self) -> int:
        """Records that are in the collection now."""
        return self.inserted + self.updated + self.unchanged - self.again

    @property
    def distinct(self) -> int | None:
        """How many different records were seen, rejected ones too; None when they were too many to be counted."""
        return None if self.keys.full else self.before + self.keys.count

    @property
    def knows_all(self) -> bool:
        """Whether it can be told of each record whether it was seen."""
        return not self.keys.full and not self.before

    def see(self, rows: Sequence[Row], key: int) -> int:
        """Remember their keys; how many were new."""
        new = self.keys.add_all(map(itemgetter(key), rows))
        self.duplicates += len(rows) - new
        return new

    def see_rejected(self, record: bytes) -> None:
        """Remember it by its bytes: its key may be what is wrong with it."""
        self.keys.add(key_hash(record))

    def unseen(self, value: Any) -> bool:
        """Of a key, or of a rejected record's bytes."""
        return key_hash(value) not in self.keys

    def reject(self, reasons: Iterable[Mapping[str, str]]) -> None:
        self.rejected += 1
        for reason in reasons:
            known = (reason["pointer"], reason["detail"])
            if known not in self.reasons and len(self.reasons) >= MOST_REASONS:
                known = ("", OTHERS)
            self.reasons[known] = self.reasons.get(known, 0) + 1

    def miss(self, names: Mapping[str, int]) -> None:
        """Fields that the collection does not have."""
        for name, count in names.items():
            known = name[:200] if name[:200] in self.unknown or len(self.unknown) < MOST_NAMES else OTHERS
            self.unknown[known] = self.unknown.get(known, 0) + count

    def write(self, written: Written) -> None:
        self.inserted += written.inserted
        self.updated += written.updated
        self.unchanged += written.unchanged

    def shown_reasons(self) -> tuple[dict[str, Any], ...]:
        """The most frequent first."""
        most = sorted(self.reasons.items(), key=lambda one: -one[1])[:SHOWN_REASONS]
        return tuple({"pointer": pointer, "detail": detail, "count": count} for (pointer, detail), count in most)

    def kept(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "distinct": self.distinct,
            "reasons": [[*known, count] for known, count in self.reasons.items()],
            "unknown": self.unknown,
        }

    @classmethod
    def found_again(cls, kept: Mapping[str, Any]) -> Tally:
        tally = cls(**{name: kept[name] for name in _COUNTS})
        tally.before = kept["distinct"] or kept["fetched"]
        tally.reasons = {(pointer, detail): count for pointer, detail, count in kept["reasons"]}
        tally.unknown = dict(kept["unknown"])
        return tally
