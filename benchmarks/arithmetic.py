"""The calculator's large results: by FlexDB's processes, bare gmpy2, Python's own integers, and from the cache."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

import gmpy2

from benchmarks.context import Context
from benchmarks.report import Figure, Goal, Result
from benchmarks.rounds import in_turn, tell, timed
from engines.arithmetic import ArithmeticEngine
from engines.calculating import CalculationEngine, Limits
from service.results import Results, open_results
from service.results.memory import MemoryResults
from service.results.shared import PREFIX, RedisResults

FULL = {"fact": 200_000, "fibonacci": 5_000_000}
QUICK = {"fact": 20_000, "fibonacci": 500_000}
REDIS = os.environ.get("FLEXDB_BENCH_REDIS_URL", "redis://127.0.0.1:6379/0")
OURS, BARE, CACHED, SHARED = "{}: FlexDB", "{}: bare gmpy2", "{}: from memory", "{}: from Redis"
STALL_MS = 50.0
BARE_WORK: dict[str, Callable[[int], str]] = {
    "fact": lambda number: str(gmpy2.fac(number).digits()),
    "fibonacci": lambda number: str(gmpy2.fib(number).digits()),
}


def run(context: Context) -> Result:
    sizes = QUICK if context.quick else FULL
    engine = ArithmeticEngine(Limits(processes=2))
    notes = ["decimal text and all; a process of FlexDB's that is running already"]
    try:
        with closing(open_results(None)) as near, _redis(notes) as far:
            variants = _variants(engine, sizes, near, far)
            for measure in variants.values():  # the processes are started, the caches filled
                measure()
            rows = in_turn(variants, context.rounds)
        figures = [*_stalls(engine, sizes), *_pythons(sizes)]
    finally:
        engine.close()
    return Result(
        title=", ".join(_called(name, size) for name, size in sizes.items()),
        unit="seconds",
        rows=rows,
        baselines={row: BARE.format(_called(name, size)) for name, size in sizes.items() for row in _rows(name, size)},
        compared="ratio to bare gmpy2",
        goals=tuple(
            Goal(OURS.format(_called(name, size)), BARE.format(_called(name, size)), 1.10)
            for name, size in sizes.items()
        ),
        figures=figures,
        notes=notes,
    )


def _called(name: str, size: int) -> str:
    return f"{name}({size:,})"


def _rows(name: str, size: int) -> list[str]:
    return [row.format(_called(name, size)) for row in (BARE, OURS, CACHED, SHARED)]


def _variants(
    engine: CalculationEngine, sizes: dict[str, int], near: Results, far: Results | None
) -> dict[str, Callable[[], float]]:
    found: dict[str, Callable[[], float]] = {}
    for name, size in sizes.items():
        bare, ours, cached, shared = _rows(name, size)
        key = engine.prepare(name, [size]).key
        result = BARE_WORK[name](size)
        found[bare] = timed(partial(BARE_WORK[name], size))
        found[ours] = timed(partial(_calculated, engine, name, size))
        near.put(key, result)
        found[cached] = timed(partial(near.get, key))
        if far is not None:
            far.put(key, result)
            found[shared] = timed(partial(far.get, key))
    return found


def _calculated(engine: CalculationEngine, name: str, size: int) -> str:
    return engine.calculate(engine.prepare(name, [size])).text


@contextmanager
def _redis(notes: list[str]) -> Iterator[Results | None]:
    """Without a memory in front of it; None where none answers. What was put there is removed."""
    import redis

    far = RedisResults(REDIS, MemoryResults(0))
    client = redis.Redis.from_url(REDIS)
    try:
        client.ping()
    except redis.RedisError:
        notes.append("NOT MEASURED: Redis, none answers")
        yield None
    else:
        yield far
        client.delete(*client.scan_iter(f"{PREFIX}fact:*"), *client.scan_iter(f"{PREFIX}fibonacci:*"))
    finally:
        far.close()
        client.close()


def _stalls(engine: CalculationEngine, sizes: dict[str, int]) -> list[Figure]:
    """The longest time an event loop in this process stands still meanwhile."""

    def ours() -> None:
        for name, size in sizes.items():
            _calculated(engine, name, size)

    def in_a_thread() -> None:
        for name, size in sizes.items():
            BARE_WORK[name](size)

    return [
        Figure("event loop stands still at most, FlexDB", _longest_gap(ours), "ms", STALL_MS),
        Figure("the same, gmpy2 in a thread", _longest_gap(in_a_thread), "ms"),
    ]


def _longest_gap(work: Callable[[], None]) -> float:
    """Milliseconds between two ticks of a ticker of one, while `work` is done in a thread, three times."""
    tell("event loop")

    async def measured() -> float:
        longest, ended = 0.0, threading.Event()

        async def worked() -> None:
            for _ in range(3):
                await asyncio.to_thread(work)
            ended.set()

        working = asyncio.create_task(worked())
        last = time.perf_counter()
        while not ended.is_set():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        await working
        return longest * 1000

    return asyncio.run(measured())


def _pythons(sizes: dict[str, int]) -> list[Figure]:
    """Python's own integers and text, once: it takes long."""
    found = []
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        for name, size in sizes.items():
            tell(f"Python's own integers: {_called(name, size)}")
            work = math.factorial if name == "fact" else _fibonacci
            seconds = timed(partial(_text, work, size))()
            found.append(Figure(f"{_called(name, size)}, Python's own integers, once", seconds, "s"))
    finally:
        sys.set_int_max_str_digits(before)
        tell("")
    return found


def _text(work: Callable[[int], int], size: int) -> str:
    return str(work(size))


def _fibonacci(number: int) -> int:
    """By fast doubling."""
    first, second = 0, 1
    for bit in bin(number)[2:]:
        first, second = first * (2 * second - first), first * first + second * second
        if bit == "1":
            first, second = second, first + second
    return first
