"""The calculator by HTTP, in the words of its users: sums at once, a stack, the history."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from aiohttp import web
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from engines.calculating import Limits
from engines.errors import CalculationRefused
from handlers.base import ConnectionName
from handlers.calculation.calculator import Asking, Calculator, shown
from handlers.calculation.handler import DEFAULT_STACK, StackName
from handlers.calculation.history import FLAVORS, Entry
from service.bodies import parse_exact
from service.http.bodies import read, unpacked
from service.http.keys import PARTS
from service.http.paging import refuse_unknown, wished_limit
from service.http.query import given_once
from service.http.query import refused as wrong
from service.intake import MOST_ITEMS, Refused, faults_of
from service.jobs import iso, new_id

T = TypeVar("T")
THREADS = web.AppKey("calculator_threads", ThreadPoolExecutor)
FREE_THREADS = 16
"""Requests that wait at once for the ledger or a database, or calculate what is cheap, while all who may wait for a
process do; others wait for one of these."""

ARITHMETIC = frozenset(
    {
        "unknown_operation",
        "too_few_arguments",
        "too_many_arguments",
        "division_by_zero",
        "negative_factorial",
        "not_an_integer",
        "invalid_argument",
    }
)
"""Refusals that are answered 409 with `errorMessage`; the others are limits of the service, and problems."""
KINDS = {"POSTGRES": "postgres", "MONGO": "mongodb", "SQLITE": "sqlite", "MYSQL": "mysql"}


def threads(limits: Limits) -> ThreadPoolExecutor:
    """Enough that those who wait for processes do not keep the others out: who would be too many is turned away."""
    most = limits.processes + limits.waiting + FREE_THREADS
    return ThreadPoolExecutor(max_workers=most, thread_name_prefix="calculator")


async def end_threads(app: web.Application) -> None:
    app[THREADS].shutdown(wait=False, cancel_futures=True)


def _numbers(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """One fault for all of them: a list may hold many."""
    for value in values:
        if not isinstance(value, int | Decimal | str) or isinstance(value, bool):
            raise PydanticCustomError("number", "Arguments are numbers, or decimal numbers as text.")
    return values


Arguments = Annotated[tuple[Any, ...], Field(max_length=MOST_ITEMS), AfterValidator(_numbers)]
Method = Literal["POSTGRES", "MONGO", "SQLITE", "MYSQL"]


class Options(BaseModel):
    """How to calculate, and which connections keep it; in the body or in the query."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    cache: bool = Field(default=True, description="Whether a result that was worked out before will do.")
    history: tuple[ConnectionName, ...] | None = Field(default=None, description="Connections that keep it.")
    connection: ConnectionName | None = Field(default=None, description="The connection that keeps it.")
    persistenceMethod: Method | None = Field(default=None, description="Kind of the connection that keeps it.")  # noqa: N815  the caller's word


class CalculateBody(Options):
    """POST /calculator/independent/calculate."""

    operation: str = Field(description="plus, minus, times, divide, pow, abs, fact or fibonacci.")
    arguments: Arguments


class OperateBody(Options):
    """POST /calculator/stack/operate."""

    operation: str = Field(description="plus, minus, times, divide, pow, abs, fact or fibonacci.")
    stack: StackName = DEFAULT_STACK


class PushBody(BaseModel):
    """PUT /calculator/stack/arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    arguments: Arguments
    stack: StackName = DEFAULT_STACK


class StackQuery(BaseModel):
    """Which stack."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    stack: StackName = DEFAULT_STACK


class RemoveQuery(StackQuery):
    """DELETE /calculator/stack/arguments."""

    count: int = Field(ge=0, le=10**9, description="How many of the topmost.")


B = TypeVar("B", bound=BaseModel)


async def calculate(request: web.Request) -> web.Response:
    """POST /calculator/independent/calculate."""
    calculator, asked = _calculator(request), await _asked(request, CalculateBody)

    def work() -> bytes:
        asking = _asking(request, calculator, asked)
        return _answered(calculator.calculate(asked.operation, asked.arguments, asking).text)

    return await _carried_out(request, work)


async def stack_size(request: web.Request) -> web.Response:
    """GET /calculator/stack/size."""
    calculator, asked = _calculator(request), _valid(StackQuery, given_once(request))
    return await _carried_out(request, lambda: _number(calculator.size(asked.stack)))


async def push(request: web.Request) -> web.Response:
    """PUT /calculator/stack/arguments."""
    calculator, asked = _calculator(request), await _asked(request, PushBody)
    return await _carried_out(request, lambda: _number(calculator.push(asked.stack, asked.arguments)))


async def remove(request: web.Request) -> web.Response:
    """DELETE /calculator/stack/arguments."""
    calculator, asked = _calculator(request), _valid(RemoveQuery, given_once(request))
    return await _carried_out(request, lambda: _number(calculator.remove(asked.stack, asked.count)))


async def operate(request: web.Request) -> web.Response:
    """GET or POST /calculator/stack/operate."""
    calculator, asked = _calculator(request), await _asked(request, OperateBody)

    def work() -> bytes:
        asking = _asking(request, calculator, asked)
        return _answered(calculator.operate(asked.stack, asked.operation, asking).text)

    return await _carried_out(request, work)


