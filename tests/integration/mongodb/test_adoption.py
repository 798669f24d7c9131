"""Dumps that mongodump itself made: taken in, proven to level 3, restored, and the same as mongodump wrote."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import json_util
from pymongo.errors import OperationFailure

from engines.artefacts.reading import Artefact
from engines.errors import ArtefactDamaged, InvalidDump, InvalidTarget, Stopped, TargetNotEmpty
from engines.mongodb.archive import ArchiveWriter, Prelude
from engines.mongodb.metadata import Collection
from engines.run import Progress, StopReason
from tests.integration.mongodb.workbench import RAW, Client, Workbench

DUMPS = Path(__file__).parents[2] / "data" / "mongodump"
ROWS = {"customers": 500, "empty": 0, "odd name/é%": 200, "rich": None}


def directory(*, gzipped: bool = False, folder: str = "dump/") -> bytes:
    """The directory as the command line packs it."""
    out = io.BytesIO()
    with tarfile.open(mode="w", fileobj=out) as tar:
        for path in sorted((DUMPS / "directory" / "shop").iterdir()):
            data = gzip.compress(path.read_bytes()) if gzipped else path.read_bytes()
            member = tarfile.TarInfo(f"{folder}shop/{path.name}{'.gz' if gzipped else ''}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


FORMS = {
    "archive": (DUMPS / "shop.archive").read_bytes(),
    "gzipped archive": gzip.decompress((DUMPS / "shop.archive.gz").read_bytes()),
    "directory": directory(),
    "directory without a folder": directory(folder=""),
    "gzipped directory": directory(gzipped=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_dump_of_mongodump_is_adopted_proven_and_restored(bench: Workbench, form: str) -> None:
    artefact, target = bench.adopt(FORMS[form]), bench.target()
    assert {item.name: item.rows for item in artefact.manifest.objects} == ROWS
    assert (artefact.manifest.counts, artefact.manifest.server_version) == ("exact", "8.2.11")
    assert {item.object for item in bench.prove(artefact, target)} >= {"customers", "odd name/é%"}
    restored = bench.restore(artefact, target)
    assert {item.name: item.rows for item in restored.objects} == ROWS
    _assert_as_mongodump_wrote_it(bench, target.database)
    assert bench.leftovers() == []


def test_documents_that_their_server_deletes_for_their_age_are_told_and_hold_up_nothing(bench: Workbench) -> None:
    """The index lets them become 32 years old, and they are of 1990. A server may look at any time."""
    artefact, target = bench.adopt(FORMS["archive"]), bench.target()

    def look(progress: Progress) -> None:
        if progress.stage == "switching":
            expire(bench.client)

    restored = bench.restore(artefact, target, bench.run(listener=look))
    assert {item.name: item.rows for item in restored.objects} == ROWS | {"customers": 0}
    assert restored.notes == (
        "customers had 500 documents at the backup and has 0 now.",
        "The server deletes documents of 'customers' by their age, within a minute and as the index 'born_1' says.",
    )
    assert bench.leftovers() == []


def test_a_restore_that_was_done_is_known_when_documents_have_become_too_old_since(bench: Workbench) -> None:
    artefact, target = bench.adopt(FORMS["archive"]), bench.target()
    (note,) = bench.restore(artefact, target).notes
    assert note.startswith("The server deletes documents of 'customers'")
    expire(bench.client)
    assert bench.restore(artefact, target, bench.later_attempt()).notes[0].startswith("An earlier attempt of this job")
    bench.database(target)["customers"].insert_many(
        [{"name": f"another {number}", "big": number} for number in range(501)]
    )
    with pytest.raises(TargetNotEmpty):  # more than there were: somebody else's
        bench.restore(artefact, target, bench.later_attempt())


def expire(client: Client) -> None:
    """What a server does every minute."""
    try:
        client.admin.command("secantusAdmin.pruneTtl")
    except OperationFailure:
        pytest.skip("only SecantusDB can be told when to look for old documents")


def _assert_as_mongodump_wrote_it(bench: Workbench, database: str) -> None:
    """Documents byte by byte, options and indexes as the metadata files have them."""
    shop = bench.client[database]
    folder = DUMPS / "directory" / "shop"
    for name, file in (("customers", "customers"), ("odd name/é%", "odd+name%2F%C3%A9%25"), ("empty", "empty")):
        written = sorted(_documents(folder.joinpath(f"{file}.bson").read_bytes()))
        restored: Any = shop.get_collection(name, codec_options=RAW)
        assert sorted(one.raw for one in restored.find()) == written
        told = json_util.loads(folder.joinpath(f"{file}.metadata.json").read_text())
        assert _named(shop[name].list_indexes()) == _named(told["indexes"])
        (found,) = shop.list_collections(filter={"name": name})
        assert found.get("options", {}) == told.get("options", {})
    (view,) = shop.list_collections(filter={"name": "rich"})
    assert view["type"] == "view"
    assert shop["rich"].count_documents({}) == shop["customers"].count_documents({"big": {"$gt": 1099511627876}}) == 399


def _documents(data: bytes) -> list[bytes]:
    return [bytes(one.raw) for one in bson.decode_all(data, RAW)]


def _named(indexes: object) -> dict[str, str]:
    return {one["name"]: json_util.dumps(one, sort_keys=True) for one in indexes}  # type: ignore[attr-defined]  # a cursor, or a list


@pytest.mark.parametrize("form", ["archive", "directory"])
def test_the_bytes_are_kept_as_they_came(bench: Workbench, form: str) -> None:
    artefact = bench.adopt(FORMS[form])
    assert hashlib.sha256(bench.raw(artefact)).digest() == hashlib.sha256(FORMS[form]).digest()
    assert "mongorestore" in artefact.manifest.restore_by_hand[-1]


@pytest.mark.parametrize("form", FORMS)
def test_a_dump_cut_anywhere_is_refused(bench: Workbench, form: str) -> None:
    data = FORMS[form]
    whole = len(data.rstrip(b"\0"))
    for end in (whole // 4, whole // 2, whole - 300, whole - 1):
        with pytest.raises(ArtefactDamaged) as damaged:
            bench.adopt(data[:end])
        assert damaged.value.details["evidence"]
    assert list(bench.store.list()) == []


@pytest.mark.parametrize("form", ["archive", "gzipped directory"])
def test_a_flipped_byte_is_found_where_the_format_has_checksums(bench: Workbench, form: str) -> None:
    data = bytearray(FORMS[form])
    start = data.find(b"\x1f\x8b", data.find(b"customers.bson.gz")) if form != "archive" else 0
    data[start + 5000] ^= 8
    with pytest.raises(ArtefactDamaged):
        bench.adopt(bytes(data))


def several() -> bytes:
    """As `mongodump` without --db writes it: two databases, the server's own, and an oplog."""
    out = io.BytesIO()
    writer = ArchiveWriter(out)
    names = [("one", "things"), ("two", "things"), ("two", "more"), ("admin", "system.version"), ("", "oplog")]
    items = [Collection(database, name, "collection", {}, (), "", name) for database, name in names]
    writer.begin(Prelude("7.0.1", "100.9", tuple(items)), 1)
    for number, name in enumerate(names):
        writer.block(name, b"".join(bson.encode({"_id": n, "in": name[0]}) for n in range(number + 1)))
        writer.end(name)
    return out.getvalue()


