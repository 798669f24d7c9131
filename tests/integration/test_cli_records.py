"""Collections, records, ingests and calculations by `flexdb` as a process, against the service as it is."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from handlers.incoming import INCOMING
from service.cli import calculating, ingesting, records
from service.cli.exits import CommandError
from tests.integration.real_service import TOKEN, Running, running
from tests.integration.test_cli import CommandLine

Customers: Any = import_module("examples.customer_api.customers").Customers
application: Any = import_module("examples.customer_api.server").application


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Running]:
    (tmp_path / "records.sqlite").touch()
    connections = {"records": f"sqlite:///{tmp_path / 'records.sqlite'}"}
    async with running(tmp_path, role="all", connections=connections, outgoing_allow=("127.0.0.1",)) as found:
        yield found


@pytest.fixture
def flexdb(service: Running, tmp_path: Path) -> CommandLine:
    made = CommandLine(tmp_path, f"{service.base}")
    made.environment["FLEXDB_TOKEN"] = TOKEN
    return made


@pytest.fixture
async def source(aiohttp_server: Any) -> str:
    server = await aiohttp_server(application(Customers()))
    return f"http://127.0.0.1:{server.port}/api/customers"


def uploaded(service: Running) -> list[str]:
    folder = service.service.home.storage / INCOMING
    return [path.name for path in folder.glob("**/*") if path.is_file()]


async def test_records_are_taken_in_from_a_source_looked_at_and_exported(
    flexdb: CommandLine, source: str, tmp_path: Path
) -> None:
    done = await flexdb("ingest", "customers", "--source", source, "--commit", "run")
    assert done.code == 0, done.err
    assert "inserted\t21\n" in done.out
    assert "not taken in" not in done.err
    (tmp_path / "customers.csv").write_text("mine")
    shown, one, queried, exported, piped, kept, refused = await asyncio.gather(
        flexdb("records", "customers", "--limit", "5", "--page", "5", "--sort", "customer_id"),
        flexdb("records", "customers", "--get", "CUST0000004"),
        flexdb("records", "customers", "--where", "account_balance[gt]=1.00", "--sort", "-account_balance", "--json"),
        flexdb("export", "customers", "-o", "all.ndjson", "--sort", "customer_id"),
        flexdb("export", "customers", "-o", "-", "--where", "last_name=De Luca"),
        flexdb("export", "customers"),
        flexdb("records", "customers", "--where", "nonsense=1"),
    )
    assert shown.out.splitlines()[0].startswith("customer_id\tfirst_name")
    assert [line.split("\t")[0] for line in shown.out.splitlines()[1:]] == ["CUST0000021"]
    assert "page 5 of 5, 21 records in all" in shown.err
    assert "account_balance\t1234.50\n" in one.out
    assert '"account_balance":999999999.99' in queried.out
    assert queried.json["data"][0]["customer_id"] == "CUST0000002"
    assert exported.code == 0, exported.err
    lines = (tmp_path / "all.ndjson").read_text().splitlines()
    assert [json.loads(line)["customer_id"] for line in lines] == [f"CUST{n:07}" for n in range(1, 22)]
    assert '"account_balance":1234.50' in lines[3]
    assert [row["customer_id"] for row in csv.DictReader(io.StringIO(piped.out))] == ["CUST0000003"]
    assert (kept.code, refused.code) == (2, 2)
    assert "customers.csv exists" in kept.err
    assert (tmp_path / "customers.csv").read_text() == "mine"
    assert "/nonsense" in refused.err


async def test_a_file_is_taken_in_and_what_is_rejected_is_listed(
    flexdb: CommandLine, service: Running, tmp_path: Path
) -> None:
    good = {"customer_id": "c1", "first_name": "A", "last_name": "B", "email": "a@example.com"}
    lines = [good, good | {"customer_id": "c2", "date_of_birth": "2001-02-30"}, {"customer_id": "c3"}]
    (tmp_path / "some people.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = await flexdb("ingest", "customers", "--file", "some people.ndjson")
    assert done.code == 0, done.err
    assert "rejected\t2\n" in done.out
    assert uploaded(service) == []
    job = next(line.split("\t")[1] for line in done.out.splitlines() if line.startswith("job_id\t"))
    assert f"2 records were not taken in: flexdb rejected {job}" in done.err
    shown, strict, forbidden = await asyncio.gather(
        flexdb("rejected", job),
        flexdb("ingest", "customers", "--file", "some people.ndjson", "--max-rejected", "1"),
        flexdb("ingest", "customers", "--source", "http://10.0.0.1/x"),
    )
    heading, second, third = shown.out.splitlines()
    assert heading == "page\tposition\treasons\trecord"
    assert "/date_of_birth: " in second
    assert '"c2"' in second
    assert '"c3"' in third
    assert strict.code == 1
    assert "too_many_rejected" in strict.err
    assert len(uploaded(service)) == 1  # a failed one can be retried
    assert forbidden.code == 2
    assert "10.0.0.1 is not public" in forbidden.err


async def test_collections_are_declared_and_forgotten_and_numbers_calculated_exactly(
    flexdb: CommandLine, tmp_path: Path
) -> None:
    properties = {"id": {"type": "string", "maxLength": 20}, "price": {"type": "number"}}
    schema = {"type": "object", "properties": properties, "required": ["id"]}
    (tmp_path / "c.json").write_text(json.dumps({"connection": "records", "key": "id", "schema": schema}))
    looked, minus, zero, pushed = await asyncio.gather(
        flexdb("collections", "put", "things", "--data", "c.json", "--dry-run"),
        flexdb("calculate", "plus", "-5", "0.1", "--history", "records"),
        flexdb("calculate", "divide", "1", "0"),
        flexdb("calculate", "push", "3", "4", "--stack", "mine"),
    )
    assert "things would be declared: table things of connection records would be made" in looked.out, looked.err
    assert (minus.code, minus.out) == (0, "-4.9\n"), minus.err
    assert zero.code == 1
    assert "[calculation_refused]" in zero.err
    assert (pushed.code, pushed.out) == (0, ""), pushed.err
    assert "the stack mine has 2 values" in pushed.err
    put, taken = await asyncio.gather(
        flexdb("collections", "put", "things", "table=stuff", "--data", "c.json"),
        flexdb("calculate", "minus", "--stack", "mine", "--json"),
    )
    assert "things is declared: table stuff of connection records was made" in put.out, put.err
    assert (taken.json["type"], taken.json["data"]["result"]) == ("calculation.completed", 1)
    listed, shown = await asyncio.gather(flexdb("collections"), flexdb("collections", "show", "things"))
    assert "things\trecords\tstuff\tid\tcaller\n" in listed.out
    assert "customers\t" in listed.out
    assert "id\tyes\tstring\t20" in shown.out
    gone = await flexdb("collections", "delete", "things")
    assert "things is forgotten" in gone.out


@pytest.mark.parametrize(
    "work",
    [
        lambda: records._conditions(["nothing"]),
        lambda: records._conditions(["a=1", "a=2"]),
        lambda: records._conditions(["page=2"]),
        lambda: records.export("customers", form="xml"),
        lambda: ingesting._source("http://example.com/", Path("a.csv")),
        lambda: calculating.calculate("push", ["1"]),
    ],
)
def test_words_that_make_no_sense_are_not_sent(work: Callable[[], object]) -> None:
    with pytest.raises(CommandError) as raised:
        work()
    assert raised.value.code == 2


def test_the_format_of_an_export_is_told_by_the_name_of_its_file() -> None:
    assert [records._form_of(name) for name in (None, "-", "a.csv", "b.jsonl", "c.ndjson", "d.parquet", "e.txt")] == [
        *("csv", "csv", "csv", "ndjson", "ndjson", "parquet", "csv")
    ]
