"""The calculator's plain calls, as its users know them, over the real service."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from engines.calculating import Limits
from service.http.calculator import threads
from tests.integration.real_service import Answer, Running, running

CALCULATE = "/calculator/independent/calculate"
ARGUMENTS = "/calculator/stack/arguments"
OPERATE = "/calculator/stack/operate"
HISTORY = "/calculator/history"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("calculator")
    urls = {"away": "postgresql://nobody@127.0.0.1:1/none?connect_timeout=1"}
    for name in ("kept", "other", "third"):
        sqlite3.connect(folder / f"{name}.sqlite").close()
        urls[name] = f"sqlite:///{folder / name}.sqlite"
    async with running(
        folder,
        role="all",
        connections=urls,
        calculation_history=("kept",),
        calculation_digits=10_000_000,
        calculation_seconds=0.3,
        calculation_processes=1,
    ) as found:
        yield found


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def calculate(service: Running, operation: str, *arguments: Any, **more: Any) -> Answer:
    return await service.ask("POST", CALCULATE, {"operation": operation, "arguments": arguments} | more)


async def push(service: Running, stack: str, *arguments: Any) -> Any:
    answer = await service.ask("PUT", f"{ARGUMENTS}?stack={stack}", {"arguments": arguments})
    assert answer.status == 200, answer.body
    return answer.json["result"]


async def size(service: Running, stack: str) -> Any:
    return (await service.get(f"/calculator/stack/size?stack={stack}"))["result"]


@pytest.mark.parametrize(
    ("operation", "arguments", "result"),
    [
        ("plus", [1, 2], "3"),
        ("minus", [1, 2.5], '"-1.5"'),
        ("Times", [0.1, 0.2], '"0.02"'),
        ("divide", [9, 3], "3"),
        ("divide", [1, 3], f'"0.{"3" * 50}"'),
        ("pow", [2, 10], "1024"),
        ("pow", [2, 64], '"18446744073709551616"'),
        ("abs", [-7], "7"),
        ("fact", [5], "120"),
        ("fibonacci", ["10"], "55"),
    ],
)
async def test_operations_are_answered_as_plain_results(
    service: Running, operation: str, arguments: list[Any], result: str
) -> None:
    answer = await calculate(service, operation, *arguments)
    assert (answer.status, answer.body.decode()) == (200, f'{{"result": {result}}}')


async def test_numbers_are_taken_as_they_are_written(service: Running) -> None:
    body = b'{"operation": "plus", "arguments": [0.10000000000000000000000000001, 123456789012345678901234567890]}'
    answer = await service.ask("POST", CALCULATE, body, {"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.json == {"result": "123456789012345678901234567890.10000000000000000000000000001"}


@pytest.mark.parametrize(
    ("operation", "arguments", "words"),
    [
        ("modulo", [1, 2], "Error: unknown operation: modulo"),
        ("plus", [1], "Error: Not enough arguments to perform the operation plus"),
        ("Fact", [], "Error: Not enough arguments to perform the operation Fact"),
        ("plus", [1, 2, 3], "Error: Too many arguments to perform the operation plus"),
        ("divide", [1, 0], "Error while performing operation Divide: division by 0"),
        ("fact", [-1], "Error while performing operation Factorial: not supported for the negative number"),
        ("fact", [1.5], "Error while performing operation Factorial: it takes an integer"),
        ("plus", ["one", 2], "Error: 'one' is not a number"),
    ],
)
async def test_what_cannot_be_calculated_is_said_in_the_calculators_words(
    service: Running, operation: str, arguments: list[Any], words: str
) -> None:
    answer = await calculate(service, operation, *arguments)
    assert (answer.status, answer.json) == (409, {"errorMessage": words})


@pytest.mark.parametrize(
    ("operation", "arguments", "reason"),
    [
        ("fact", [10**7], "result_too_large"),
        ("pow", [9, 10**9], "result_too_large"),
        ("plus", ["1e10000001", 1], "argument_too_large"),
    ],
)
async def test_limits_of_the_service_are_problems(
    service: Running, operation: str, arguments: list[Any], reason: str
) -> None:
    answer = await calculate(service, operation, *arguments)
    assert (answer.status, answer.code, answer.json["reason"]) == (422, "calculation_refused", reason)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed_json"),
        (b'{"operation": "plus", "operation": "minus", "arguments": [1, 2]}', 400, "malformed_json"),
        (b"[]", 422, "invalid_request"),
        (b"", 422, "invalid_request"),
        ({"operation": "plus"}, 422, "invalid_request"),
        ({"operation": 1, "arguments": []}, 422, "invalid_request"),
        ({"operation": "plus", "arguments": [True, 1]}, 422, "invalid_request"),
        ({"operation": "plus", "arguments": [[1], 1]}, 422, "invalid_request"),
        ({"operation": "plus", "arguments": "12"}, 422, "invalid_request"),
        ({"operation": "plus", "arguments": [1] * 10_001}, 422, "invalid_request"),
        ({"operation": "plus", "arguments": [1, 2], "nonsense": 1}, 422, "invalid_request"),
        ({"operation": "plus", "arguments": [1, 2], "history": ["none"]}, 422, "unknown_connection"),
        ({"operation": "plus", "arguments": [1, 2], "persistenceMethod": "ORACLE"}, 422, "invalid_request"),
        ({"operation": "plus", "arguments": [1, 2], "persistenceMethod": "MONGO"}, 422, "unknown_connection"),
        ({"operation": "plus", "arguments": [1, 2], "connection": "kept", "history": []}, 422, "invalid_request"),
        ({"operation": "plus", "arguments": [1, 2], "connection": "away"}, 503, "target_unavailable"),
    ],
)
async def test_requests_that_make_no_sense_are_problems(service: Running, body: Any, status: int, code: str) -> None:
    answer = await service.ask("POST", CALCULATE, body)
    assert (answer.status, answer.code) == (status, code)
    assert ("Retry-After" in answer.headers) == (status == 503)


async def test_a_stack_by_its_calls(service: Running) -> None:
    assert await size(service, "walk") == 0
    assert await push(service, "walk", 1, 2, 3) == 3
    answer = await service.ask("GET", f"{OPERATE}?stack=walk&operation=minus")
    assert answer.json == {"result": 1}, "topmost - next"
    answer = await service.ask("POST", OPERATE, {"operation": "plus", "stack": "walk"})
    told = "Error: cannot implement operation plus. It requires 2 arguments and the stack has only 1 arguments"
    assert (answer.status, answer.json) == (409, {"errorMessage": told})
    answer = await service.ask("DELETE", f"{ARGUMENTS}?stack=walk&count=5")
    told = "Error: cannot remove 5 from the stack. It has only 1 arguments"
    assert (answer.status, answer.json) == (409, {"errorMessage": told})
    answer = await service.ask("DELETE", f"{ARGUMENTS}?stack=walk&count=1")
    assert (answer.status, answer.json) == (200, {"result": 0})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", ARGUMENTS),
        ("DELETE", f"{ARGUMENTS}?count=-1"),
        ("DELETE", f"{ARGUMENTS}?count=many"),
        ("GET", OPERATE),
        ("GET", f"{OPERATE}?operation=plus&stack=UPPER"),
        ("GET", f"{OPERATE}?operation=plus&operation=minus"),
        ("GET", f"{OPERATE}?operation=plus&nonsense=1"),
        ("GET", "/calculator/stack/size?stack=a%2Fb"),
        ("GET", f"{HISTORY}?flavor=BOTH"),
        ("GET", f"{HISTORY}?limit=0"),
        ("GET", f"{HISTORY}?persistenceMethod=mongo"),
        ("GET", f"{HISTORY}?stack=default"),
    ],
)
async def test_wrong_parameters_are_refused(service: Running, method: str, path: str) -> None:
    answer = await service.ask(method, path)
    assert (answer.status, answer.code) == (422, "invalid_request")


async def test_a_look_at_the_headers_takes_nothing_from_a_stack(service: Running) -> None:
    await push(service, "looked-at", 1, 2)
    answer = await service.ask("HEAD", f"{OPERATE}?stack=looked-at&operation=plus")
    assert answer.status == 405
    assert await size(service, "looked-at") == 2


async def test_a_number_that_is_none_pushes_nothing(service: Running) -> None:
    answer = await service.ask("PUT", f"{ARGUMENTS}?stack=partly", {"arguments": [1, "x"]})
    assert (answer.status, answer.json) == (409, {"errorMessage": "Error: 'x' is not a number"})
    assert await size(service, "partly") == 0


async def test_a_history_that_is_away_leaves_the_stack_as_it_was(service: Running) -> None:
    await push(service, "careful", 1, 2)
    answer = await service.ask("GET", f"{OPERATE}?stack=careful&operation=plus&connection=away")
    assert (answer.status, answer.code) == (503, "target_unavailable")
    assert await size(service, "careful") == 2


async def test_twenty_clients_on_one_stack_lose_and_double_nothing(service: Running) -> None:
    pushed = [2**number for number in range(40)]

    async def client(number: int) -> int:
        await push(service, "shared", pushed[number])
        await push(service, "shared", pushed[20 + number])
        answer = await service.ask("GET", f"{OPERATE}?stack=shared&operation=plus&history=other")
        assert answer.status == 200, answer.body
        return int(answer.json["result"])

    results = await asyncio.gather(*map(client, range(20)))
    assert await size(service, "shared") == 0
    assert sum(results) == sum(pushed)
    entries = [
        entry
        for entry in (await service.get(f"{HISTORY}?connection=other&flavor=STACK"))["result"]
        if entry["stack"] == "shared"
    ]
    assert Counter(one for entry in entries for one in entry["arguments"]) == Counter(pushed)


async def test_a_calculation_without_a_wish_is_kept_where_it_is_configured(service: Running) -> None:
    await calculate(service, "times", "12345678901234567890", "0.5")
    (entry,) = (await service.get(f"{HISTORY}?limit=1"))["result"]
    assert entry.pop("id") and entry.pop("created_at").endswith("Z")
    assert entry == {
        "flavor": "INDEPENDENT",
        "operation": "times",
        "arguments": ["12345678901234567890", "0.5"],
        "result": "6172839450617283945",
        "exact": True,
        "stack": None,
    }
    assert (await service.get(f"{HISTORY}?persistenceMethod=SQLITE&limit=1"))["result"][0]["operation"] == "times"


async def test_a_history_is_paged_by_link_the_newest_last(service: Running) -> None:
    for number in range(5):
        assert (await calculate(service, "plus", number, 0, connection="third")).status == 200
    answer = await service.ask("GET", f"{HISTORY}?connection=third&limit=2")
    assert [entry["result"] for entry in answer.json["result"]] == [3, 4]
    following = answer.headers["Link"].partition(">")[0].lstrip("<")
    answer = await service.ask("GET", following)
    assert [entry["result"] for entry in answer.json["result"]] == [1, 2]


async def test_refused_calculations_are_not_in_the_history(service: Running) -> None:
    before = await service.get(f"{HISTORY}?limit=1")
    await calculate(service, "divide", 1, 0)
    await calculate(service, "nonsense", 1)
    assert await service.get(f"{HISTORY}?limit=1") == before


async def test_a_calculation_is_an_event_too(service: Running) -> None:
    data = {"operation": "fact", "arguments": [30], "history": ["other"]}
    job = await service.ended(await service.accepted("calculation", data))
    assert job.result is not None
    assert (job.result["result"], job.result["digits"]) == ("265252859812191058636308480000000", 33)
    job = await service.ended(await service.accepted("calculation", {"operation": "divide", "arguments": [1, 0]}))
    assert job.error is not None and job.error["code"] == "calculation_refused"
    assert job.attempts == 1
    data = {"mode": "stack", "stack": "by-event", "arguments": [2, 3, 4], "operation": "pow"}
    job = await service.ended(await service.accepted("calculation", data))
    assert job.result is not None
    assert (job.result["result"], job.result["size"]) == (64, 1)
    assert await size(service, "by-event") == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"operation": "fact", "arguments": [true]}',
        b'{"operation": "fact", "arguments": [[5]]}',
        b'{"operation": "plus", "arguments": [1e400, 1]}',
    ],
)
async def test_what_no_attempt_could_read_is_refused_before_it_is_a_job(service: Running, body: bytes) -> None:
    before = (await service.get("/jobs?limit=1"))["data"]
    answer = await service.ask("POST", "/hooks/calculation", body, {"Content-Type": "application/json"})
    assert (answer.status, answer.code) == (422, "invalid_request")
    event = b'{"specversion": "1.0", "id": "1", "source": "/x", "type": "calculation.requested", "data": %s}' % body
    answer = await service.ask("POST", "/events", event, {"Content-Type": "application/cloudevents+json"})
    assert (answer.status, answer.code) == (422, "invalid_request")
    assert (await service.get("/jobs?limit=1"))["data"] == before


async def test_those_who_wait_for_processes_leave_room_for_others() -> None:
    limits, end = Limits(processes=2), threading.Event()
    pool = threads(limits)
    try:
        waiting = [pool.submit(end.wait, 10) for _ in range(limits.processes + limits.waiting)]
        assert pool.submit(lambda: "at once").result(1) == "at once"
        assert not any(one.done() for one in waiting)
    finally:
        end.set()
        pool.shutdown()


async def test_a_number_that_json_readers_do_not_take_is_told_as_that(service: Running) -> None:
    long = "9" * 5000
    answer = await service.ask("POST", CALCULATE, f'{{"operation": "plus", "arguments": [1, {long}]}}'.encode())
    assert (answer.status, answer.code) == (400, "malformed_json")
    assert "send it as text" in answer.json["detail"]
    assert (await calculate(service, "plus", 0, long)).json == {"result": long}


async def test_a_dear_wish_of_a_stranger_neither_stalls_nor_stops_the_service(service: Running) -> None:
    """Each takes several times what it may, and only one can be worked at: others are answered meanwhile."""
    wishes = [asyncio.create_task(calculate(service, "fact", 1_500_000, cache=False, history=[])) for _ in range(8)]
    while not all(wish.done() for wish in wishes):
        answer = await asyncio.wait_for(service.ask("GET", "/livez"), 1)
        assert answer.status == 200
        answer = await asyncio.wait_for(calculate(service, "plus", 1, 1, history=[]), 1)
        assert answer.json == {"result": 2}
    answers = Counter((wish.result().status, wish.result().json.get("reason")) for wish in wishes)
    assert answers.keys() <= {(422, "time_limit"), (503, None)}
    assert answers[422, "time_limit"] >= 8
    assert (await calculate(service, "fact", 30_000)).status == 200, "a new process is there"
