"""Pages of an API that takes 20 ms for each: eight at once as an ingest asks, and one after the other."""

from __future__ import annotations

import http.client
import json
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import aiohttp
import uvloop

from benchmarks.context import Context
from benchmarks.loops import loop_beside
from benchmarks.processes import BenchmarkError, free_port, running, settings_of
from benchmarks.report import Goal, Result
from benchmarks.rounds import Measure, in_turn, timed
from engines.run import StopToken
from handlers.supplies import FetchRules
from service.fetching import HttpFetcher
from service.outgoing import OutgoingPolicy

PAGES, QUICK_PAGES, LIMIT = 200, 40, 100
LATENCY = 20
"""Milliseconds the source takes longer for each answer than it would."""
OURS, BASELINE = "FlexDB's fetcher, 8 in flight", "aiohttp, one after the other"
GOAL = 6.0


def run(context: Context) -> Result:
    pages = QUICK_PAGES if context.quick else PAGES
    with _source(context.folder("fetching"), pages) as urls:
        one = urls[:1]
        variants: dict[str, Callable[[list[str]], int]] = {
            BASELINE: _aiohttp,
            "http.client, one after the other": _kept,
            "urllib, a connection for each": _urllib,
            "FlexDB's fetcher, 1 in flight": lambda wanted: _ours(wanted, 1),
            "FlexDB's fetcher, 4 in flight": lambda wanted: _ours(wanted, 4),
            OURS: lambda wanted: _ours(wanted, 8),
        }
        for work in variants.values():
            work(one)  # whatever is done once is done
        rows = in_turn({name: _rate(work, urls) for name, work in variants.items()}, context.rounds)
    return Result(
        title=f"{pages} pages of {LIMIT} customers from a source that takes {LATENCY} ms for each",
        unit="pages/s",
        rows=rows,
        baseline=BASELINE,
        goals=(Goal(OURS, BASELINE, GOAL, at_least=True),),
        notes=["the source is examples/customer_api as a process of its own; each page is read whole, not parsed"],
    )


def _rate(work: Callable[[list[str]], int], urls: list[str]) -> Measure:
    def checked() -> None:
        got = work(urls)
        if got < len(urls) * LIMIT * 200:  # bytes; a customer has more
            raise BenchmarkError(f"{got} bytes are not {len(urls)} pages")

    seconds = timed(checked)
    return lambda: len(urls) / seconds()


@contextmanager
def _source(folder: Path, pages: int) -> Iterator[list[str]]:
    port = free_port()
    asked = ["--port", str(port), "--count", str(pages * LIMIT), "--latency", str(LATENCY)]
    command = [sys.executable, "-m", "examples.customer_api", *asked]
    with running(command, port, "/api/health", folder, settings_of(folder)) as server:
        root = f"http://127.0.0.1:{server.port}/api/customers"
        with urllib.request.urlopen(f"{root}?page={pages}&limit={LIMIT}") as answer:
            if len(json.load(answer)["data"]) != LIMIT:
                raise BenchmarkError("the source has fewer pages than are wanted")
        yield [f"{root}?page={page}&limit={LIMIT}" for page in range(1, pages + 1)]


def _aiohttp(urls: list[str]) -> int:
    async def all_of_them() -> int:
        size = 0
        async with aiohttp.ClientSession() as session:
            for url in urls:
                async with session.get(url) as answer:
                    size += len(await answer.read())
        return size

    return uvloop.run(all_of_them())


def _kept(urls: list[str]) -> int:
    size = 0
    with closing(http.client.HTTPConnection(urls[0].split("/")[2], timeout=30)) as connection:
        for url in urls:
            connection.request("GET", url)
            size += len(connection.getresponse().read())
    return size


def _urllib(urls: list[str]) -> int:
    size = 0
    for url in urls:
        with urllib.request.urlopen(url) as answer:
            size += len(answer.read())
    return size


def _ours(urls: list[str], in_flight: int) -> int:
    """From this thread over an event loop in another, as a handler does."""
    with loop_beside() as loop:
        fetcher = HttpFetcher(loop, OutgoingPolicy.of(["127.0.0.1"]))
        with fetcher.session({}, FetchRules(in_flight=in_flight), StopToken()) as session:
            asked = [session.get(url) for url in urls]
            return sum(len(each.result().body) for each in asked)
