"""Dear calculations in processes: killed, limited, stopped, and never in the way of the event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gmpy2
import psutil
import pytest

from engines.arithmetic import ArithmeticEngine
from engines.calculating import WAITING_EACH, Calculated, Limits
from engines.errors import CalculationRefused, Stopped, TargetBusy
from engines.run import StopReason, StopToken

ENDLESS = ("fact", (10**8,))
"""Minutes of work."""


@contextmanager
def arithmetic(**limits: Any) -> Iterator[ArithmeticEngine]:
    engine = ArithmeticEngine(Limits(**({"processes": 1, "digits": 10**9} | limits)))
    try:
        yield engine
    finally:
        engine.close()


def calculated(engine: ArithmeticEngine, operation: str, *arguments: Any, **how: Any) -> Calculated:
    return engine.calculate(engine.prepare(operation, arguments), **how)


def waited_for(state: Callable[[], Any], seconds: float = 10) -> Any:
    until = time.monotonic() + seconds
    while not (found := state()):
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.005)
    return found


def working(engine: ArithmeticEngine, but: int = 0) -> int:
    """The process that calculates, as soon as it has used processor time for it."""

    def busy() -> int:
        for pid in engine.pool.pids():
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.NoSuchProcess:
                continue
            if pid != but and times.user > 0.15:
                return pid
        return 0

    return int(waited_for(busy))


def test_what_is_dear_is_done_in_one_process_again_and_again() -> None:
    with arithmetic() as engine:
        found = calculated(engine, "fact", 30_000)
        assert found == Calculated(gmpy2.fac(30_000).digits(), True)
        pids = engine.pool.pids()
        assert len(pids) == 1 and os.getpid() not in pids
        assert calculated(engine, "fibonacci", -500_000).text == "-" + gmpy2.fib(500_000).digits()
        assert calculated(engine, "divide", "2" + "0" * 400_000, 3).text == "6." + "6" * 48 + "7E+399999"
        assert calculated(engine, "plus", "9" * 500_000, 1).text == "1" + "0" * 500_000
        assert engine.pool.pids() == pids
    waited_for(lambda: not psutil.pid_exists(pids[0]))


def test_a_result_of_a_million_digits_takes_no_more_than_it_must() -> None:
    """The interpreter's own text of it would take 13 seconds."""
    with arithmetic(seconds=5) as engine:
        assert len(calculated(engine, "fact", 200_000).text) == 973_351


def test_a_process_that_was_killed_in_mid_work_is_replaced_and_the_work_done() -> None:
    with arithmetic() as engine, ThreadPoolExecutor(1) as thread:
        future = thread.submit(calculated, engine, "fact", 600_000)
        first = working(engine)
        os.kill(first, signal.SIGKILL)
        assert future.result(30) == Calculated(gmpy2.fac(600_000).digits(), True)
        assert engine.pool.pids() != [first]


def test_one_that_is_killed_twice_ends_as_want_of_memory() -> None:
    with arithmetic() as engine, ThreadPoolExecutor(1) as thread:
        future = thread.submit(calculated, engine, *(ENDLESS[0], *ENDLESS[1]))
        first = working(engine)
        os.kill(first, signal.SIGKILL)
        os.kill(working(engine, but=first), signal.SIGKILL)
        with pytest.raises(CalculationRefused) as caught:
            future.result(10)
        assert caught.value.reason == "memory_limit"
        assert calculated(engine, "fact", 30_000).exact, "the next one has a new process"


