"""What goes wrong with MongoDB backups and restores, and how each of it ends.

What SecantusDB lacks is listed in `test_round_trip`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import bson
import pytest

from engines.artefacts.reading import Artefact
from engines.base import Target
from engines.errors import (
    ArtefactDamaged,
    Stopped,
    StorageFull,
    TargetBusy,
    TargetNotEmpty,
    TargetUnavailable,
    ToolFailed,
)
from engines.mongodb import MongoEngine
from engines.mongodb.archive import ArchiveReader
from engines.mongodb.metadata import Collection
from engines.mongodb.switching import journal_name, loading_name, steps
from engines.run import Progress, Run, StopReason, StopToken
from tests.integration.mongodb.workbench import Workbench
from tests.mongodb import own_secantus, with_database
from tests.unit.test_mongodb_archive import BLOCK_DAMAGES, blocks, pieces


class At:
    """Does something once, when a stage is told of for the first time with at least so much done."""

    def __init__(self, stage: str, do: Callable[[], object], done: int = 0) -> None:
        self._stage, self._do, self._done = stage, do, done
        self.happened = False

    def __call__(self, progress: Progress) -> None:
        if progress.stage == self._stage and progress.done >= self._done and not self.happened:
            self.happened = True
            self._do()


def changed(bench: Workbench, change: Callable[[bytes], bytes]) -> tuple[Artefact, Target]:
    """A backup whose archive was changed and all of whose digests were recomputed."""
    source = bench.target()
    for name in ("one", "two"):
        bench.database(source)[name].insert_many([{"_id": n, "in": name, "v": "x" * 40} for n in range(2500)])
    artefact = bench.back_up(source)
    return bench.with_raw(artefact, change(bench.raw(artefact))), source


def refused(bench: Workbench, artefact: Artefact, scratch: Target) -> None:
    """Level 2, level 3 and a restore all find it, and the target keeps what it had."""
    kept = bench.small()
    before = bench.contents(kept)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: bench.engine.parse(artefact, bench.run()),
        lambda: bench.engine.rehearse(artefact, scratch, bench.run()),
        lambda: bench.restore(artefact, kept, mode="replace"),
        lambda: bench.restore(artefact, bench.target()),
    )
    for attempt in attempts:
        with pytest.raises(ArtefactDamaged) as damaged:
            attempt()
        assert damaged.value.details["evidence"]
    assert bench.contents(kept) == before
    assert bench.leftovers() == []


def flipped(data: bytes) -> bytes:
    at = data.rindex(b"x" * 40) + 7
    return data[:at] + b"y" + data[at + 1 :]


def missing(data: bytes) -> bytes:
    at = data.rindex(b"x" * 40) + 7
    return data[:at] + data[at + 1 :]


def without_a_document(data: bytes) -> bytes:
    found = pieces(data)
    return b"".join(found[:20] + found[21:])


def with_swapped_documents(data: bytes) -> bytes:
    found = pieces(data)
    return b"".join([*found[:20], found[21], found[20], *found[22:]])


RAW_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a byte flipped": flipped,
    "a byte missing": missing,
    "a document missing": without_a_document,
    "two documents swapped": with_swapped_documents,
    "two blocks of one collection swapped": lambda data: b"".join(_swap(blocks(data))),
    "a block missing": lambda data: b"".join(blocks(data)[:1] + blocks(data)[2:]),
    "an option changed": lambda data: data.replace(b'"collectionName":"one"', b'"collectionName":"ore"'),
    "a collection left out of all": lambda data: _without(data, "two"),
}


def _swap(parts: list[bytes]) -> list[bytes]:
    return [parts[0], parts[2], parts[1], *parts[3:]]


def _without(data: bytes, name: str) -> bytes:
    """Consistently: it is neither listed nor there."""
    prelude, *others = blocks(data)
    listed = [piece for piece in pieces(prelude) if f"{name}\0".encode() not in piece]
    kept = [block for block in others if bson.decode(pieces(b"\0\0\0\0" + block)[1])["collection"] != name]
    return b"".join([*listed, *kept])


@pytest.mark.parametrize("damage", RAW_DAMAGES)
def test_damage_is_found_though_every_digest_was_recomputed(bench: Workbench, damage: str) -> None:
    artefact, scratch = changed(bench, RAW_DAMAGES[damage])
    if damage == "a collection left out of all":  # only the manifest knows that it was there
        with pytest.raises(ArtefactDamaged):
            bench.engine.parse(artefact, bench.run())
        with pytest.raises(ArtefactDamaged):
            bench.engine.rehearse(artefact, scratch, bench.run())
        return
    if damage == "an option changed":  # no checksum of the format covers it: the manifest's does
        with pytest.raises(ArtefactDamaged) as damaged:
            bench.engine.parse(artefact, bench.run())
        assert damaged.value.details["evidence"]
        return
    refused(bench, artefact, scratch)


def test_an_archive_cut_at_every_block_is_found(bench: Workbench) -> None:
    source = bench.small(2500)
    artefact = bench.back_up(source)
    parts = blocks(bench.raw(artefact))
    assert len(parts) == 5, "prelude, three blocks, end"
    target = bench.target()
    for number in range(len(parts)):
        cut = bench.with_raw(artefact, b"".join(parts[:number]))
        with pytest.raises(ArtefactDamaged):
            bench.engine.parse(cut, bench.run())
        with pytest.raises(ArtefactDamaged):
            bench.restore(cut, target)
    assert not bench.contents(target)
    assert BLOCK_DAMAGES, "those that need no server are in tests/unit"


def test_a_collection_that_grows_meanwhile_is_proven_all_the_same(bench: Workbench) -> None:
    source = bench.small(5000)
    over, began = threading.Event(), threading.Event()

    def grow() -> None:
        number = 10_000
        while not over.is_set():
            bench.database(source)["things"].insert_one({"_id": number})
            number += 1
            began.set()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        assert began.wait(30)
        artefact = bench.back_up(source)
    finally:
        over.set()
        writer.join()
    bench.prove(artefact, source)
    assert "No moment common" in artefact.manifest.consistency or "One snapshot" in artefact.manifest.consistency


@pytest.mark.parametrize("stage", ["looking", "dumping"])
@pytest.mark.parametrize("layout", ["archive", "directory"])
def test_a_collection_dropped_meanwhile_ends_the_backup(bench: Workbench, stage: str, layout: str) -> None:
    source = bench.small(3000)
    bench.database(source)["zebra"].insert_many([{"_id": n} for n in range(2000)])
    drop = At(stage, lambda: bench.database(source).drop_collection("zebra"))
    with pytest.raises(TargetBusy) as busy:
        bench.back_up(source, bench.run(listener=drop), layout=layout)
    assert drop.happened
    assert busy.value.retryable
    assert list(bench.store.list()) == []


def test_a_collection_made_anew_meanwhile_ends_the_backup(bench: Workbench) -> None:
    source = bench.small(3000)

    def anew() -> None:
        bench.database(source).drop_collection("things")
        bench.database(source)["things"].insert_one({"_id": 1})

    with pytest.raises(TargetBusy):
        bench.back_up(source, bench.run(listener=At("dumping", anew)))


def stages_of(do: Callable[[Run], object], bench: Workbench) -> list[str]:
    seen: list[str] = []

    def note(progress: Progress) -> None:
        if progress.stage not in seen:
            seen.append(progress.stage)

    do(bench.run(listener=note))
    return seen


@pytest.mark.parametrize("layout", ["archive", "directory"])
def test_a_backup_canceled_in_any_phase_leaves_nothing(bench: Workbench, layout: str) -> None:
    source = bench.small(3000)
    stages = stages_of(lambda run: bench.back_up(source, run, layout=layout), bench)
    assert set(stages) >= {"looking", "dumping"}
    kept = len(list(bench.store.list()))
    for stage in stages:
        token = StopToken()
        stop = At(stage, partial(token.request, StopReason.CANCEL))
        run = bench.run(listener=stop, stop=token)
        with pytest.raises(Stopped):
            bench.back_up(source, run, layout=layout)
        assert list(run.workspace.iterdir()) == []
        assert len(list(bench.store.list())) == kept


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_a_restore_canceled_in_any_phase_leaves_the_target(bench: Workbench, mode: str) -> None:
    artefact = bench.back_up(bench.filled())
    stages = stages_of(lambda run: bench.restore(artefact, bench.target(), run, mode=mode), bench)
    assert set(stages) >= {"checking", "restoring", "indexing", "switching"}
    target = bench.small() if mode == "replace" else bench.target()
    before = bench.contents(target)
    for stage in stages:
        token = StopToken()
        stop = At(stage, partial(token.request, StopReason.CANCEL))
        with pytest.raises(Stopped):
            bench.restore(artefact, target, bench.run(listener=stop, stop=token), mode=mode)
        assert bench.contents(target) == before, stage
        assert bench.leftovers() == []


def test_a_rehearsal_canceled_in_any_phase_drops_its_scratch_database(bench: Workbench) -> None:
    source = bench.filled()
    artefact = bench.back_up(source)
    for stage in stages_of(lambda run: bench.engine.rehearse(artefact, source, run), bench):
        token = StopToken()
        stop = At(stage, partial(token.request, StopReason.CANCEL))
        with pytest.raises(Stopped):
            bench.engine.rehearse(artefact, source, bench.run(listener=stop, stop=token))
        assert bench.leftovers() == []


class Died(BaseException):
    """Stands for the end of the process: nobody catches it, and the switch is not tidied up."""


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_what_an_attempt_that_died_while_loading_left_is_no_obstacle(bench: Workbench, mode: str) -> None:
    source = bench.filled()
    artefact, target = bench.back_up(source), bench.target()
    first = bench.run()
    bench.database(target)[loading_name(bench.job_id, first.token, 0)].insert_one({"half": True})
    bench.restore(artefact, target, bench.later_attempt(), mode=mode)
    assert bench.contents(target) == bench.contents(source)
    assert bench.leftovers() == []


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_an_attempt_that_died_while_switching_is_finished_by_the_next(bench: Workbench, mode: str) -> None:
    source = bench.filled()
    artefact, target = bench.back_up(source), bench.target()
    if mode == "replace":
        bench.database(target)["later"].insert_one({})
    die_while_switching(bench, artefact, target, mode)
    assert bench.contents(target) != bench.contents(source)
    done = bench.restore(artefact, target, bench.later_attempt(), mode=mode)
    assert any("earlier attempt" in note for note in done.notes)
    assert bench.contents(target) == bench.contents(source)
    assert bench.leftovers() == []


def die_while_switching(bench: Workbench, artefact: Artefact, target: Target, mode: str) -> None:
    """Leave what a restore leaves that is killed in the middle of its switch.

    Everything was loaded and the journal written, the first collection is in its place, another half made.
    """
    shop, run = bench.database(target), bench.run()

    def die() -> None:  # right before the switch; what was loaded is put aside, or it would be tidied up
        for name in shop.list_collection_names(filter={"name": {"$regex": "^flexdb_new_"}}):
            shop[name].rename(f"aside.{name}")
        raise Died

    run.confirm = die
    with pytest.raises(Died):
        bench.restore(artefact, target, run, mode=mode)
    for name in shop.list_collection_names(filter={"name": {"$regex": "^aside"}}):
        shop[name].rename(name.removeprefix("aside."))
    items = ArchiveReader(BytesIO(bench.raw(artefact)).read).prelude.collections
    keys = [(item.database, item.name) for item in items if item.kind != "view"]
    named = {key: loading_name(bench.job_id, run.token, number) for number, key in enumerate(keys)}
    with_options = {item.name for item in items if item.options and item.kind == "collection"}
    todo = steps(items, named, ["later"] if mode == "replace" else [], raw=set(), copied=with_options)
    shop[todo[0]["from"]].rename(todo[0]["name"])
    half = next(step for step in todo if step["do"] == "copy" and step["name"] == "customers")
    half["begun"] = True
    shop["customers"].insert_one({"half": True})
    journal = {"_id": "switch", "replaces": mode == "replace", "steps": todo}
    shop[journal_name(bench.job_id)].insert_one(journal)


def test_a_switch_that_was_begun_is_finished_by_the_sweep_when_its_job_is_over(bench: Workbench) -> None:
    target = bench.small()
    shop, token = bench.database(target), 7
    loaded = loading_name(bench.job_id, token, 0)
    shop[loaded].insert_one({"_id": 1, "new": True})
    todo = [{"do": "rename", "name": "fresh", "from": loaded}, {"do": "drop", "name": "things"}]
    shop[journal_name(bench.job_id)].insert_one({"_id": "switch", "replaces": True, "steps": todo})
    assert bench.engine.remove_leftovers(target, lambda _: False) == []
    assert bench.engine.remove_leftovers(target, lambda job: job == bench.job_id)
    assert sorted(bench.contents(target)) == ["fresh"]
    assert bench.leftovers() == []


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_a_view_the_server_refuses_ends_the_restore_before_anything_is_touched(bench: Workbench, mode: str) -> None:
    source = bench.small()
    bench.database(source).create_collection("seen", viewOn="things", pipeline=[{"$match": {"v": 1}}])
    artefact = bench.back_up(source)
    raw = bench.raw(artefact).replace(b'"pipeline"', b'"pipelinx"')
    target = bench.target() if mode == "create" else bench.small(3)
    before = bench.contents(target)
    with pytest.raises(ToolFailed):
        bench.restore(bench.with_raw(artefact, raw), target, mode=mode)
    assert bench.contents(target) == before
    assert bench.leftovers() == []


def test_a_name_taken_during_the_switch_undoes_it(bench: Workbench) -> None:
    source, target = bench.filled(), bench.target()
    artefact = bench.back_up(source)

    def taken() -> None:  # by somebody else, right before the switch
        bench.database(target).create_collection("young_ones", viewOn="other", pipeline=[])

    with pytest.raises(TargetNotEmpty):
        bench.restore(artefact, target, bench.run(confirm=taken))
    assert list(bench.contents(target)) == ["young_ones"]
    assert bench.leftovers() == []


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_an_attempt_that_died_after_its_last_step_is_finished_by_the_next(bench: Workbench, mode: str) -> None:
    """Everything is in its place, views among it, and only the journal is left."""
    source, target = bench.filled(), bench.target()
    artefact = bench.back_up(source)
    items = ArchiveReader(BytesIO(bench.raw(artefact)).read).prelude.collections
    keys = [(item.database, item.name) for item in items if item.kind != "view"]
    named = {key: loading_name(bench.job_id, 1, number) for number, key in enumerate(keys)}
    todo = steps(items, named, [], raw=set(), copied=set())
    bench.restore(artefact, target)
    journal = {"_id": "switch", "replaces": mode == "replace", "steps": todo}
    bench.database(target)[journal_name(bench.job_id)].insert_one(journal)
    bench.restore(artefact, target, bench.later_attempt(), mode=mode)
    assert bench.contents(target) == bench.contents(source)
    assert bench.leftovers() == []


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_a_journal_that_was_made_and_never_written_decides_nothing(bench: Workbench, mode: str) -> None:
    source, target = bench.filled(), bench.target()
    artefact = bench.back_up(source)
    bench.database(target).create_collection(journal_name(bench.job_id))
    bench.restore(artefact, target, bench.later_attempt(), mode=mode)
    assert bench.contents(target) == bench.contents(source)
    assert bench.leftovers() == []


def test_the_sweep_goes_on_where_a_switch_finds_its_names_taken(bench: Workbench) -> None:
    first, second = bench.target("flexdbtest_a" + bench.job_id), bench.target("flexdbtest_b" + bench.job_id)
    view = Collection("", "seen", "view", {"viewOn": "things", "pipeline": []})
    todo = [{"do": "view", "name": "seen", "metadata": view.as_json()}]
    for target in (first, second):
        bench.database(target)["seen"].insert_one({"_id": "somebody else's"})
        journal = {"_id": "switch", "replaces": False, "steps": todo}
        bench.database(target)[journal_name(bench.job_id)].insert_one(journal)
    bench.engine.remove_leftovers(first, lambda job: job == bench.job_id)
    assert bench.leftovers() == []
    assert list(bench.contents(first)) == list(bench.contents(second)) == ["seen"]


def test_a_server_lost_in_the_middle_of_the_switch_loses_nothing(bench: Workbench, tmp_path: Path) -> None:
    """The job fails, what was loaded stays, and the next attempt finishes the switch."""
    data = tmp_path / "data"
    with own_secantus("--sync-on-commit", storage=data) as server:
        other = Workbench(tmp_path, f"{server.url}&serverSelectionTimeoutMS=500")
        source, target = other.filled(), other.target()
        artefact, expected = other.back_up(source), other.contents(source)
        die_while_switching(other, artefact, target, "replace")
        server.kill()
        with pytest.raises(TargetUnavailable):
            other.restore(artefact, target, other.later_attempt(), mode="replace")
        other.client.close()
    with own_secantus("--sync-on-commit", storage=data) as server:
        again = Workbench(tmp_path, server.url, job_id=other.job_id, runs=10)
        target = again.engine.target("shop", with_database(server.url, target.database))
        again.restore(artefact, target, again.later_attempt(), mode="replace")
        assert again.contents(target) == expected
        assert again.leftovers() == []
        again.client.close()


def test_a_second_attempt_finds_its_work_done(bench: Workbench) -> None:
    source, target = bench.filled(), bench.target()
    artefact = bench.back_up(source)
    bench.restore(artefact, target)
    done = bench.restore(artefact, target, bench.later_attempt())
    assert done.notes[0] == "An earlier attempt of this job had restored it."
    bench.database(target)["with space"].delete_one({"_id": 1})
    with pytest.raises(TargetNotEmpty):
        bench.restore(artefact, target, bench.later_attempt())


def test_what_another_attempt_of_the_job_is_loading_is_left_alone(bench: Workbench) -> None:
    """A worker that has lost its lease drops what it made itself, not what its successor makes."""
    artefact, target = bench.back_up(bench.small()), bench.target()
    newer = loading_name(bench.job_id, 10_000, 0)
    bench.database(target)[newer].insert_one({})

    def lost() -> None:
        raise Stopped(StopReason.LEASE_LOST)

    with pytest.raises(Stopped):
        bench.restore(artefact, target, bench.run(confirm=lost))
    assert bench.leftovers() == [f"{target.database}.{newer}"]


def test_an_index_that_cannot_be_built_ends_the_restore_and_leaves_the_target(bench: Workbench) -> None:
    source, target = bench.small(), bench.small()  # whose `v` is the same in every document
    bench.database(source)["things"].create_index("_id_like", name="unique", unique=True, sparse=True)
    artefact = bench.back_up(source)
    raw = bench.raw(artefact).replace(b'"_id_like"', b'"v"       ')
    before = bench.contents(target)
    with pytest.raises(ArtefactDamaged):
        bench.engine.rehearse(bench.with_raw(artefact, raw), source, bench.run())
    with pytest.raises(ToolFailed) as failed:
        bench.restore(bench.with_raw(artefact, raw), target, mode="replace")
    assert "things" in failed.value.message
    assert bench.contents(target) == before
    assert bench.leftovers() == []


def test_a_work_folder_without_room_ends_the_layout_that_needs_it(bench: Workbench) -> None:
    bench.engine = MongoEngine(free_bytes=lambda _: 10)
    source = bench.small()
    with pytest.raises(StorageFull):
        bench.back_up(source, layout="directory")
    bench.back_up(source)


def test_a_server_that_is_away_is_unavailable_within_the_time_its_url_gives(bench: Workbench) -> None:
    target = bench.engine.target("shop", "mongodb://127.0.0.1:1/shop?serverSelectionTimeoutMS=300")
    with pytest.raises(TargetUnavailable) as away:
        bench.back_up(target)
    assert away.value.retryable
    report = bench.engine.check(target, bench.run())
    assert report.problem is not None and report.problem["code"] == "target_unavailable"


@pytest.mark.parametrize("stage", ["dumping", "restoring"])
def test_a_server_that_goes_away_meanwhile_ends_the_work_as_unavailable(bench: Workbench, stage: str) -> None:
    with own_secantus() as server:
        other = Workbench(bench.folder, f"{server.url}&serverSelectionTimeoutMS=500")
        source, target = other.target(), other.target()
        for name in ("one", "two", "three"):
            other.database(source)[name].insert_many([{"_id": n, "v": "x" * 200} for n in range(4000)])
        artefact = other.back_up(source)
        run = other.run(listener=At(stage, server.kill))
        attempts: dict[str, Callable[[], object]] = {
            "dumping": lambda: other.back_up(source, run),
            "restoring": lambda: other.restore(artefact, target, run),
        }
        with pytest.raises(TargetUnavailable) as away:
            attempts[stage]()
        assert away.value.retryable
        other.client.close()