async def history(request: web.Request) -> web.Response:
    """GET /calculator/history: the latest, the newest one last."""
    calculator, query = _calculator(request), given_once(request)
    for name in query:
        if name not in {"persistenceMethod", "connection", "flavor", "limit", "before"}:
            raise wrong(name, f"There is no parameter {name!r} here.")
    refuse_unknown("persistenceMethod", query.get("persistenceMethod"), KINDS)
    refuse_unknown("flavor", query.get("flavor"), FLAVORS)
    limit = wished_limit(query, 100)
    flavor = next((flavor for flavor in FLAVORS if flavor == query.get("flavor")), None)
    options = _valid(Options, {name: query[name] for name in ("persistenceMethod", "connection") if name in query})

    def work() -> tuple[bytes, str | None]:
        names = _history(request, calculator, options, single=False)
        if not names:
            raise wrong("connection", "No connection keeps calculations that name none; name one with `connection`.")
        page = calculator.history.read(names, flavor=flavor, before=query.get("before") or None, limit=limit)
        body = json.dumps({"result": [_shown_entry(entry) for entry in page.entries]})
        return body.encode(), page.entries[0].id if page.more else None

    body, before = await asyncio.get_running_loop().run_in_executor(request.app[THREADS], work)
    headers = {}
    if before is not None:
        headers["Link"] = f'<{request.rel_url.update_query(before=before)}>; rel="next"'
    return web.Response(body=body, content_type="application/json", headers=headers)


def _shown_entry(entry: Entry) -> dict[str, Any]:
    return {
        "flavor": entry.flavor,
        "operation": entry.operation,
        "arguments": [shown(argument) for argument in entry.arguments],
        "result": shown(entry.result),
        "exact": entry.exact,
        "stack": entry.stack,
        "id": entry.id,
        "created_at": iso(entry.created_at.timestamp()),
    }


# ---------------------------------------------------------------- what is asked


def _calculator(request: web.Request) -> Calculator:
    """Raises `HTTPNotFound` where nothing calculates."""
    found = request.app[PARTS].calculator
    if found is None:
        raise web.HTTPNotFound
    return found


async def _asked(request: web.Request, model: type[B]) -> B:
    """Body and query together. Raises `Refused`."""
    given: dict[str, Any] = dict(given_once(request))
    if isinstance(wished := given.get("history"), str):
        given["history"] = [name for name in wished.split(",") if name]
    body = unpacked(request, await read(request))
    if body:
        parsed = parse_exact(body)
        if not isinstance(parsed, dict):
            raise Refused(422, "invalid_request", "The body is a JSON object.")
        if both := sorted(given.keys() & parsed.keys()):
            raise wrong(both[0], f"{both[0]} is in the body and in the query; give it once.")
        given |= parsed
    return _valid(model, given)


def _valid(model: type[B], given: dict[str, Any]) -> B:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        faults = faults_of(error)
        raise Refused(422, "invalid_request", f"The request is not valid: {faults[0].detail}", tuple(faults)) from None


def _asking(request: web.Request, calculator: Calculator, options: Options) -> Asking:
    names = _history(request, calculator, options, single=True)
    at = datetime.fromtimestamp(time.time(), UTC)
    return Asking(new_id(), at, names, options.cache, patient=False)


def _history(request: web.Request, calculator: Calculator, options: Options, *, single: bool) -> tuple[str, ...]:
    """The connections meant. `single`: a kind of engine must mean one of them.

    Raises `UnknownConnection`, `InvalidTarget`, and `Refused` for several ways of saying it.
    """
    ways = [name for name in ("history", "connection", "persistenceMethod") if getattr(options, name) is not None]
    if len(ways) > 1:
        raise wrong(ways[1], f"{ways[0]} and {ways[1]} both say which connection; give one of them.")
    if options.persistenceMethod is not None:
        return calculator.history.of_kind(KINDS[options.persistenceMethod], single=single)
    named: Sequence[str] | None = options.history if options.connection is None else [options.connection]
    names = calculator.history.names(named)
    for name in names:
        request.app[PARTS].connections.target(name)
    return names


# ---------------------------------------------------------------- what is answered


def _number(size: int) -> bytes:
    return json.dumps({"result": size}).encode()


def _answered(text: str | None) -> bytes:
    """Put together by hand: an encoder looks at each of a million digits, and holds the interpreter meanwhile."""
    result = shown(text or "0")
    return b'{"result": %d}' % result if isinstance(result, int) else b'{"result": "%s"}' % result.encode("ascii")


async def _carried_out(request: web.Request, work: Callable[[], bytes]) -> web.Response:
    """What `work` gives, done in a thread; a rule of arithmetic it offends is told in its users' words.

    Raises what else `work` raises.
    """
    try:
        body = await asyncio.get_running_loop().run_in_executor(request.app[THREADS], work)
    except CalculationRefused as error:
        if error.reason not in ARITHMETIC:
            raise
        message = error.message if error.message.startswith("Error") else f"Error: {error.message}"
        return web.json_response({"errorMessage": message}, status=409)
    return web.Response(body=body, content_type="application/json")