def test_a_process_that_was_killed_while_idle_is_not_missed() -> None:
    with arithmetic() as engine:
        calculated(engine, "fact", 30_000)
        (pid,) = engine.pool.pids()
        os.kill(pid, signal.SIGKILL)
        waited_for(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        assert calculated(engine, "fact", 30_000).exact
        assert engine.pool.pids() != [pid]
        assert not psutil.pid_exists(pid), "it was waited for"


@pytest.mark.parametrize(
    ("operation", "argument", "limits", "reason"),
    [("fact", 10**8, {"seconds": 0.3}, "time_limit"), ("fact", 10**8, {"megabytes": 64}, "memory_limit")],
)
def test_what_takes_too_much_is_ended(operation: str, argument: int, limits: dict[str, Any], reason: str) -> None:
    with arithmetic(**limits) as engine:
        began = time.monotonic()
        with pytest.raises(CalculationRefused) as caught:
            calculated(engine, operation, argument)
        assert caught.value.reason == reason
        assert time.monotonic() - began < 5
        assert engine.pool.pids() == []
        assert calculated(engine, "fact", 30_000).exact, "the next one is served"


def test_a_stop_ends_the_work_at_once() -> None:
    with arithmetic() as engine, ThreadPoolExecutor(1) as thread:
        stop = StopToken()
        future = thread.submit(calculated, engine, ENDLESS[0], *ENDLESS[1], stop=stop)
        pid = working(engine)
        asked = time.monotonic()
        stop.request(StopReason.CANCEL)
        with pytest.raises(Stopped):
            future.result(5)
        assert time.monotonic() - asked < 2
        assert not psutil.pid_exists(pid)
        with pytest.raises(Stopped):
            calculated(engine, "fact", 30_000, stop=stop)


def test_who_waits_for_a_process_can_be_stopped_too() -> None:
    with arithmetic() as engine, ThreadPoolExecutor(2) as threads:
        first, second = StopToken(), StopToken()
        working_one = threads.submit(calculated, engine, ENDLESS[0], *ENDLESS[1], stop=first)
        working(engine)
        waiting = threads.submit(calculated, engine, "fact", 30_000, stop=second)
        waited_for(lambda: engine.pool.waiting == 1)
        second.request(StopReason.DEADLINE)
        with pytest.raises(Stopped):
            waiting.result(5)
        first.request(StopReason.CANCEL)
        with pytest.raises(Stopped):
            working_one.result(5)


def test_the_impatient_are_turned_away_when_many_wait() -> None:
    most = WAITING_EACH + 1
    with arithmetic() as engine, ThreadPoolExecutor(most) as threads:
        stop = StopToken()
        futures = [threads.submit(calculated, engine, ENDLESS[0], *ENDLESS[1], stop=stop) for _ in range(most)]
        waited_for(lambda: engine.pool.waiting == WAITING_EACH)
        with pytest.raises(TargetBusy):
            calculated(engine, "fact", 30_000, patient=False)
        assert calculated(engine, "fact", 30, patient=False).exact, "what is cheap waits for nobody"
        stop.request(StopReason.CANCEL)
        for future in futures:
            with pytest.raises(Stopped):
                future.result(5)


def test_closing_ends_what_is_being_done() -> None:
    with arithmetic() as engine, ThreadPoolExecutor(1) as thread:
        future = thread.submit(calculated, engine, *(ENDLESS[0], *ENDLESS[1]))
        pid = working(engine)
        engine.close()
        with pytest.raises(TargetBusy):
            future.result(5)
        with pytest.raises(TargetBusy):
            calculated(engine, "fact", 30_000)
        waited_for(lambda: not psutil.pid_exists(pid))
    engine.close()


SERVICE = textwrap.dedent(
    """
    import sys, threading, time
    from engines.arithmetic import ArithmeticEngine
    from engines.calculating import Limits
    engine = ArithmeticEngine(Limits(processes=2, digits=10**9, seconds=0.9))
    engine.calculate(engine.prepare("fact", (30_000,)))
    if sys.argv[1] == "busy":
        threading.Thread(target=lambda: engine.calculate(engine.prepare("fact", (10**8,))), daemon=True).start()
    print(*engine.pool.pids(), flush=True)
    time.sleep(60)
    """
)


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_no_process_outlives_a_service_that_was_killed(state: str) -> None:
    """One at work ends by its limit on processor time, two seconds."""
    service = subprocess.Popen(
        [sys.executable, "-c", SERVICE, state], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert service.stdout is not None
    child = psutil.Process(int(service.stdout.readline().split()[0]))
    if state == "busy":
        waited_for(lambda: child.cpu_times().user > 0.1)
    service.kill()
    service.wait()
    service.stdout.close()
    waited_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 15)


async def test_the_event_loop_does_not_stand_still() -> None:
    """Calculations of a million digits beside a ticker; threads, which hold the interpreter, stalled it for seconds."""
    gaps: list[float] = []
    ended = threading.Event()

    async def ticker() -> None:
        last = time.perf_counter()
        while not ended.is_set():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    with arithmetic(processes=2) as engine:
        ticking = asyncio.create_task(ticker())
        long = ("7" * 1_000_000, "8" * 1_000_000)
        wished: list[tuple[Any, ...]] = [("fact", 200_000), ("fibonacci", 5_000_000), ("plus", *long)]
        found = await asyncio.gather(*(asyncio.to_thread(calculated, engine, *wish) for wish in wished))
        ended.set()
        await ticking
    assert [len(one.text) for one in found] == [973_351, 1_044_938, 1_000_001]
    stood_still = sum(gap for gap in gaps if gap > 0.05)
    assert stood_still < sum(gaps) / 3, "hiccups of a busy machine are forgiven, a held interpreter is not"