def test_a_dump_of_several_databases_is_taken_whole_and_each_restored_under_its_name(bench: Workbench) -> None:
    artefact = bench.adopt(several())
    listed = {(item.database, item.name): item.rows for item in artefact.manifest.objects}
    assert listed == {("one", "things"): 1, ("two", "things"): 2, ("two", "more"): 3}
    assert artefact.manifest.options["not_restored"] == ["admin.system.version", ".oplog"]
    bench.prove(artefact, bench.target())
    with pytest.raises(InvalidTarget) as refused:
        bench.restore(artefact, bench.target())
    assert "one, two" in refused.value.hint
    target = bench.target("two")
    bench.restore(artefact, target)
    assert {name: item["number"] for name, item in bench.contents(target).items()} == {"things": 2, "more": 3}


def test_a_dump_without_a_users_collection_is_no_backup(bench: Workbench) -> None:
    out = io.BytesIO()
    ArchiveWriter(out).begin(Prelude("7.0", "x", ()), 1)
    with pytest.raises(InvalidDump):
        bench.adopt(out.getvalue())
    assert list(bench.store.list()) == []


def test_adopting_stops_when_asked(bench: Workbench) -> None:
    run = bench.run()
    run.stop.request(StopReason.CANCEL)
    with pytest.raises(Stopped):
        bench.adopt(FORMS["archive"], run)
    assert list(bench.store.list()) == []


def test_our_own_backups_can_be_adopted_again(bench: Workbench) -> None:
    source, target = bench.filled(), bench.target()
    for layout in ("archive", "directory"):
        ours = bench.back_up(source, layout=layout)
        again = bench.adopt(bench.raw(ours))
        assert _counts(again) == _counts(ours)
        bench.restore(again, target, mode="replace")
        assert bench.contents(target) == bench.contents(source)


def _counts(artefact: Artefact) -> dict[str, int | None]:
    return {item.name: item.rows for item in artefact.manifest.objects}
