"""The calculator and its handler: stacks that lose nothing, a cache that works once, histories in real databases."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from engines.arithmetic import ArithmeticEngine
from engines.calculating import Calculated, Calculation, CalculationEngine, Limits
from engines.errors import CalculationRefused, Stopped, TargetUnavailable, UnknownConnection
from engines.registry import EngineRegistry
from engines.run import Run, StopReason, StopToken
from handlers.calculation.calculator import Asking, Calculator
from handlers.calculation.handler import CalculationHandler, CalculationResult
from handlers.calculation.history import Entry, History
from handlers.supplies import ResultCache, Stacks
from service.connections import NamedConnections
from service.jobs import new_id
from service.results.memory import MemoryResults
from service.tables import OpenTables
from tests.servers import new_database
from tests.stacks import DictStacks

DEAR = ("fact", (4000,))
"""Dear enough for the cache, not for a process."""


class CountingEngine(CalculationEngine):
    """The real one; `begun` is set when a calculation begins, which goes on when `go` is set."""

    def __init__(self) -> None:
        self.real = ArithmeticEngine(Limits(processes=1))
        self.done: list[str] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self.go.set()

    def arity(self, operation: str) -> int:
        return self.real.arity(operation)

    def canonical(self, value: Any) -> str:
        return self.real.canonical(value)

    def prepare(self, operation: str, arguments: Sequence[Any]) -> Calculation:
        return self.real.prepare(operation, arguments)

    def calculate(self, calculation: Calculation, stop: StopToken | None = None, *, patient: bool = True) -> Calculated:
        self.begun.set()
        assert self.go.wait(10)
        (stop or StopToken()).check()
        self.done.append(calculation.operation)
        return self.real.calculate(calculation, stop, patient=patient)

    def close(self) -> None:
        self.real.close()


class World:
    """Connections `here` (SQLite), `there` (PostgreSQL) and `away`, which nobody can reach."""

    def __init__(self, folder: Path, postgres: str) -> None:
        sqlite3.connect(folder / "here.sqlite").close()
        self.engine = CountingEngine()
        self.engines = EngineRegistry.default()
        self.connections = NamedConnections(
            {
                "here": f"sqlite:///{folder / 'here.sqlite'}",
                "there": postgres,
                "away": "postgresql://nobody@127.0.0.1:1/none?connect_timeout=1",
            },
            self.engines,
        )
        self.tables = OpenTables(self.connections, self.engines)
        self.stacks = DictStacks()
        self.history = History(self.connections, self.tables, ("here",))

    def calculator(
        self, stacks: Stacks | None = None, *, caching: bool = True, cache: ResultCache | None = None
    ) -> Calculator:
        registry = EngineRegistry(arithmetic=lambda: self.engine)
        return Calculator(registry, stacks or self.stacks, cache or MemoryResults(), self.history, caching=caching)

    def handler(self, stacks: Stacks | None = None) -> CalculationHandler:
        return CalculationHandler(self.calculator(stacks), self.connections)

    def close(self) -> None:
        self.tables.close()
        self.engine.close()


@pytest.fixture(scope="module")
def database(postgres15_url: str) -> Iterator[str]:
    """One for all tests of the module: making one takes longer than most of them."""
    with new_database(postgres15_url) as url:
        yield url


@pytest.fixture
def world(tmp_path: Path, database: str) -> Iterator[World]:
    made = World(tmp_path, database)
    yield made
    made.close()
    with closing(psycopg2.connect(database)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS flexdb_calculations")


def asking(*history: str, **how: Any) -> Asking:
    return Asking(new_id(), datetime.now(UTC), history, **how)


def new_run(job_id: str | None = None, **how: Any) -> Run:
    return Run(job_id or new_id(), how.get("attempt", 1), Path("none"), **how)


def ask(handler: CalculationHandler, run: Run | None = None, **data: Any) -> CalculationResult:
    """As the worker would."""
    request = handler.request_model.model_validate(data)
    assert handler.faults(request) == []
    result = handler.run(request, run or new_run()).result
    assert isinstance(result, CalculationResult)
    return result


def reason(call: Callable[[], Any]) -> str:
    with pytest.raises(CalculationRefused) as caught:
        call()
    return caught.value.reason


# ---------------------------------------------------------------- independent


def test_a_sum_is_answered_and_kept_in_two_databases(world: World) -> None:
    run = new_run()
    found = ask(world.handler(), run, operation="Plus", arguments=[2, "0.5"], history=["here", "there"])
    assert found.model_dump() == {
        "result": "2.5",
        "exact": True,
        "digits": None,
        "cached": False,
        "stack": None,
        "size": None,
        "history": ("here", "there"),
    }
    for name in ("here", "there"):
        (entry,) = world.history.read([name]).entries
        assert abs((entry.created_at - run.now()).total_seconds()) < 60
        assert entry == Entry(run.job_id, "INDEPENDENT", "plus", ("2", "0.5"), "2.5", True, None, entry.created_at)


@pytest.mark.parametrize(
    ("operation", "arguments", "result", "digits"),
    [
        ("plus", [2**53 - 2, 1], 2**53 - 1, 16),
        ("plus", [2**53 - 1, 1], "9007199254740992", 16),
        ("minus", [-(2**53), -1], -(2**53) + 1, 16),
        ("divide", [1, 4], "0.25", None),
        ("divide", [1e300, 3], "3." + "3" * 49 + "E+299", 50),
        ("fact", [20], "2432902008176640000", 19),
        ("times", [0.1, 3], "0.3", None),
    ],
)
def test_results_as_json_has_them(
    world: World, operation: str, arguments: list[Any], result: Any, digits: int | None
) -> None:
    found = ask(world.handler(), operation=operation, arguments=arguments, history=[])
    assert (found.result, found.digits) == (result, digits)


def test_without_a_wish_the_configured_connections_keep_it(world: World) -> None:
    assert ask(world.handler(), operation="abs", arguments=[-3]).history == ("here",)
    assert ask(world.handler(), operation="abs", arguments=[-4], history=[]).history == ()
    assert [entry.result for entry in world.history.read(["here"]).entries] == ["3"]


def test_a_second_attempt_writes_the_same_entry(world: World) -> None:
    handler, run = world.handler(), new_run()
    for attempt in (1, 2):
        again = new_run(run.job_id, attempt=attempt)
        ask(handler, again, operation="plus", arguments=[1, 2], history=["here", "there"])
    assert len(world.history.read(["here", "there"]).entries) == 1


def test_a_history_that_cannot_be_written_fails_the_job_for_now_and_leaves_nothing(world: World) -> None:
    world.calculator().push("default", [1, 2])
    for mode in ("independent", "stack"):
        arguments = [1, 2] if mode == "independent" else []
        with pytest.raises(TargetUnavailable, match="'away'") as caught:
            ask(world.handler(), mode=mode, operation="plus", arguments=arguments, history=["here", "away"])
        assert caught.value.retryable
    assert world.stacks.size("default") == 2
    assert world.history.read(["here"]).entries == ()


# ---------------------------------------------------------------- stacks


def test_a_stack_is_last_in_first_out_and_the_result_stays_off_it(world: World) -> None:
    calculator = world.calculator()
    assert calculator.push("s", [1, 10, 3]) == 3
    answer = calculator.operate("s", "minus", asking("here"))
    assert (answer.text, answer.size) == ("-7", 1), "topmost - next"
    assert calculator.operate("s", "abs", asking("here")).text == "1"
    assert calculator.size("s") == 0
    entries = world.history.read(["here"], flavor="STACK").entries
    assert [(entry.operation, entry.arguments, entry.result, entry.stack) for entry in entries] == [
        ("minus", ("3", "10"), "-7", "s"),
        ("abs", ("1",), "1", "s"),
    ]


@pytest.mark.parametrize(
    ("before", "arguments", "result", "left"),
    [
        ([8, 9], [], 1, []),
        ([8, 9], [5], -4, ["8"]),
        ([8, 9], [5, 7], 2, ["8", "9"]),
        ([8, 9], [4, 5, 7], 2, ["8", "9", "4"]),
        ([], [4, 5, 7], 2, ["4"]),
    ],
)
def test_arguments_are_pushed_first(
    world: World, before: list[Any], arguments: list[Any], result: int, left: list[str]
) -> None:
    handler, run = world.handler(), new_run()
    handler.calculator.push("s", before)
    for attempt in (1, 2):  # a second attempt at the job answers the same and changes nothing
        again = new_run(run.job_id, attempt=attempt)
        found = ask(handler, again, mode="stack", stack="s", operation="minus", arguments=arguments)
        assert (found.result, found.size, found.stack) == (result, len(left), "s")
        assert list(reversed(world.stacks.top("s", 9).values)) == left
    assert len(world.history.read(["here"]).entries) == 1


def test_only_to_push_is_a_job_too(world: World) -> None:
    handler, run = world.handler(), new_run()
    for attempt in (1, 2):
        again = new_run(run.job_id, attempt=attempt)
        found = ask(handler, again, mode="stack", arguments=[1, "2.50"])
        assert (found.result, found.size, found.history) == (None, 2, ())
    assert world.stacks.top("default", 9).values == ("2.5", "1")
    assert world.history.read(["here"]).entries == ()


@pytest.mark.parametrize(
    ("operation", "arguments", "expected"),
    [
        ("divide", [], "division_by_zero"),
        ("divide", [0, 1], "division_by_zero"),
        ("fact", [-1], "negative_factorial"),
        ("root", [], "unknown_operation"),
        ("plus", ["x"], "invalid_argument"),
        ("pow", [10**9, 99], "result_too_large"),
    ],
)
def test_an_operation_that_fails_leaves_the_stack_as_it_was(
    world: World, operation: str, arguments: list[Any], expected: str
) -> None:
    handler = world.handler()
    handler.calculator.push("s", [0, 7])
    before = world.stacks.top("s", 9)
    assert reason(lambda: ask(handler, mode="stack", stack="s", operation=operation, arguments=arguments)) == expected
    assert world.stacks.top("s", 9) == before
    assert world.history.read(["here"]).entries == ()


def test_a_stack_that_is_too_small_says_what_it_has(world: World) -> None:
    calculator = world.calculator()
    calculator.push("s", [1])
    with pytest.raises(CalculationRefused) as caught:
        calculator.operate("s", "plus", asking())
    words = "cannot implement operation plus. It requires 2 arguments and the stack has only 1 arguments"
    assert (caught.value.reason, caught.value.message) == ("too_few_arguments", words)
    with pytest.raises(CalculationRefused) as caught:
        calculator.remove("s", 5)
    assert caught.value.message == "cannot remove 5 from the stack. It has only 1 arguments"
    assert (calculator.remove("s", 0), calculator.remove("s", 1), calculator.remove("s", 0)) == (1, 0, 0)


class Dying(DictStacks):
    """The process dies right after it has changed a stack."""

    def pop(self, name: str, count: int, revision: int, *, step: str | None = None, outcome: str = "") -> bool:
        super().pop(name, count, revision, step=step, outcome=outcome)
        raise KeyboardInterrupt


def test_a_job_that_died_after_the_pop_is_completed_and_takes_nothing_more(world: World) -> None:
    dying = Dying()
    dying.push("s", ["1", "2", "3"])
    run = new_run()
    with pytest.raises(KeyboardInterrupt):
        ask(world.handler(dying), run, mode="stack", stack="s", operation="plus")
    found = ask(world.handler(dying), new_run(run.job_id, attempt=2), mode="stack", stack="s", operation="plus")
    assert (found.result, found.size) == (5, 1)
    assert dying.top("s", 9).values == ("1",)
    (entry,) = world.history.read(["here"]).entries
    assert (entry.id, entry.result) == (run.job_id, "5")


class Unreachable(DictStacks):
    """The ledger goes away between a look and a pop."""

    def pop(self, name: str, count: int, revision: int, *, step: str | None = None, outcome: str = "") -> bool:
        raise TargetUnavailable("The ledger does not answer.")


def test_what_came_to_nothing_is_in_no_history(world: World) -> None:
    stacks = Unreachable()
    stacks.push("s", ["1", "2"])
    with pytest.raises(TargetUnavailable):
        ask(world.handler(stacks), mode="stack", stack="s", operation="plus", history=["here", "there"])
    assert world.history.read(["here", "there"]).entries == ()


def test_what_a_dead_attempt_wrote_down_goes_when_the_job_is_refused_in_the_end(world: World) -> None:
    run = new_run()
    world.history.write(Entry(run.job_id, "STACK", "abs", ("1",), "1", True, "s", run.now()), ["here"])
    again = new_run(run.job_id, attempt=2)
    assert reason(lambda: ask(world.handler(), again, mode="stack", stack="s", operation="abs")) == "too_few_arguments"
    assert world.history.read(["here"]).entries == ()


class Moving(DictStacks):
    """Another replica pushes between a look and a pop, the first few times."""

    times = 2

    def pop(self, name: str, count: int, revision: int, *, step: str | None = None, outcome: str = "") -> bool:
        if self.times:
            self.times -= 1
            self.push(name, ["100"])
        return super().pop(name, count, revision, step=step, outcome=outcome)


def test_a_stack_that_moved_meanwhile_is_looked_at_again(world: World) -> None:
    moving = Moving()
    moving.push("s", ["1", "2"])
    found = ask(world.handler(moving), mode="stack", stack="s", operation="plus")
    assert (found.result, found.size) == (200, 2), "the two that came last"
    (entry,) = world.history.read(["here"]).entries
    assert entry.arguments == ("100", "100")
    moving.times = 1
    assert world.calculator(moving).remove("s", 1) == 2


def test_twenty_clients_on_one_stack_lose_and_double_nothing(world: World) -> None:
    """Two calculators as in two replicas. Powers of two: each sum tells which were added."""
    calculators = [world.calculator(), world.calculator()]
    pushed = [2**number for number in range(40)]
    begin = threading.Barrier(20)

    def client(number: int) -> int:
        calculator = calculators[number % 2]
        begin.wait()
        calculator.push("s", [pushed[number]])
        calculator.push("s", [pushed[20 + number]])
        return int(calculator.operate("s", "plus", asking("here")).text or "")

    with ThreadPoolExecutor(20) as threads:
        results = list(threads.map(client, range(20)))
    assert world.stacks.size("s") == 0
    assert sum(results) == sum(pushed)
    entries = world.history.read(["here"]).entries
    assert sorted(int(entry.result) for entry in entries) == sorted(results)
    assert sorted(int(one) for entry in entries for one in entry.arguments) == pushed


# ---------------------------------------------------------------- cache


def test_equal_requests_at_once_are_worked_out_once(world: World) -> None:
    calculator = world.calculator()
    world.engine.go.clear()
    with ThreadPoolExecutor(20) as threads:
        futures = [threads.submit(calculator.calculate, DEAR[0], DEAR[1], asking()) for _ in range(20)]
        assert world.engine.begun.wait(10)
        world.engine.go.set()
        answers = [future.result(10) for future in futures]
    assert world.engine.done == ["fact"]
    assert len({answer.text for answer in answers}) == 1
    assert sorted(answer.cached for answer in answers) == [False] + [True] * 19
    assert calculator.calculate("FACT", ["4e3"], asking()).cached
    assert world.engine.done == ["fact"]


def test_the_cache_can_be_left_out(world: World) -> None:
    calculator = world.calculator()
    for _ in range(2):
        assert not calculator.calculate(*DEAR, asking(cache=False)).cached
    assert not calculator.calculate(*DEAR, asking()).cached, "nothing had been put there"
    assert len(world.engine.done) == 3
    off = world.calculator(caching=False)
    assert [off.calculate(*DEAR, asking()).cached for _ in range(2)] == [False, False]


@pytest.mark.parametrize("rubbish", ["=", "=12a", "12", '="}', "=<b>", "=1\n", "=\u0663", "~1E5", "=--1", "=1.", "!12"])
def test_what_others_wrote_into_the_cache_is_no_result(world: World, rubbish: str) -> None:
    cache = MemoryResults()
    calculator = world.calculator(cache=cache)
    key = world.engine.prepare(*DEAR).key
    cache.put(key, rubbish)
    answer = calculator.calculate(*DEAR, asking())
    assert (answer.cached, answer.text[:4] if answer.text else "") == (False, "1828")
    assert (cache.get(key) or "").startswith("=1828"), "the right one took its place"


def test_what_is_cheap_is_not_cached(world: World) -> None:
    calculator = world.calculator()
    assert [calculator.calculate("fact", [500], asking()).cached for _ in range(2)] == [False, False]


def test_when_the_one_who_works_is_stopped_another_does_it(world: World) -> None:
    calculator = world.calculator()
    world.engine.go.clear()
    stop = StopToken()
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(calculator.calculate, *DEAR, asking(stop=stop))
        assert world.engine.begun.wait(10)
        others = [threads.submit(calculator.calculate, *DEAR, asking()) for _ in range(2)]
        stop.request(StopReason.CANCEL)
        world.engine.go.set()
        with pytest.raises(Stopped):
            first.result(10)
        assert len({future.result(10).text for future in others}) == 1


def test_who_waits_for_another_can_be_stopped(world: World) -> None:
    calculator = world.calculator()
    world.engine.go.clear()
    stop = StopToken()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(calculator.calculate, *DEAR, asking())
        assert world.engine.begun.wait(10)
        second = threads.submit(calculator.calculate, *DEAR, asking(stop=stop))
        stop.request(StopReason.CANCEL)
        with pytest.raises(Stopped):
            second.result(10)
        world.engine.go.set()
        assert first.result(10).exact


# ---------------------------------------------------------------- requests and histories


def test_a_stack_is_claimed_and_a_sum_claims_nothing(world: World) -> None:
    handler = world.handler()
    stack = handler.request_model(mode="stack", operation="plus", stack="s")
    assert [(claim.key, claim.mode) for claim in handler.claims(stack)] == [("stack:s", "exclusive")]
    assert handler.claims(handler.request_model(operation="plus", arguments=(1, 2))) == ()
    assert handler.connection(stack) is None


@pytest.mark.parametrize(
    ("data", "pointers"),
    [
        ({}, ["/operation"]),
        ({"mode": "stack"}, ["/operation"]),
        ({"operation": "plus", "history": ["here", "nowhere"]}, ["/history/1"]),
        ({"operation": "nonsense", "arguments": ["x"]}, []),
    ],
)
def test_what_is_wrong_with_a_request_is_told_before_it_is_accepted(
    world: World, data: dict[str, Any], pointers: list[str]
) -> None:
    handler = world.handler()
    assert [fault.pointer for fault in handler.faults(handler.request_model.model_validate(data))] == pointers


def kept(world: World, name: str, numbers: Sequence[int], digits: int = 1) -> None:
    for number in numbers:
        at = datetime(2026, 1, 1, 0, 0, number % 60, 123456, UTC)
        world.history.write(
            Entry(
                f"{number:03}", "STACK" if number % 2 else "INDEPENDENT", "abs", ("1",), "1" * digits, True, None, at
            ),
            [name],
        )


def test_a_history_is_read_from_all_its_places_page_by_page(world: World) -> None:
    kept(world, "here", range(0, 60, 2))
    kept(world, "there", [*range(1, 60, 2), 0])
    both = ("here", "there")
    page = world.history.read(both, limit=20)
    assert [entry.id for entry in page.entries] == [f"{number:03}" for number in range(40, 60)]
    assert page.more
    page = world.history.read(both, limit=100, before=page.entries[0].id)
    assert [entry.id for entry in page.entries] == [f"{number:03}" for number in range(40)]
    assert not page.more
    assert page.entries[5].created_at == datetime(2026, 1, 1, 0, 0, 5, 123456, UTC)
    odd = world.history.read(both, flavor="STACK").entries
    assert [entry.id for entry in odd] == [f"{number:03}" for number in range(1, 60, 2)]


def test_a_page_of_long_numbers_is_cut_without_a_gap(world: World) -> None:
    kept(world, "here", range(0, 60, 2), digits=1000)
    kept(world, "there", range(1, 60, 20))
    seen: list[str] = []
    before = None
    while True:
        page = world.history.read(("here", "there"), before=before, most_bytes=1000)
        seen = [entry.id for entry in page.entries] + seen
        if not page.more:
            break
        before = page.entries[0].id
    assert seen == sorted(f"{number:03}" for number in {*range(0, 60, 2), *range(1, 60, 20)})


def test_reading_makes_no_table_and_an_outage_does_not_look_like_an_empty_history(world: World) -> None:
    assert world.history.read(["there"]).entries == ()
    assert world.history.read(["there"]).entries == ()
    with pytest.raises(TargetUnavailable, match="'away'"):
        world.history.read(["there", "away"])


def test_a_kind_of_engine_means_the_configured_connections_else_those_there_are(world: World) -> None:
    history = world.history
    assert history.of_kind("sqlite", single=True) == ("here",)
    assert history.of_kind("postgres", single=False) == ("away", "there")
    with pytest.raises(UnknownConnection, match="away, there"):
        history.of_kind("postgres", single=True)
    with pytest.raises(UnknownConnection, match="mongodb"):
        history.of_kind("mongodb", single=False)
    named = History(world.connections, world.tables, ("there",))
    assert named.of_kind("postgres", single=True) == ("there",)
    assert named.names(None) == ("there",) and named.names([]) == ()
    assert History(world.connections, world.tables).names(None) == (), "there is no demo"
