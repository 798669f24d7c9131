"""Faults in the middle of things: tables that go or grow, cancels in every stage, bytes that change places."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psycopg2
import pytest

from engines.errors import ArtefactDamaged, FlexError, Stopped, TargetBusy
from engines.postgres import PostgresEngine
from engines.run import Progress, Run, StopReason
from tests.conftest import FreshDatabase
from tests.integration.postgres.test_faults import eventually, fake_tools, real15, sessions
from tests.integration.postgres.workbench import Workbench, row_hashes, sql

__all__ = ["real15"]  # a fixture of the neighbour's


def test_a_table_dropped_before_it_was_locked_is_worth_another_try(
    bench: Workbench, shop15: str, tmp_path: Path, real15: Path
) -> None:
    """pg_dump lists it, and finds it gone when it comes to lock it; without counts nobody holds it for pg_dump."""
    waiting = (
        f'{real15}/psql -XAtq -d "{shop15}" -c "BEGIN; DROP TABLE settings_as_rows; SELECT pg_sleep(1); COMMIT" & '
        f'until [ "$({real15}/psql -XAt -d "{shop15}" -c "SELECT count(*) FROM pg_locks l JOIN pg_class c'
        " ON c.oid = relation WHERE relname = 'settings_as_rows' AND mode = 'AccessExclusiveLock'\")\" = 1 ]; "
        'do :; done; $REAL "$@"; code=$?; wait; exit $code'
    )
    clients = fake_tools(tmp_path / "tools", real15, "pg_dump", waiting)
    broken = Workbench(bench.folder, PostgresEngine(clients=clients))
    with pytest.raises(FlexError) as failed:
        broken.back_up(shop15, counts="none")
    assert isinstance(failed.value, TargetBusy) and failed.value.retryable
    assert broken.stored() == []
    assert "public.settings_as_rows" not in {item.name for item in bench.back_up(shop15).manifest.objects}


def test_a_table_that_grows_is_dumped_and_counted_as_it_was_at_one_moment(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    over, began = threading.Event(), threading.Event()

    def grow() -> None:
        with closing(psycopg2.connect(shop15)) as connection, connection.cursor() as cursor:
            while not over.is_set():
                cursor.execute("INSERT INTO nothing_in_it SELECT g, 'x' FROM generate_series(1, 100) g")
                connection.commit()
                began.set()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        assert began.wait(20)
        artefacts = [bench.back_up(shop15, jobs=jobs) for jobs in (1, 2)]
    finally:
        over.set()
        thread.join()
    for artefact in artefacts:
        counted = {item.name: item.rows for item in artefact.manifest.objects}
        target = fresh_database(postgres15_url, create=False)
        assert bench.restore(artefact, target).notes == ()
        ((rows,),) = sql(target, "SELECT count(*) FROM nothing_in_it")
        assert rows == counted["public.nothing_in_it"] and rows % 100 == 0 < rows


class StopAt:
    """Asks for a stop when the stage of that number is first told."""

    def __init__(self, run: Run, number: int) -> None:
        self.run, self.number = run, number
        self.stages: list[str] = []
        run.listener = self

    def __call__(self, progress: Progress) -> None:
        if progress.stage not in self.stages:
            self.stages.append(progress.stage)
            if len(self.stages) == self.number:
                self.run.stop.request(StopReason.CANCEL)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("what", ["backup", "restore", "rows", "replace", "verification", "rehearsal"])
def test_a_cancel_in_any_stage_leaves_no_session_and_nothing_half_done(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase, jobs: int, what: str
) -> None:
    artefact = bench.back_up(shop15, jobs=jobs)
    data = bench.back_up(shop15, jobs=jobs, content="data")
    absent, full = fresh_database(postgres15_url, create=False), fresh_database(postgres15_url)
    sql(full, "CREATE TABLE mine AS SELECT 7 AS a")
    tables = fresh_database(postgres15_url)
    bench.restore(bench.back_up(shop15, content="schema"), tables)
    kept = bench.stored()
    work: dict[str, Callable[[Run], object]] = {
        "backup": lambda run: bench.back_up(shop15, run, jobs=jobs, globals=True),
        "restore": lambda run: bench.restore(artefact, absent, run),
        "rows": lambda run: bench.restore(data, tables, run),
        "replace": lambda run: bench.restore(artefact, full, run, mode="replace"),
        "verification": lambda run: bench.engine.parse(artefact, run),
        "rehearsal": lambda run: bench.engine.rehearse(artefact, bench.target(shop15), run),
    }
    number = 1
    while True:
        run = bench.run()
        stop = StopAt(run, number)
        with suppress(Stopped):
            work[what](run)
            assert run.stop.reason is None, "a stop that was asked for in time came to nothing"
            break
        eventually(lambda: not sessions(postgres15_url, run))  # noqa: B023  asked within this turn of the loop
        assert bench.stored() == kept and list(run.workspace.iterdir()) == []
        assert sql(postgres15_url, f"SELECT 1 FROM pg_database WHERE datname ~ 'flexdb_.*{bench.job_id}'") == []
        assert sql(full, "SELECT a FROM mine") == [(7,)]
        assert sql(tables, "SELECT count(*) FROM customers") == [(0,)]
        number += 1
    assert number > 1 and stop.stages


def test_every_stage_of_long_work_knows_how_much_it_is(bench: Workbench, shop15: str) -> None:
    sql(shop15, "INSERT INTO nothing_in_it SELECT g, repeat('x', 200) FROM generate_series(1, 200000) g")
    for jobs in (1, 2):
        seen: list[Progress] = []
        artefact = bench.back_up(shop15, bench.run(listener=seen.append), jobs=jobs)
        bench.engine.parse(artefact, bench.run(listener=seen.append))
        bench.engine.rehearse(artefact, bench.target(shop15), bench.run(listener=seen.append))
        bench.restore(artefact, shop15, bench.run(listener=seen.append), mode="replace")
        assert {"dumping", "verifying", "staging", "restoring", "analyzing"} <= {item.stage for item in seen}
        assert [item.stage for item in seen if not item.total and item.stage != "restoring"] == []


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("change", ["swapped", "zeroed", "missing"])
def test_bytes_that_changed_are_found(bench: Workbench, shop15: str, compression: str, change: str) -> None:
    artefact = bench.back_up(shop15, compression=compression)
    path = artefact.stored_path(artefact.manifest.files[0])
    assert path is not None
    data, middle = bytearray(path.read_bytes()), path.stat().st_size // 2
    at = next(at for at in range(middle, len(data)) if data[at] != data[at + 1])
    if change == "swapped":
        data[at], data[at + 1] = data[at + 1], data[at]
    elif change == "zeroed":
        data[at : at + 512] = bytes(512)
    else:
        del data[at]
    path.write_bytes(data)
    before = row_hashes(shop15)
    for attempt in (
        lambda: artefact.check(bench.run()),
        lambda: bench.engine.parse(artefact, bench.run()),
        lambda: bench.restore(artefact, shop15, mode="replace"),
    ):
        with pytest.raises(ArtefactDamaged):
            attempt()
    assert row_hashes(shop15) == before
