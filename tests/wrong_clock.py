"""Sets this process's clock FLEXDB_TEST_CLOCK_OFFSET seconds off, as a machine with a wrong clock is."""

from __future__ import annotations

import os
import time

OFFSET = float(os.environ.get("FLEXDB_TEST_CLOCK_OFFSET") or 0)


def _shift(seconds: float) -> None:
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + seconds
    time.time_ns = lambda: right_ns() + round(seconds * 1e9)


if OFFSET:
    _shift(OFFSET)
