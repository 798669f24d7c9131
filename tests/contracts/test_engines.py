"""What every engine promises, whatever database it serves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engines.artefacts.manifest import MANIFEST_NAME
from engines.artefacts.reading import Artefact, read_manifest
from engines.base import BackupOptions, RestoreOptions, Target
from engines.errors import (
    ArtefactDamaged,
    InvalidTarget,
    ObjectMissing,
    Stopped,
    StorageFull,
    TargetMissing,
    TargetNotEmpty,
    UnsupportedOperation,
    VerificationImpossible,
)
from engines.registry import EngineRegistry
from engines.run import Progress, Run, StopReason, StopToken
from engines.storage.base import ObjectWriter
from engines.storage.local import LocalStore
from tests.contracts.engine_cases import (
    CASES,
    ROWS,
    Bench,
    EngineCase,
)


def prove(case: EngineCase, bench: Bench, artefact: Artefact, level: int, scratch: Target) -> list[str]:
    """The checks made on the way up to `level`."""
    evidence = list(artefact.check(bench.run()))
    if level >= 2:
        evidence += case.engine.parse(artefact, bench.run())
    if level >= 3:
        evidence += case.engine.rehearse(artefact, scratch, bench.run())
    assert all(item.ok for item in evidence)
    return [item.check for item in evidence if item.level == level]


def test_every_engine_of_the_registry_has_a_case() -> None:
    assert {name.partition("-")[0] for name in CASES} == set(EngineRegistry.default().kinds())


@pytest.mark.parametrize("compression", ["zstd", "zstd:3", "none"])
def test_a_backup_is_proven_to_every_level(case: EngineCase, bench: Bench, compression: str) -> None:
    target = case.filled()
    artefact = bench.back_up(case, target, compression=compression)
    counted = {item.name.removeprefix("public."): item.rows for item in artefact.manifest.objects}
    assert {name: rows for name, rows in counted.items() if rows is not None} == ROWS or _plain(counted) == ROWS
    for level in (1, 2, 3):
        assert prove(case, bench, artefact, level, target), f"no evidence of level {level}"
    assert list(bench.workspace.iterdir()) == []
    assert case.leftovers(target) == []
    assert case.rows(target) == ROWS


def _plain(counted: dict[str, int | None]) -> dict[str, int | None]:
    """Engines may quote names that need it."""
    return {name.strip('"').replace('""', '"'): rows for name, rows in counted.items() if rows is not None}


def test_a_manifest_read_from_the_store_is_the_one_written(case: EngineCase, bench: Bench) -> None:
    artefact = bench.back_up(case, case.filled())
    assert read_manifest(bench.store, artefact.folder) == artefact.manifest
    assert artefact.manifest.restore_by_hand
    assert artefact.manifest.consistency


def test_restore_makes_a_database_that_is_absent(case: EngineCase, bench: Bench) -> None:
    source, target = case.filled(), case.absent()
    artefact = bench.back_up(case, source)
    done = case.engine.restore(artefact, target, RestoreOptions(), bench.run())
    assert done.database == target.database
    assert case.rows(target) == ROWS
    assert sum(item.rows or 0 for item in done.objects) == sum(ROWS.values())
    assert case.engine.inspect(target, bench.run()).fingerprint == case.engine.inspect(source, bench.run()).fingerprint


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_restore_uses_a_database_that_is_empty(case: EngineCase, bench: Bench, mode: str) -> None:
    artefact, target = bench.back_up(case, case.filled()), case.empty()
    case.engine.restore(artefact, target, RestoreOptions(mode=mode), bench.run())
    assert case.rows(target) == ROWS
    assert case.leftovers(target) == []


def test_restore_refuses_a_database_with_objects_and_leaves_it(case: EngineCase, bench: Bench) -> None:
    artefact, target = bench.back_up(case, case.filled()), case.empty()
    case.make(target, "mine")
    with pytest.raises(TargetNotEmpty) as refused:
        case.engine.restore(artefact, target, RestoreOptions(), bench.run())
    assert not refused.value.retryable
    assert case.rows(target) == {"mine": 0}
    assert case.leftovers(target) == []


@pytest.mark.parametrize("kind", ["view", "table"])
def test_any_user_object_makes_a_target_not_empty(case: EngineCase, bench: Bench, kind: str) -> None:
    artefact, target = bench.back_up(case, case.filled()), case.empty()
    case.make(target, "mine", kind)
    with pytest.raises(TargetNotEmpty):
        case.engine.restore(artefact, target, RestoreOptions(), bench.run())


def test_replace_puts_the_backup_in_the_place_of_what_was_there(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    artefact = bench.back_up(case, target)
    case.make(target, "later")
    case.clear(target, "noise")
    case.engine.restore(artefact, target, RestoreOptions(mode="replace"), bench.run())
    assert case.rows(target) == ROWS
    assert case.leftovers(target) == []
    case.add(target, "customers", 100)
    assert case.rows(target)["customers"] == 9


def test_replace_makes_a_database_that_is_absent(case: EngineCase, bench: Bench) -> None:
    artefact, target = bench.back_up(case, case.filled()), case.absent()
    case.engine.restore(artefact, target, RestoreOptions(mode="replace"), bench.run())
    assert case.rows(target) == ROWS


def test_a_plan_lists_and_touches_nothing(case: EngineCase, bench: Bench) -> None:
    artefact, absent, full = bench.back_up(case, case.filled()), case.absent(), case.filled()
    for target in (absent, full):
        planned = case.engine.plan(artefact, target, RestoreOptions(mode="plan"), bench.run())
        assert sum(item.rows or 0 for item in planned) == sum(ROWS.values())
    assert not case.exists(absent)
    assert case.rows(full) == ROWS


def main_file(artefact: Artefact) -> Path:
    path = artefact.stored_path(artefact.manifest.files[0])
    assert path is not None
    return path


def flip(quarter: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[len(data) * (2 * quarter + 1) // 8] ^= 0x10
        path.write_bytes(data)

    return change


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"byte flipped in quarter {quarter + 1}": flip(quarter) for quarter in range(4)},
    "cut by one byte": cut,
    "one byte longer": lengthen,
    "emptied": empty,
}


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_damage_is_found_at_every_level_and_never_restored(case: EngineCase, bench: Bench, compression: str) -> None:
    target = case.filled()
    artefact = bench.back_up(case, target, compression=compression)
    path = main_file(artefact)
    whole = path.read_bytes()
    kept = case.filled()
    for name, change in DAMAGES.items():
        change(path)
        assert path.read_bytes() != whole
        attempts: list[Callable[[], object]] = [
            lambda: artefact.check(bench.run()),
            lambda: case.engine.parse(artefact, bench.run()),
            lambda: case.engine.rehearse(artefact, target, bench.run()),
            lambda: case.engine.restore(artefact, kept, RestoreOptions(mode="replace"), bench.run()),
        ]
        for number, attempt in enumerate(attempts):
            with pytest.raises(ArtefactDamaged) as damaged:
                attempt()
            assert damaged.value.details["evidence"], f"{name}: no evidence in attempt {number}"
            assert not damaged.value.retryable
        path.write_bytes(whole)
    assert case.rows(kept) == ROWS
    assert case.leftovers(target) == []
    assert list(bench.workspace.iterdir()) == []
    prove(case, bench, artefact, 2, target)


def test_a_deleted_file_is_said_to_be_missing(case: EngineCase, bench: Bench) -> None:
    target, absent = case.filled(), case.absent()
    artefact = bench.back_up(case, target)
    main_file(artefact).unlink()
    for attempt in (
        lambda: artefact.check(bench.run()),
        lambda: case.engine.parse(artefact, bench.run()),
        lambda: case.engine.rehearse(artefact, target, bench.run()),
        lambda: case.engine.restore(artefact, absent, RestoreOptions(), bench.run()),
    ):
        with pytest.raises(ObjectMissing) as missing:
            attempt()
        assert missing.value.code == "artefact_missing"
    assert not case.exists(absent)


def test_a_dump_that_differs_from_its_manifest_is_found_by_the_rehearsal(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    artefact = bench.back_up(case, target)
    first = artefact.manifest.objects[0]
    told = first.model_copy(update={"rows": (first.rows or 0) + 1})
    manifest = artefact.manifest.model_copy(update={"objects": (told, *artefact.manifest.objects[1:])})
    with pytest.raises(ArtefactDamaged) as damaged:
        case.engine.rehearse(Artefact(bench.store, artefact.folder, manifest), target, bench.run())
    wrong = [item for item in damaged.value.details["evidence"] if not item["ok"]]
    assert [item["object"] for item in wrong] == [first.name]
    assert case.leftovers(target) == []


def test_without_counts_level_three_is_impossible_and_says_so(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    artefact = bench.back_up(case, target, counts="none")
    assert artefact.manifest.counts == "none"
    assert all(item.rows is None for item in artefact.manifest.objects)
    prove(case, bench, artefact, 2, target)
    with pytest.raises(VerificationImpossible):
        case.engine.rehearse(artefact, target, bench.run())


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

    def run(self, bench: Bench) -> Run:
        return bench.run(listener=self, stop=self.token)


def test_a_backup_canceled_at_any_stage_leaves_nothing(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    seen = StopAt(0)
    artefact = bench.back_up(case, target, seen.run(bench))
    for key in bench.stored():
        bench.store.delete(key)
    assert artefact.manifest.bytes
    assert seen.stages
    stopped = 0
    for number in range(1, len(seen.stages) + 1):
        try:
            bench.back_up(case, target, StopAt(number).run(bench))
        except Stopped:
            stopped += 1
            assert bench.stored() == []
        else:  # the stop came after the last step that looks for it
            assert number == len(seen.stages)
            for key in bench.stored():
                bench.store.delete(key)
        assert list(bench.workspace.iterdir()) == []
    assert stopped


def test_a_stop_asked_for_before_the_start_stops_everything(case: EngineCase, bench: Bench) -> None:
    target, absent = case.filled(), case.absent()
    artefact = bench.back_up(case, target)
    kept = bench.stored()

    def stopped() -> Run:
        run = bench.run()
        run.stop.request(StopReason.SHUTDOWN)
        return run

    for attempt in (
        lambda: bench.back_up(case, target, stopped()),
        lambda: artefact.check(stopped()),
        lambda: case.engine.parse(artefact, stopped()),
        lambda: case.engine.rehearse(artefact, target, stopped()),
        lambda: case.engine.restore(artefact, absent, RestoreOptions(), stopped()),
    ):
        with pytest.raises(Stopped):
            attempt()
    assert bench.stored() == kept
    assert not case.exists(absent)
    assert case.leftovers(target) == []
    assert list(bench.workspace.iterdir()) == []


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_a_restore_whose_lease_is_lost_before_the_switch_leaves_the_target(
    case: EngineCase, bench: Bench, mode: str
) -> None:
    artefact = bench.back_up(case, case.filled())
    target = case.empty()
    if mode == "replace":
        case.make(target, "mine")
    before = case.rows(target)

    def lost() -> None:
        raise Stopped(StopReason.LEASE_LOST)

    with pytest.raises(Stopped):
        case.engine.restore(artefact, target, RestoreOptions(mode=mode), bench.run(confirm=lost))
    assert case.rows(target) == before
    assert case.leftovers(target) == []


class NearlyFullStore(LocalStore):
    """Has room for so many bytes per object."""

    room = 100_000

    @contextmanager
    def writing(self, key: str) -> Iterator[ObjectWriter]:  # type: ignore[override]  # a writer around the real one
        with super().writing(key) as out:
            yield _LimitedWriter(out, self.room)


class _LimitedWriter:
    def __init__(self, out: ObjectWriter, room: int) -> None:
        self._out, self._room = out, room

    def write(self, data: bytes, /) -> None:
        self._room -= len(data)
        if self._room < 0:
            raise StorageFull("No space left.")
        self._out.write(data)


def test_a_full_store_ends_a_backup_with_storage_full_and_nothing_left(
    case: EngineCase, bench: Bench, tmp_path: Path
) -> None:
    bench.store = NearlyFullStore("main", tmp_path / "small")
    with pytest.raises(StorageFull) as full:
        bench.back_up(case, case.filled())
    assert (full.value.code, full.value.retryable) == ("storage_full", True)
    assert bench.stored() == []
    assert list(bench.workspace.iterdir()) == []


def test_a_missing_database_is_target_missing_and_not_made(case: EngineCase, bench: Bench) -> None:
    absent = case.absent()
    for attempt in (
        lambda: bench.back_up(case, absent),
        lambda: case.engine.inspect(absent, bench.run()),
    ):
        with pytest.raises(TargetMissing):
            attempt()
    report = case.engine.check(absent, bench.run())
    assert not report.reachable
    assert report.problem is not None
    assert report.problem["code"] == "target_missing"
    assert not case.exists(absent)
    assert bench.stored() == []


def test_check_of_a_good_target_reports_version_and_latency(case: EngineCase, bench: Bench) -> None:
    report = case.engine.check(case.filled(), bench.run())
    assert report.reachable
    assert report.problem is None
    assert report.server_version
    assert (report.latency_ms or 0) > 0
    assert report.client_tools["compatible"] is True


def test_inspection_lists_tables_and_its_fingerprint_follows_the_structure_only(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    first = case.engine.inspect(target, bench.run())
    names = {table.name.removeprefix("public.") for table in first.tables}
    assert {"customers", "orders", "noise"} <= names
    assert first.size_bytes > 300_000
    case.clear(target, "orders")
    assert case.engine.inspect(target, bench.run()).fingerprint == first.fingerprint
    case.drop_index(target)
    assert case.engine.inspect(target, bench.run()).fingerprint != first.fingerprint


def test_the_same_structure_made_anew_has_the_same_fingerprint(case: EngineCase, bench: Bench) -> None:
    first, second = case.filled(), case.filled()
    assert case.engine.inspect(first, bench.run()).fingerprint == case.engine.inspect(second, bench.run()).fingerprint


def test_what_is_written_meanwhile_is_wholly_in_the_backup_or_wholly_not(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    if not case.sees_one_moment:
        assert "No moment common" in bench.back_up(case, target).manifest.consistency
        return
    case.make(target, "one")
    case.make(target, "two")
    over, began = threading.Event(), threading.Event()

    def keep_writing() -> None:
        number = 0
        while not over.is_set():
            with case.transaction(target) as add:
                add("one", number)
                add("two", number)
            number += 1
            began.set()
            over.wait(0.002)  # a writer that never pauses would only show who starves whom

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        assert began.wait(30)
        artefacts = [bench.back_up(case, target) for _ in range(3)]
    finally:
        over.set()
        writer.join()
    for artefact in artefacts:
        restored = case.absent()
        case.engine.restore(artefact, restored, RestoreOptions(), bench.run())
        rows = case.rows(restored)
        assert rows["one"] == rows["two"] > 0
        counted = {item.name.removeprefix("public."): item.rows for item in artefact.manifest.objects}
        assert counted["one"] == rows["one"], "counts are not of the dump's own moment"
        prove(case, bench, artefact, 3, target)


def test_a_restored_database_can_be_backed_up_and_restored_again(case: EngineCase, bench: Bench) -> None:
    first, second = case.absent(), case.absent()
    case.engine.restore(bench.back_up(case, case.filled()), first, RestoreOptions(), bench.run())
    case.engine.restore(bench.back_up(case, first), second, RestoreOptions(), bench.run())
    assert case.rows(second) == ROWS


def test_a_database_named_by_into_is_beside_the_first(case: EngineCase, bench: Bench) -> None:
    beside = case.engine.into(case.absent(), Path(case.absent().database).name)
    assert beside.connection == "shop"
    case.engine.restore(bench.back_up(case, case.filled()), beside, RestoreOptions(), bench.run())
    assert case.rows(beside) == ROWS


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_names_that_no_database_can_have_are_refused(case: EngineCase, name: str) -> None:
    with pytest.raises(InvalidTarget):
        case.engine.into(case.absent(), name)


def test_targets_with_the_same_database_have_the_same_key(case: EngineCase) -> None:
    one, other = case.absent(), case.absent()
    again = case.engine.target("another", one.url.get_secret_value())
    assert one.key == again.key != other.key


def test_options_an_engine_lacks_are_refused_before_anything_is_done(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    assert case.engine.refuse_options(BackupOptions()) == {}
    refused = case.engine.refuse_options(BackupOptions(include=("customers",)))
    assert set(refused) == (set() if case.takes_include else {"include"})
    if case.takes_include:
        return
    artefact = bench.back_up(case, target)
    with pytest.raises(UnsupportedOperation):
        bench.back_up(case, target, include=("customers",))
    with pytest.raises(UnsupportedOperation):
        case.engine.restore(artefact, case.absent(), RestoreOptions(include=("customers",)), bench.run())
    assert len([key for key in bench.stored() if not key.endswith(MANIFEST_NAME)]) == 1


@pytest.mark.parametrize(
    "asked", [{"include": ("customers",)}, {"exclude": ("customers",)}, {"content": "schema"}, {"content": "data"}]
)
def test_a_part_of_a_database_is_known_from_the_whole(case: EngineCase, bench: Bench, asked: dict[str, Any]) -> None:
    target = case.filled()
    assert bench.back_up(case, target).manifest.whole is True
    assert bench.back_up(case, target, jobs=1, counts="none").manifest.whole is True
    if not case.engine.refuse_options(BackupOptions(**asked)):
        assert bench.back_up(case, target, **asked).manifest.whole is False


def test_leftovers_of_dead_jobs_are_removed_and_of_living_ones_kept(case: EngineCase, bench: Bench) -> None:
    target = case.filled()
    case.leave_half_restored(target, bench.run().job_id)
    (left,) = case.leftovers(target)
    assert case.engine.remove_leftovers(target, lambda _job: False) == []
    assert case.leftovers(target) == [left]
    assert case.engine.remove_leftovers(target, lambda job: job in left) == [left]
    assert case.leftovers(target) == []
    assert case.rows(target) == ROWS


def test_a_dropped_database_is_gone_and_a_second_drop_finds_none(case: EngineCase, bench: Bench) -> None:
    kept, going = case.filled(), case.absent()
    case.engine.restore(bench.back_up(case, kept), going, RestoreOptions(), bench.run())
    assert case.engine.drop(going, bench.run()) is True
    assert not case.exists(going)
    assert case.engine.drop(going, bench.run()) is False
    assert case.rows(kept) == ROWS


def test_a_server_lists_its_databases_and_an_engine_without_servers_says_so(case: EngineCase, bench: Bench) -> None:
    target, absent = case.filled(), case.absent()
    if not case.engine.has_servers:
        with pytest.raises(UnsupportedOperation):
            case.engine.databases(target, bench.run())
        return
    found = case.engine.databases(target, bench.run())
    assert target.database in found
    assert absent.database not in found
    assert len(set(found)) == len(found)
