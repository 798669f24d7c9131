"""Runs things in turn, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

Measure = Callable[[], float]
"""Does the work once; seconds, or a rate."""


def in_turn(variants: Mapping[str, Measure], rounds: int) -> dict[str, list[float]]:
    """A B C, A B C, …: the values of each variant, one per round."""
    values: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(1, rounds + 1):
        for name, measure in variants.items():
            tell(f"round {number} of {rounds}: {name}")
            values[name].append(measure())
    tell("")
    return values


def timed(work: Callable[[], object]) -> Measure:
    """Seconds that `work` takes."""

    def measure() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return measure


def tell(text: str) -> None:
    """What is going on now, on one line that is written over; nothing unless somebody watches."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
