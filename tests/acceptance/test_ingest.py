"""Records from a source into databases, by the real service: the walk-through, and SIGKILL in the middle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.customer_source import customers
from tests.acceptance.scenes import running
from tests.acceptance.service_process import RunningService, until
from tests.conftest import FreshDatabase

MANY = 4_000
PAGE = 100
ALLOWED = {"FLEXDB_OUTGOING_ALLOW": "127.0.0.1", "FLEXDB_RECORDS_CONNECTION": "shop"}


@pytest.fixture(params=["sqlite", "postgres"])
def shop_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        path = tmp_path / "shop.sqlite"
        path.touch()
        return f"sqlite:///{path}"
    fresh: FreshDatabase = request.getfixturevalue("fresh_database")
    return fresh(request.getfixturevalue("postgres15_url"))


@pytest.fixture
def service(tmp_path: Path, shop_url: str) -> Iterator[RunningService]:
    with running(tmp_path, {"shop": shop_url}, ALLOWED) as started:
        yield started


def total(service: RunningService) -> int:
    return int(service.get("/api/customers?limit=1")["total"])


def source(url: str) -> dict[str, Any]:
    return {"url": url, "paginator": {"style": "page", "size": PAGE}}


def test_the_customers_of_the_mock_source_come_over_the_calls_their_users_know(service: RunningService) -> None:
    with customers() as url:
        answer = service.request("POST", "/api/ingest", {"source": url, "collection": "customers"})
        assert (answer.status, answer.json) == (200, {"status": "success", "records_processed": 21})
        again = service.complete("ingest", {"collection": "customers", "source": url})
    assert (again["records_processed"], again["inserted"], again["updated"], again["unchanged"]) == (21, 0, 0, 21)
    page = service.get("/api/customers?page=3&limit=10")
    assert (page["total"], page["page"], page["limit"], len(page["data"])) == (21, 3, 10, 1)


def test_an_ingest_killed_in_its_middle_goes_on_without_loss_or_doubles(service: RunningService) -> None:
    with customers(MANY, latency_ms=150) as url:
        job_id = service.send("ingest", {"collection": "customers", "source": source(url)})
        until(lambda: (service.job(job_id)["progress"] or {}).get("done"), pause=0.01)  # the table is there
        until(lambda: total(service) >= 5 * PAGE, pause=0.01)
        service.kill()
        service.restart()
        job = service.ended(job_id)
        assert job["status"] == "succeeded", job["error"]
    assert total(service) == MANY
    assert job["result"]["records_processed"] == MANY and job["result"]["rejected"] == 0
    both = job["result"]["requests"]
    assert both < 2 * MANY / PAGE, "the second attempt begins where the first one was, not with the first page"


def test_a_whole_run_killed_in_its_middle_shows_nothing_until_it_is_there(service: RunningService) -> None:
    with customers(MANY, latency_ms=150) as url:
        job_id = service.send("ingest", {"collection": "customers", "source": source(url), "commit": "run"})
        until(lambda: (service.job(job_id)["progress"] or {}).get("done", 0) > 5 * PAGE, pause=0.01)
        assert total(service) == 0
        service.kill()
        service.restart()
        assert service.ended(job_id)["status"] == "succeeded"
    assert total(service) == MANY


def test_a_million_customers_come_whole(tmp_path: Path, postgres15_url: str, fresh_database: FreshDatabase) -> None:
    shop = fresh_database(postgres15_url)
    with customers(1_000_000) as url, running(tmp_path, {"shop": shop}, ALLOWED) as service:
        asked = {"url": url, "paginator": {"style": "page", "size": 1000}}
        result = service.complete("ingest", {"collection": "customers", "source": asked}, seconds=200)
        assert (result["records_processed"], result["inserted"], result["rejected"]) == (1_000_000, 1_000_000, 0)
        assert (result["gap"], result["duplicates"], total(service)) == (0, 0, 1_000_000)


def test_replicas_share_a_stack_and_a_record(
    tmp_path: Path, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    """Twenty clients on one stack, and upserts of one key, through two replicas."""
    ledger, shop = fresh_database(postgres15_url), fresh_database(postgres15_url)
    shared = ALLOWED | {"FLEXDB_LEDGER_URL": ledger, "FLEXDB_STORAGE_URL": str(tmp_path / "storage")}
    with (
        running(tmp_path / "one", {"shop": shop}, shared) as one,
        running(tmp_path / "two", {"shop": shop}, shared) as two,
    ):
        replicas = (one, two)
        results: list[int] = []
        emails: set[str] = set()

        def client(number: int) -> None:
            service = replicas[number % 2]
            pushed = service.request("PUT", "/calculator/stack/arguments", {"arguments": [number, 1000]})
            assert pushed.status == 200, pushed.body
            email = f"{number}@example.com"
            emails.add(email)
            record = {"customer_id": "C1", "first_name": "A", "last_name": "B", "email": email}
            data = {"collection": "customers", "action": "upsert", "records": [record]}
            assert service.carry_out("records", data)["type"] == "records.completed"
            answer = service.request("GET", "/calculator/stack/operate?operation=plus")
            assert answer.status == 200, answer.body
            results.append(answer.json["result"])

        threads = [threading.Thread(target=client, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(results) == 20 * 1000 + sum(range(20)), "no argument was lost, none was used twice"
        for service in replicas:
            assert service.get("/calculator/stack/size") == {"result": 0}
            assert total(service) == 1
        assert one.get("/api/customers/C1")["email"] in emails


def test_a_stranger_who_asks_for_the_factorial_of_ten_million_stops_nobody(tmp_path: Path) -> None:
    with running(
        tmp_path, {}, {"FLEXDB_CALCULATION_DIGITS": "100000000", "FLEXDB_CALCULATION_SECONDS": "2"}
    ) as service:
        jobs = [
            service.send("calculation", {"operation": "fact", "arguments": [10_000_000]}, key=f"big-{number}")
            for number in range(3)
        ]
        while not all(service.job(job_id)["ended_at"] for job_id in jobs):
            assert service.request("GET", "/livez", timeout=5).status == 200
        assert {service.job(job_id)["error"]["code"] for job_id in jobs} == {"calculation_refused"}
        answer = service.request(
            "POST", "/calculator/independent/calculate", {"operation": "plus", "arguments": [1, 2]}
        )
        assert answer.json == {"result": 3}
