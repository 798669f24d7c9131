"""MySQL and MariaDB: what goes wrong while dumping, storing and restoring is noticed, and nothing is lost."""

from __future__ import annotations

import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from engines.artefacts.reading import Artefact
from engines.errors import (
    ArtefactDamaged,
    FlexError,
    Stopped,
    TargetBusy,
    TargetUnavailable,
    ToolFailed,
    UnsupportedOperation,
    VerificationImpossible,
)
from engines.mysql import MySQLEngine
from engines.run import Progress, Run, StopReason, StopToken
from tests.integration.mysql.conftest import Fresh
from tests.integration.mysql.workbench import ROWS, Workbench, facts
from tests.mariadb import connected, own_mariadb, sql, with_database
from tests.servers import ServerMissingError, missing

DUMP = "-- MariaDB dump 10.19\n\nCREATE TABLE `t` (\n  `a` int\n);\nINSERT INTO `t` VALUES\n(1),\n(2);\n"
END = "\n-- Dump completed\n"


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


@pytest.fixture
def fake_dumper(tmp_path: Path, bench: Workbench) -> Callable[[str], None]:
    """Puts a shell script in the place of mariadb-dump."""

    def make(script: str) -> None:
        folder = tmp_path / "tools"
        folder.mkdir(exist_ok=True)
        real = shutil.which("mariadb-dump")
        path = folder / "mariadb-dump"
        path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {real} --version\n{script}\n')
        path.chmod(0o755)
        bench.engine = MySQLEngine(str(folder))

    return make


def test_a_dump_whose_tool_fails_after_a_whole_script_is_no_backup(
    bench: Workbench, shop: str, fake_dumper: Callable[[str], None]
) -> None:
    fake_dumper(f"cat <<'EOF'\n{DUMP}{END}EOF\nexit 1")
    with pytest.raises(ToolFailed) as failed:
        bench.back_up(shop)
    assert failed.value.details["exit_code"] == 1
    assert bench.stored() == []


@pytest.mark.parametrize(
    "script", [DUMP, "", DUMP + END + "INSERT INTO `t` VALUES\n(3", DUMP + END + "DROP TABLE x;\n"]
)
def test_a_tool_that_exits_well_without_the_end_mark_is_not_believed(
    bench: Workbench, shop: str, fake_dumper: Callable[[str], None], script: str
) -> None:
    fake_dumper(f"cat <<'EOF'\n{script}\nEOF\nexit 0")
    with pytest.raises(ToolFailed):
        bench.back_up(shop)
    assert bench.stored() == []


def test_the_password_is_in_no_argument_no_environment_and_no_file_that_others_read(
    bench: Workbench, shop: str, fake_dumper: Callable[[str], None], tmp_path: Path
) -> None:
    password = "se'cr\"et#\\ü" + secrets.token_hex(4)
    user = f"u{secrets.token_hex(4)}"
    told = tmp_path / "told"
    real = shutil.which("mariadb-dump")
    fake_dumper(
        f'{{ echo "$@"; env; stat -c "mode %a" "${{1#--defaults-file=}}"; }} > {told}; exec {real} "$@"',
    )
    with closing(connected(bench.url)) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE USER {user}@'%%' IDENTIFIED BY %s", (password,))
        cursor.execute(f"GRANT ALL ON *.* TO {user}@'%'")
        try:
            url = shop.replace("root@", f"{user}:{_encoded(password)}@")
            artefact = bench.back_up(url)
            assert {item.name: item.rows for item in artefact.manifest.objects if item.kind == "table"} == ROWS
            with pytest.raises(FlexError) as refused:
                bench.back_up(shop.replace("root@", f"{user}:wrong{_encoded(password)}@"))
        finally:
            cursor.execute(f"DROP USER {user}@'%'")
    assert refused.value.code == "access_denied"
    assert password not in str(refused.value.message)
    assert "mode 600" in told.read_text()
    assert password[:8] not in told.read_text()


