"""What was seen before: keys of records, pages, marks; in little memory, and bounded."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

_MASK = (1 << 64) - 1
_SPREAD = 0x9E3779B97F4A7C15
"""Odd, so that multiplying maps different numbers of 64 bits to different ones (Fibonacci hashing)."""
MOST_KEYS = 4_000_000
_SMALLEST = 1 << 10


def key_hash(value: Any) -> int:
    """64 bits; valid in this process only."""
    number = value if isinstance(value, int) else hash(value)
    return (number * _SPREAD) & _MASK


class Seen:
    """A set of numbers of 64 bits: 16 to 32 bytes each, `most` of them, then it is `full` and takes no more."""

    def __init__(self, most: int = MOST_KEYS) -> None:
        self._most = most
        self._slots = array("Q", bytes(8 * _SMALLEST))
        self.count = 0

    @property
    def full(self) -> bool:
        return self.count >= self._most

    def __contains__(self, number: int) -> bool:
        return self._slots[self._place(number or 1)] != 0

    def add(self, number: int) -> bool:
        """Whether it is new. When full, what is not there yet stays unknown and is called new."""
        number = number or 1  # 0 marks a free place
        place = self._place(number)
        if self._slots[place]:
            return False
        if not self.full:
            self._slots[place] = number
            self.count += 1
            if self.count * 2 > len(self._slots):
                self._grow()
        return True

    def add_all(self, values: Iterable[Any]) -> int:
        """Add the hash of each of them; how many were new."""
        new = 0
        for value in values:  # as `add` does, without a call for each step: this is done for every record
            number = ((value if isinstance(value, int) else hash(value)) * _SPREAD) & _MASK or 1
            slots = self._slots
            mask = len(slots) - 1
            place = (number ^ (number >> 32)) & mask
            while (found := slots[place]) and found != number:
                place = (place + 1) & mask
            if not found:
                new += 1
                if self.count < self._most:
                    slots[place] = number
                    self.count += 1
                    if self.count * 2 > len(slots):
                        self._grow()
        return new

    def _place(self, number: int) -> int:
        """Where it is, or else the free place for it."""
        slots = self._slots
        mask = len(slots) - 1
        place = (number ^ (number >> 32)) & mask
        while (found := slots[place]) and found != number:
            place = (place + 1) & mask
        return place

    def _grow(self) -> None:
        old, slots = self._slots, array("Q", bytes(16 * len(self._slots)))
        self._slots, mask = slots, len(slots) - 1
        for number in filter(None, old):
            place = (number ^ (number >> 32)) & mask
            while slots[place]:
                place = (place + 1) & mask
            slots[place] = number
