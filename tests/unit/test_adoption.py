"""The adoption handler over a small engine of its own: what becomes of a dump made by hand, and of what is none."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from engines.artefacts.compression import zstd
from engines.artefacts.manifest import Evidence, ObjectCount
from engines.artefacts.reading import Artefact, proven, read_manifest
from engines.artefacts.writing import ArtefactWriter
from engines.assertions import Assertion
from engines.base import AdoptionEngine, Dump, Engine, Source, Target, VerificationEngine
from engines.errors import ArtefactDamaged, FlexError, InvalidDump, ObjectMissing, Stopped, StorageFailed
from engines.registry import EngineRegistry
from engines.run import Progress, Run, StopReason
from engines.storage.local import LocalStore
from handlers.adoption import AdoptionHandler, AdoptionRequest, AdoptionResult
from handlers.base import Published
from handlers.incoming import incoming_key
from service.catalogue import LedgerCatalogue
from service.connections import NamedConnections, NamedStores
from tests.spine import open_ledger

FORMAT = "sqlite-sql"
DUMP = b"LINES\n" + b"".join(b"%d\n" % number for number in range(100_000)) + b"END\n"
Act = Callable[[], object]


class LinesEngine(AdoptionEngine, VerificationEngine):
    """Its dumps are `LINES`, a line per row, `END`."""

    kind = "lines"
    schemes = ("lines",)
    magic = b"LINES\n"

    def __init__(self) -> None:
        self.while_reading: Act = lambda: None
        self.seen: dict[str, Any] = {}

    def target(self, connection: str, url: str) -> Target:
        return Target(connection, self.kind, SecretStr(url), "", None, "somewhere")

    def into(self, target: Target, database: str) -> Target:
        raise NotImplementedError

    def recognise(self, head: bytes) -> str | None:
        return FORMAT if head.startswith(self.magic) else None

    def adopt(self, source: Source, format: str, out: ArtefactWriter, run: Run) -> Dump:
        assert format == FORMAT
        lines, end = -2, b""
        with out.file("database.sql", format) as sink:
            while data := source.read(10_000):
                sink.write(data)
                lines += data.count(b"\n")
                end = (end + data)[-4:]
                run._reported = 0.0  # no word of it is held back
                run.progress("adopting", sink.raw_bytes)
                self.while_reading()
        if end != b"END\n":
            raise ArtefactDamaged("The dump does not come to its end.")
        return Dump(
            "1.0", (ObjectCount(name="lines", rows=lines),), "exact", "As it was.", ("cat FILE",), options=self.seen
        )

    def parse(self, artefact: Artefact, run: Run) -> tuple[Evidence, ...]:
        file = artefact.file(FORMAT)
        with artefact.open_raw(file, run) as source:
            while source.read():
                pass
        return proven(file)

    def rehearse(
        self, artefact: Artefact, scratch: Target, run: Run, assertions: tuple[Assertion, ...] = ()
    ) -> tuple[Evidence, ...]:
        raise NotImplementedError


class WordsEngine(LinesEngine):
    kind = "words"
    schemes = ("words",)
    magic = b"WORDS\n"


class SilentEngine(Engine):
    """Takes nothing in."""

    kind = "silent"
    schemes = ("silent",)

    def target(self, connection: str, url: str) -> Target:
        return Target(connection, self.kind, SecretStr(url), "", None, "somewhere")

    def into(self, target: Target, database: str) -> Target:
        raise NotImplementedError


class FailingStore(LocalStore):
    """Fails with whatever key holds `fails_with`."""

    fails_with = "nothing at all"

    def delete(self, key: str) -> None:
        if self.fails_with in key:
            raise StorageFailed("The store does not delete now.")
        super().delete(key)


@dataclass
class World:
    folder: Path
    engine: LinesEngine
    store: FailingStore
    handler: AdoptionHandler
    told: list[Progress] = field(default_factory=list)

    def run(self, token: int = 1) -> Run:
        return Run("01job", token, self.folder, "event", listener=self.told.append, attempt=token)

    def upload(self, content: bytes = DUMP, name: str = "shop.dump") -> None:
        self.store.put(incoming_key(name), content)

    def adopt(self, run: Run | None = None, **data: Any) -> AdoptionResult:
        request = AdoptionRequest.model_validate({"connection": "shop", "path": "shop.dump"} | data)
        assert self.handler.faults(request) == []
        outcome = self.handler.run(request, run or self.run())
        assert isinstance(outcome.result, AdoptionResult)
        (change,) = outcome.changes
        assert isinstance(change, Published)
        assert change.entry.manifest.backup_id == outcome.result.backup_id
        return outcome.result

    def fails(self, error: type[FlexError], **data: Any) -> FlexError:
        """Nothing but the uploaded file is left."""
        before = self.keys
        with pytest.raises(error) as caught:
            self.adopt(**data)
        assert self.keys == before
        return caught.value

    @property
    def keys(self) -> list[str]:
        return sorted(item.key for item in (*self.store.list(), *self.store.unfinished()))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    lines = LinesEngine()
    engines = EngineRegistry([lines, WordsEngine(), SilentEngine()])
    connections = NamedConnections({"shop": "lines://", "text": "words://", "mute": "silent://"}, engines)
    store = FailingStore("default", tmp_path / "storage")
    stores = NamedStores({"default": store})
    async with open_ledger(tmp_path / "ledger.sqlite") as ledger:
        catalogue = LedgerCatalogue(ledger, stores, asyncio.get_running_loop())
        yield World(tmp_path, lines, store, AdoptionHandler(connections, stores, catalogue, engines, "test"))


GZIPPED = gzip.compress(DUMP)
WRAPPED = {"plain": DUMP, "gzip": GZIPPED, "zstd": zstd.compress(DUMP)}


@pytest.mark.parametrize("how", WRAPPED)
def test_a_dump_becomes_a_published_backup_however_it_is_wrapped(world: World, how: str) -> None:
    world.upload(WRAPPED[how])
    result = world.adopt(labels={"from": "cron"})
    folder = f"shop/{result.backup_id}"
    assert world.keys == [f"{folder}/database.sql.zst", f"{folder}/manifest.json"], "the uploaded file is gone"
    assert (result.format, result.rows, result.level, result.labels) == (FORMAT, 100_000, 2, {"from": "cron"})
    assert (result.raw_bytes, zstd.decompress(world.store.get(f"{folder}/database.sql.zst"))) == (len(DUMP), DUMP)
    manifest = json.loads(world.store.get(f"{folder}/manifest.json"))
    came = WRAPPED[how]
    assert manifest["options"]["adopted"] == result.adopted
    assert {name: result.adopted[name] for name in ("name", "bytes", "sha256", "format")} == {
        "name": "shop.dump",
        "bytes": len(came),
        "sha256": hashlib.sha256(came).hexdigest(),
        "format": FORMAT,
    }
    assert (manifest["job_id"], manifest["connection"], manifest["engine"]) == ("01job", "shop", "lines")
    assert manifest["restore_by_hand"] == ["cat FILE"]
    assert manifest["verification"]["level"] == 2 and manifest["verification"]["evidence"]
    assert manifest["started_at"] <= manifest["ended_at"]


@pytest.mark.parametrize("said", [None, True, False])
def test_whether_a_dump_is_whole_nobody_knows_but_who_made_it(world: World, said: bool | None) -> None:
    world.upload()
    result = world.adopt(whole=said)
    assert result.whole is said
    assert read_manifest(world.store, f"shop/{result.backup_id}").whole is said


@pytest.mark.parametrize("seen", [{"content": "schema"}, {"missing_tables": ["people"]}, {"whole": False}])
def test_what_shows_itself_to_be_a_part_is_one_whatever_was_said(world: World, seen: dict[str, Any]) -> None:
    world.engine.seen = seen
    world.upload()
    assert world.adopt(whole=True).whole is False


@pytest.mark.parametrize(("said", "kept"), [("2019-05-01T12:00:00+02:00", 2019), ("2999-01-01T00:00:00Z", None)])
def test_a_dump_is_as_old_as_it_is_said_to_be_but_never_of_tomorrow(world: World, said: str, kept: int | None) -> None:
    world.upload(DUMP)
    result = world.adopt(made_at=said)
    manifest = read_manifest(world.store, f"shop/{result.backup_id}")
    assert manifest.ended_at == manifest.started_at
    assert manifest.ended_at.year == kept or manifest.ended_at <= datetime.now(UTC)
    assert manifest.verification.at > datetime(2026, 1, 1, tzinfo=UTC)


def test_the_uploaded_file_stays_when_it_is_to_be_kept(world: World) -> None:
    world.upload()
    world.adopt(keep=True)
    assert incoming_key("shop.dump") in world.keys


def test_progress_counts_the_bytes_of_the_file_as_it_came(world: World) -> None:
    world.upload(GZIPPED)
    world.adopt()
    adopting = [told for told in world.told if told.stage == "adopting"]
    assert adopting
    assert {told.total for told in adopting} == {len(GZIPPED)}


# ---------------------------------------------------------------- what is not taken in


def test_a_dump_of_another_engine_is_told_as_such(world: World) -> None:
    world.upload(b"WORDS\n")
    error = world.fails(InvalidDump)
    assert "is a dump for words" in error.message and "'shop' is lines" in error.message
    assert "words" in error.hint


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (gzip.compress(b""), "is empty"),
        (b"Dear Ada,\n" * 100_000, "no dump that any engine knows"),
        (b"BZh91AY&SY" + bytes(100), "packed with bzip2"),
        (b"\xfd7zXZ\x00" + bytes(100), "packed with xz"),
    ],
    ids=["empty", "gzip of nothing", "a letter", "bzip2", "xz"],
)
def test_what_is_no_dump_is_refused(world: World, content: bytes, why: str) -> None:
    world.upload(content)
    assert why in world.fails(InvalidDump).message


@pytest.mark.parametrize(
    "content",
    [
        GZIPPED[:-100],
        GZIPPED[:-3],
        GZIPPED + b"more",
        gzip.compress(DUMP[:-10]),
        DUMP[:-1],
        zstd.compress(DUMP)[:-1],
    ],
    ids=["gzip cut", "gzip trailer cut", "gzip and more", "dump cut before it was packed", "dump cut", "zstd cut"],
)
def test_what_is_not_whole_is_damaged(world: World, content: bytes) -> None:
    world.upload(content)
    assert not world.fails(ArtefactDamaged).retryable


class HastyEngine(LinesEngine):
    """Stops reading where its dump ends."""

    def adopt(self, source: Source, format: str, out: ArtefactWriter, run: Run) -> Dump:
        with out.file("database.sql", format) as sink:
            data = b""
            while not data.endswith(b"END\n"):
                data += source.read(1)
            sink.write(data)
        return Dump("1.0", (), "none", "As it was.", ())


@pytest.mark.parametrize("after", [b"", bytes(10_000), b"more"])
def test_what_follows_a_dump_may_be_nothing_but_zeros(world: World, after: bytes) -> None:
    world.handler._engines = EngineRegistry([HastyEngine()])
    world.upload(b"LINES\n1\nEND\n" + after)
    if after == b"more":
        assert "goes on after" in world.fails(ArtefactDamaged, verify=0).message
    else:
        assert world.adopt(verify=0).adopted["bytes"] == 12 + len(after)


def test_a_file_that_was_never_uploaded_is_missing(world: World) -> None:
    world.upload(name="shop.dump2")
    error = world.fails(ObjectMissing)
    assert "flexdb adopt" in error.hint


def test_another_file_than_the_one_meant_is_refused(world: World) -> None:
    world.upload()
    assert hashlib.sha256(DUMP).hexdigest() in world.fails(InvalidDump, sha256="0" * 64).message
    world.adopt(sha256=hashlib.sha256(DUMP).hexdigest())


def test_a_wish_to_cancel_is_heard_while_the_dump_is_read(world: World) -> None:
    world.upload()
    run = world.run()
    world.engine.while_reading = lambda: run.stop.request(StopReason.CANCEL)
    world.fails(Stopped, run=run)


@pytest.mark.parametrize(
    "name", ["", "a/b", "a\\b", "../a", "..", ".a", "-a", "a\0", "a\n", "é", "x" * 151, "_incoming/a", "a b"]
)
def test_a_name_that_is_not_plain_is_refused_at_the_door(name: str) -> None:
    with pytest.raises(ValidationError):
        AdoptionRequest(connection="shop", path=name)


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        ({"connection": "nobody"}, "/connection"),
        ({"connection": "mute"}, "/connection"),
        ({"compression": "gzip"}, "/compression"),
        ({"storage": "nowhere"}, "/storage"),
        ({"path": "manifest.json"}, "/path"),
    ],
)
def test_what_cannot_be_done_is_told_at_the_door(world: World, data: dict[str, Any], pointer: str) -> None:
    request = AdoptionRequest.model_validate({"connection": "shop", "path": "shop.dump"} | data)
    assert [fault.pointer for fault in world.handler.faults(request)] == [pointer]


def test_one_uploaded_file_is_adopted_by_one_job_at_a_time(world: World) -> None:
    def claims(path: str, **data: Any) -> Any:
        return world.handler.claims(AdoptionRequest(connection="shop", path=path, **data))

    assert claims("a") == claims("a", storage="default") != claims("b")
    assert [claim.mode for claim in claims("a")] == ["exclusive"]


# ---------------------------------------------------------------- a second attempt


def test_an_attempt_that_died_after_publishing_is_completed_and_makes_no_second(world: World) -> None:
    world.upload()
    first = world.adopt(keep=True)
    before = [key for key in world.keys if key.startswith("shop/")]
    second = world.adopt(world.run(2))
    assert second == first
    assert world.keys == before, "and the uploaded file went with it"
    assert world.adopt(world.run(3)) == first, "nor does it need the uploaded file any more"


def test_an_attempt_that_died_before_publishing_is_made_again_and_its_leavings_go(world: World) -> None:
    world.upload()
    world.store.put("shop/20261121T000000Z-01job-1/database.sql.zst", b"half")
    result = world.adopt(world.run(2))
    assert world.keys == [f"shop/{result.backup_id}/database.sql.zst", f"shop/{result.backup_id}/manifest.json"]


def test_a_file_uploaded_under_the_name_meanwhile_is_not_removed(world: World) -> None:
    world.upload()
    world.engine.while_reading = lambda: world.upload(b"another one")
    assert world.adopt().adopted["bytes"] == len(DUMP)
    assert world.store.get(incoming_key("shop.dump")) == b"another one"


def test_a_file_that_cannot_be_removed_does_not_undo_the_backup(world: World) -> None:
    world.upload()
    world.store.fails_with = incoming_key("shop.dump")
    result = world.adopt()
    assert f"shop/{result.backup_id}/manifest.json" in world.keys