def _encoded(text: str) -> str:
    from urllib.parse import quote

    return quote(text, safe="")


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "cut in the rows": lambda script: script[: script.index(b"INSERT INTO `events_by_year`") + 200],
    "cut after a statement": lambda script: script[: script.index(b"INSERT INTO `events_by_year`")],
    "one row missing": lambda script: re.sub(rb"\n\('2025-01-02',1\),", b"", script, count=1),
    "one row twice": lambda script: re.sub(rb"(\n\('2025-01-02',1\),)", rb"\1\1", script, count=1),
    "a quote lost": lambda script: script.replace(b"'2025-01-02',1", b"'2025-01-02,1", 1),
    "a bracket lost": lambda script: script.replace(b"('2025-01-02',1", b"'2025-01-02',1", 1),
    "a table missing": lambda script: re.sub(rb"CREATE TABLE `log`.*?;\n", b"", script, count=1, flags=re.DOTALL),
    "rows of another table": lambda script: script.replace(b"INSERT INTO `circle_a`", b"INSERT INTO `log`", 1),
    "the end mark missing": lambda script: script.replace(b"-- Dump completed", b"-- Dump compleded", 1),
    "something behind the end": lambda script: script + b"DROP TABLE customers;\n",
    "a routine missing": lambda script: script.replace(b"FUNCTION `twice`(", b"FUNKTION `twice`(", 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_script_that_was_broken_before_its_digest_was_taken_is_found_by_reading_it(
    bench: Workbench, shop: str, change: str
) -> None:
    artefact = bench.back_up(shop)
    script = bench.script(artefact)
    changed = CHANGES[change](script)
    assert changed != script
    broken = bench.altered(artefact, changed)
    broken.check(bench.run())
    with pytest.raises(ArtefactDamaged) as damaged:
        bench.engine.parse(broken, bench.run())
    assert any(not item["ok"] for item in damaged.value.details["evidence"])


@pytest.mark.parametrize("change", ["one row missing", "a quote lost", "a table missing", "cut in the rows"])
def test_a_broken_script_is_never_restored(bench: Workbench, shop: str, change: str) -> None:
    artefact = bench.back_up(shop)
    broken = bench.altered(artefact, CHANGES[change](bench.script(artefact)))
    before = facts(bench.url, name_of(shop))
    with pytest.raises(FlexError):
        bench.restore(broken, shop, mode="replace")
    assert facts(bench.url, name_of(shop)) == before
    assert leftovers(bench) == []


def leftovers(bench: Workbench) -> list[str]:
    return [name for (name,) in sql(bench.url, f"SHOW DATABASES LIKE 'flexdb%{bench.job_id}%'", on="")]


class Once:
    """Does something when the first bytes of a dump have come."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action, self.done = action, False

    def __call__(self, progress: Progress) -> None:
        if progress.stage == "dumping" and not self.done:
            self.done = True
            self._action()


@pytest.fixture
def big(fresh: Fresh) -> str:
    """A table that takes a while to dump, and one whose turn comes after it."""
    url = fresh()
    sql(
        url,
        "CREATE TABLE a_big (id int PRIMARY KEY, t text)",
        "INSERT INTO a_big SELECT seq, REPEAT(MD5(seq), 10) FROM seq_1_to_100000",
        "CREATE TABLE z (a int PRIMARY KEY)",
        "INSERT INTO z VALUES (1), (2)",
    )
    return url


def test_a_table_dropped_during_the_dump_fails_it(bench: Workbench, big: str) -> None:
    drop = Once(lambda: sql(big, "DROP TABLE z"))
    with pytest.raises(TargetBusy) as failed:
        bench.back_up(big, bench.run(listener=drop))
    assert failed.value.retryable
    assert bench.stored() == []
    assert {item.name for item in bench.back_up(big).manifest.objects} == {"a_big"}


def test_a_table_altered_during_the_dump_fails_it(bench: Workbench, big: str) -> None:
    alter = Once(lambda: sql(big, "ALTER TABLE z ADD b int, ALGORITHM=COPY"))
    with pytest.raises(TargetBusy):
        bench.back_up(big, bench.run(listener=alter))
    assert bench.stored() == []


def test_rows_that_come_during_the_dump_are_not_in_it_nor_in_its_counts(bench: Workbench, big: str) -> None:
    grow = Once(lambda: sql(big, "INSERT INTO z SELECT seq FROM seq_3_to_1000", "DELETE FROM a_big"))
    artefact = bench.back_up(big, bench.run(listener=grow))
    assert grow.done
    assert {item.name: item.rows for item in artefact.manifest.objects} == {"a_big": 100000, "z": 2}
    bench.engine.parse(artefact, bench.run())


def test_a_connection_killed_during_the_dump_fails_it(bench: Workbench, big: str) -> None:
    def kill() -> None:
        query = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        for (number,) in sql(big, query):
            sql(big, f"KILL {number}")

    with pytest.raises(TargetUnavailable) as failed:
        bench.back_up(big, bench.run(listener=Once(kill)))
    assert failed.value.retryable
    assert bench.stored() == []


class StopAt:
    """Asks for a stop when the stage with this number is first told."""

    def __init__(self, number: int) -> None:
        self.token = StopToken()
        self._number = number
        self.stages: list[str] = []

    def __call__(self, progress: Progress) -> None:
        if progress.stage not in self.stages:
            self.stages.append(progress.stage)
            if len(self.stages) == self._number:
                self.token.request(StopReason.CANCEL)

    def run(self, bench: Workbench) -> Run:
        return bench.run(listener=self, stop=self.token)


def test_a_restore_canceled_at_any_stage_leaves_the_target_as_it_was(bench: Workbench, shop: str) -> None:
    artefact = bench.back_up(shop)
    before = facts(bench.url, name_of(shop))
    seen = StopAt(0)
    bench.restore(artefact, shop, seen.run(bench), mode="replace")
    assert seen.stages == ["checking", "restoring", "counting rows"]
    for number in range(1, len(seen.stages) + 1):
        with pytest.raises(Stopped):
            bench.restore(artefact, shop, StopAt(number).run(bench), mode="replace")
        assert leftovers(bench) == []
    assert facts(bench.url, name_of(shop)) == before


def test_a_rehearsal_canceled_at_any_stage_leaves_nothing(bench: Workbench, shop: str) -> None:
    artefact, target = bench.back_up(shop), bench.target(shop)
    for number in (1, 2, 3):
        stopping = StopAt(number)
        with pytest.raises(Stopped):
            bench.engine.rehearse(artefact, target, stopping.run(bench))
        assert len(stopping.stages) == number
        assert leftovers(bench) == []


def test_a_statement_that_waits_for_others_ends_when_asked_to_stop(bench: Workbench, shop: str) -> None:
    stop = StopToken()
    with locked(shop, "LOCK TABLES log WRITE"):
        timer = threading.Timer(0.5, lambda: stop.request(StopReason.CANCEL))
        timer.start()
        with pytest.raises(Stopped):
            bench.engine.inspect(bench.target(shop), bench.run(stop=stop))
        timer.join()


@contextmanager
def locked(url: str, *statements: str) -> Iterator[None]:
    """While inside, another session holds what the statements take."""
    with closing(connected(url, name_of(url))) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        yield


def on_own(bench: Workbench, own_server: str) -> str:
    """An empty database on the module's own server."""
    bench.url = own_server
    name = f"flexdbtest_{secrets.token_hex(6)}"
    sql(own_server, f"CREATE DATABASE {name} CHARACTER SET utf8mb4", on="")
    return with_database(own_server, name)


def test_rows_of_sixteen_megabytes_go_there_and_back(bench: Workbench, own_server: str) -> None:
    url = on_own(bench, own_server)
    sql(
        url,
        "CREATE TABLE huge (id int PRIMARY KEY, b longblob, t longtext)",
        "INSERT INTO huge VALUES (1, REPEAT(x'00FF275C', 4194304), NULL), (2, NULL, REPEAT('\\'(),;\\\\', 2796202))",
    )
    before = facts(bench.url, name_of(url))
    artefact = bench.back_up(url)
    assert artefact.manifest.objects[0].rows == 2
    assert artefact.manifest.options["longest_statement"] > 32 << 20
    bench.engine.parse(artefact, bench.run())
    bench.engine.rehearse(artefact, bench.target(url), bench.run())
    bench.restore(artefact, url, mode="replace")
    assert facts(bench.url, name_of(url)) == before


def test_a_row_too_long_for_the_server_is_told_before_anything_is_made(bench: Workbench, fresh: Fresh) -> None:
    url = fresh()
    sql(url, "CREATE TABLE huge (b longblob)", "INSERT INTO huge VALUES (REPEAT('x', 10000000))")
    artefact = bench.back_up(url)
    with pytest.raises(UnsupportedOperation) as refused:
        bench.restore(artefact, url, mode="replace")
    assert "max_allowed_packet" in refused.value.hint
    with pytest.raises(VerificationImpossible):
        bench.engine.rehearse(artefact, bench.target(url), bench.run())
    assert leftovers(bench) == []


MANY = 1000
"""Tables."""
IN_MEMORY = Path("/dev/shm")


@pytest.fixture
def quick_server() -> Iterator[str]:
    """A MariaDB of the test's own whose files lie in memory, where there is such a place."""
    try:
        with own_mariadb(under=IN_MEMORY if IN_MEMORY.is_dir() else None) as url:
            yield url
    except ServerMissingError as error:
        missing(str(error))


def test_a_thousand_tables_go_there_and_back(bench: Workbench, quick_server: str) -> None:
    url = on_own(bench, quick_server)
    sql(url, *(f"CREATE TABLE t{number} (a int PRIMARY KEY)" for number in range(MANY)))
    sql(url, *(f"INSERT INTO t{number} VALUES (1)" for number in range(0, MANY, 100)))
    artefact = bench.back_up(url)
    counts = {item.name: item.rows for item in artefact.manifest.objects}
    assert len(counts) == MANY
    assert sum(rows or 0 for rows in counts.values()) == MANY // 100
    bench.engine.parse(artefact, bench.run())
    done = bench.restore(artefact, url, mode="replace")
    assert {item.name: item.rows for item in done.objects} == counts


def test_an_artefact_without_its_file_is_told_so(bench: Workbench, shop: str) -> None:
    artefact = bench.back_up(shop)
    path = artefact.stored_path(artefact.manifest.files[0])
    assert isinstance(artefact, Artefact)
    assert path is not None
    path.unlink()
    with pytest.raises(FlexError) as missing:
        bench.restore(artefact, shop, mode="replace")
    assert missing.value.code == "artefact_missing"


def test_a_value_that_the_server_does_not_take_as_it_is_stored_is_found_by_the_rehearsal(
    bench: Workbench, shop: str
) -> None:
    """Dumps restore without strict mode: a date that is none becomes another one, and the row counts agree."""
    artefact = bench.back_up(shop)
    changed = bench.altered(artefact, bench.script(artefact).replace(b"('2025-01-02',1", b"('2025-13-02',1", 1))
    bench.engine.parse(changed, bench.run())
    with pytest.raises(ArtefactDamaged) as damaged:
        bench.engine.rehearse(changed, bench.target(shop), bench.run())
    wrong = [(item["check"], item["object"]) for item in damaged.value.details["evidence"] if not item["ok"]]
    assert wrong == [("content", "events_by_year")]
    assert leftovers(bench) == []
