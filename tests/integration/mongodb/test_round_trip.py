"""Backups of MongoDB and what comes back: options, indexes, documents byte by byte.

SecantusDB, which these run on where no other server is named, lacks: text and hashed indexes, snapshot reads (it
accepts them and ignores their time), renames that keep a collection's options and UUID, capped collections' size in
bytes, the buckets of time-series collections, dbHash, a consistent oplog, sharding, killing of what a session runs.
What needs those is proven only where FLEXDB_TEST_MONGODB_URL names a real server, or `mongod` is on the PATH.
"""

from __future__ import annotations

import json
import tarfile
from functools import reduce
from io import BytesIO
from typing import Any

import bson
import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.raw_bson import RawBSONDocument

from engines.base import BackupOptions
from engines.errors import AccessDenied, InvalidTarget, TargetMissing, UnsupportedOperation
from engines.mongodb.archive import ArchiveReader
from engines.mongodb.directory import file_name
from tests.integration.mongodb.workbench import ODD_NAMES, RAW, Workbench

LAYOUTS = ("archive", "directory")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("jobs", [1, 4])
def test_everything_comes_back_as_it_was(bench: Workbench, layout: str, jobs: int) -> None:
    source, target = bench.filled(), bench.target()
    artefact = bench.back_up(source, layout=layout, jobs=jobs)
    bench.restore(artefact, target, jobs=jobs)
    assert bench.contents(target) == bench.contents(source)
    assert bench.leftovers() == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_replace_leaves_nothing_of_what_was_there(bench: Workbench, layout: str) -> None:
    source, target = bench.filled(), bench.filled()
    there = bench.database(target)
    there["customers"].delete_many({})
    there["customers"].drop_indexes()
    there["later"].insert_one({})
    there.drop_collection("ring")
    there.create_collection("ring", viewOn="customers", pipeline=[])
    there["weather"].delete_many({})
    there["system.js"].insert_one({"_id": "two"})
    done = bench.restore(bench.back_up(source, layout=layout), target, mode="replace")
    assert bench.contents(target) == bench.contents(source)
    assert any("one after the other" in note for note in done.notes)
    assert bench.leftovers() == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_backup_of_everything_is_proven_to_level_three(bench: Workbench, layout: str) -> None:
    source = bench.filled()
    evidence = bench.prove(bench.back_up(source, layout=layout), source)
    compared = {item.object for item in evidence if item.check == "documents"}
    assert {"customers", "ring", "fs.chunks", *ODD_NAMES} <= compared
    assert bench.leftovers() == []


def test_documents_are_compared_with_those_of_the_dump_not_only_counted(bench: Workbench) -> None:
    source = bench.small()
    artefact = bench.back_up(source)
    fingerprints = [item.found for item in bench.prove(artefact, source) if item.check == "documents"]
    bench.database(source)["things"].update_one({"_id": 3}, {"$set": {"v": "y"}})
    again = [item.found for item in bench.prove(bench.back_up(source), source) if item.check == "documents"]
    assert fingerprints != again


def test_counts_are_those_of_the_dumps_own_stream(bench: Workbench) -> None:
    artefact = bench.back_up(bench.filled())
    counts = {item.name: (item.kind, item.rows) for item in artefact.manifest.objects}
    assert counts["customers"] == ("collection", 400)
    assert counts["young_ones"] == ("view", None)
    assert counts["weather"] == ("time-series", 9)
    assert counts["empty"] == ("collection", 0)
    assert counts["fs.files"] == ("collection", 1)


def test_a_collection_of_many_batches_comes_back(bench: Workbench) -> None:
    source, target = bench.small(5_500), bench.target()
    bench.database(source)["other"].insert_many([{"_id": n} for n in range(2_001)])
    bench.restore(bench.back_up(source, jobs=2), target, jobs=3)
    assert bench.contents(target) == bench.contents(source)


def test_a_capped_collection_keeps_the_order_of_its_documents(bench: Workbench) -> None:
    source, target = bench.filled(), bench.target()
    bench.restore(bench.back_up(source, jobs=4), target, jobs=4)
    assert [one["_id"] for one in bench.database(target)["ring"].find()] == [9 - number for number in range(10)]


def test_documents_of_fifteen_megabytes_pass(bench: Workbench) -> None:
    source, target = bench.target(), bench.target()
    for number in range(3):
        bench.database(source)["big"].insert_one({"_id": number, "data": bytes([number]) * 15_000_000})
    bench.restore(bench.back_up(source, jobs=2), target)
    assert bench.contents(target) == bench.contents(source)


def test_include_and_exclude_mean_collections_by_name_or_pattern(bench: Workbench) -> None:
    source = bench.target()
    for name in ("orders_2025", "orders_2026", "people", "a[b]"):
        bench.database(source)[name].insert_one({})

    def names(**options: Any) -> list[str]:
        return [item.name for item in bench.back_up(source, **options).manifest.objects]

    assert names(include=("orders_*",)) == ["orders_2025", "orders_2026"]
    assert names(include=("orders_*",), exclude=("*5",)) == ["orders_2026"]
    assert names(exclude=("orders_*", "people")) == ["a[b]"]
    assert names(include=("a[b]",)) == ["a[b]"]
    with pytest.raises(TargetMissing):
        names(include=("order",))
    with pytest.raises(UnsupportedOperation):
        names(include=("people",), exclude=("p*",))


def test_a_restore_of_chosen_collections_brings_only_those(bench: Workbench) -> None:
    artefact, target = bench.back_up(bench.filled()), bench.target()
    done = bench.restore(artefact, target, include=("customers", "fs.*"))
    assert sorted(bench.contents(target)) == ["customers", "fs.chunks", "fs.files"]
    assert sorted(item.name for item in done.objects) == ["customers", "fs.chunks", "fs.files"]
    with pytest.raises(TargetMissing):
        bench.restore(artefact, bench.target(), include=("nothing",))


def test_replacing_chosen_collections_leaves_the_others(bench: Workbench) -> None:
    source = bench.filled()
    before = bench.contents(source)
    artefact = bench.back_up(source)
    bench.database(source)["customers"].delete_many({})
    bench.database(source)["later"].insert_one({"_id": 1})
    bench.restore(artefact, source, mode="replace", include=("customers",))
    after = bench.contents(source)
    assert after.pop("later")["number"] == 1
    assert after == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_backup_of_the_schema_holds_no_documents(bench: Workbench, layout: str) -> None:
    source, target = bench.filled(), bench.target()
    bench.restore(bench.back_up(source, content="schema", layout=layout), target)
    whole, bare = bench.contents(source), bench.contents(target)
    del whole["system.js"]  # comes with its first document
    assert {name: item["indexes"] for name, item in bare.items()} == {n: i["indexes"] for n, i in whole.items()}
    assert {name: item["options"] for name, item in bare.items()} == {n: i["options"] for n, i in whole.items()}
    assert sum(item["number"] for item in bare.values()) == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_backup_of_the_data_holds_no_definitions(bench: Workbench, layout: str) -> None:
    source, target = bench.filled(), bench.target()
    bench.restore(bench.back_up(source, content="data", layout=layout), target)
    whole, bare = bench.contents(source), bench.contents(target)
    assert bare["customers"]["documents"] == whole["customers"]["documents"]
    assert bare["customers"]["options"] == "{}"
    assert len(bare["customers"]["indexes"]) == 1
    assert "young_ones" not in bare


def test_users_and_roles_are_in_the_archive_when_they_are_wanted(bench: Workbench) -> None:
    source, target = bench.small(), bench.target()
    bench.database(source).command("createUser", "reader", pwd="secret-word", roles=["read"])
    try:
        artefact = bench.back_up(source, globals=True)
        assert (artefact.manifest.options["users"], artefact.manifest.options["roles"]) == (1, 0)
        names = {item.name for item in ArchiveReader(BytesIO(bench.raw(artefact)).read).prelude.collections}
        assert {"$admin.system.users", "$admin.system.roles", "$admin.system.version"} <= names
        bench.prove(artefact, source)
        done = bench.restore(artefact, target)
        assert any("not restored" in note for note in done.notes)
        assert list(bench.contents(target)) == ["things"]
        assert "--restoreDbUsersAndRoles" in artefact.manifest.restore_by_hand[-1]
    finally:
        bench.database(source).command("dropUser", "reader")


def test_the_archive_is_mongodumps_own(bench: Workbench) -> None:
    """As spec.md beside mongodump's source describes it."""
    source = bench.small(3)
    data = bench.raw(bench.back_up(source))
    assert data.startswith(bytes.fromhex("6de29981"))
    documents, at = [], 4
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little", signed=True)
        documents.append(None if size == -1 else bson.decode(data[at : at + size]))
        at += 4 if size == -1 else size
    header, described, end, block, *body = documents
    assert header is not None and list(header) == [
        *("concurrent_collections", "version", "server_version", "tool_version"),
    ]
    assert described is not None and list(described) == ["db", "collection", "metadata", "size", "type"]
    assert list(json.loads(described["metadata"])) == ["indexes", "uuid", "collectionName", "type"]
    assert end is None
    assert block == {"db": source.database, "collection": "things", "EOF": False, "CRC": 0}
    assert [one and one.get("_id") for one in body[:3]] == [0, 1, 2]
    assert body[3] is None and body[-1] is None
    assert body[4] is not None and body[4]["EOF"] is True


def crc64(data: bytes) -> int:
    """CRC-64/XZ, bit by bit as its definition says: reflected, polynomial 42F0E1EBA9EA3693."""
    crc = 0xFFFF_FFFF_FFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xC96C_5795_D787_0F42 if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF_FFFF_FFFF


def unpacked(data: bytes) -> dict[str, list[bytes]]:
    """Documents of every collection, read by nothing but spec.md's words; each CRC is held against them."""
    assert data[:4] == (0x8199E26D).to_bytes(4, "little")
    units, at = [], 4
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little", signed=True)
        units.append(b"" if size == -1 else data[at : at + size])
        at += 4 if size == -1 else size
    assert at == len(data)
    end = units.index(b"")
    listed = [bson.decode(unit) for unit in units[1:end]]
    found: dict[str, list[bytes]] = {}
    ended, header = set(), None
    for unit in units[end + 1 :]:
        if header is None:
            header = bson.decode(unit)
            assert header["collection"] not in ended
            if header["EOF"]:
                ended.add(header["collection"])
                whole = b"".join(found.get(header["collection"], []))
                assert header["CRC"] % 2**64 == (crc64(whole) if whole else 0)
        elif unit:
            assert not header["EOF"]
            found.setdefault(header["collection"], []).append(unit)
        else:
            header = None
    assert header is None
    assert ended == {item["collection"] for item in listed}
    return found


BARE_NAMES = ("a.b.c", "with space", "ü" * 60, "x" * 170, "/*.*/", "%24", "-", "'; drop")
ODD_VALUES: list[Any] = [
    *(
        None,
        "",
        "a\0b",
        True,
        -0.0,
        float("nan"),
        float("inf"),
        2**62,
        Int64(-1),
        Decimal128("NaN"),
        Decimal128("-0E+3"),
    ),
    *(MinKey(), MaxKey(), Timestamp(1, 2), Regex("^a/", "imsx"), Code("x"), Code("x", {"y": 1}), DBRef("c", 1, "d")),
    *(Binary(b"\xff" * 16, number) for number in (0, 2, 3, 4, 5, 6, 9, 128)),
    *(ObjectId("0" * 24), {}, [], [[]], {"": {"": 1}, "a.b": 1, "c$": 2}),
    bson.decode(
        reduce(lambda inner, _: bson.encode({"n": RawBSONDocument(inner)}), range(90), bson.encode({"deep": 1}))
    ),
]


@pytest.mark.parametrize("layout", ["archive", "directory"])
def test_every_kind_of_value_and_name_comes_back_byte_by_byte(bench: Workbench, layout: str) -> None:
    source, target = bench.target(), bench.target()
    shop = bench.database(source)
    shop["values"].insert_many({"_id": number, "v": value} for number, value in enumerate(ODD_VALUES))
    twice = bson.encode({"_id": 0, "k": 1})
    shop["values"].insert_one(RawBSONDocument(bson.encode({"_id": "twice", "in": [RawBSONDocument(twice)]})))
    shop["ids"].insert_many({"_id": one} for one in (None, {"a": 1, "b": {}}, Decimal128("1"), b"", "", True, MinKey()))
    for name in BARE_NAMES:
        shop[name].insert_one({"_id": name})
    shop.create_collection("one", viewOn="values", pipeline=[{"$match": {"_id": {"$gt": 1}}}])
    shop.create_collection("on_it", viewOn="one", pipeline=[{"$limit": 1}])
    artefact = bench.back_up(source, layout=layout, jobs=3)
    bench.prove(artefact, source)
    if layout == "archive":
        documents = unpacked(bench.raw(artefact))
        raw: Any = shop.get_collection("values", codec_options=RAW)
        assert sorted(documents["values"]) == sorted(one.raw for one in raw.find())
        assert len(documents["ids"]) == 7
        assert set(BARE_NAMES) < set(documents)
    bench.restore(artefact, target)
    assert bench.contents(target) == bench.contents(source)
    bench.restore(artefact, target, mode="replace")
    assert bench.contents(target) == bench.contents(source)


def test_the_directory_is_mongodumps_own(bench: Workbench) -> None:
    source = bench.filled()
    artefact = bench.back_up(source, layout="directory")
    with tarfile.open(fileobj=BytesIO(bench.raw(artefact))) as tar:
        names = tar.getnames()
        metadata = tar.extractfile(f"{source.database}/customers.metadata.json")
        assert metadata is not None
        assert list(json.load(metadata)) == ["options", "indexes", "uuid", "collectionName", "type"]
    assert names[0] == f"{source.database}/prelude.json"
    for name in ODD_NAMES:
        assert f"{source.database}/{file_name(name)}.bson" in names
    assert f"{source.database}/young_ones.metadata.json" in names
    assert f"{source.database}/young_ones.bson" not in names
    assert artefact.manifest.files[0].format == "mongodump-directory-tar"


def test_a_dump_says_which_moment_it_shows(bench: Workbench) -> None:
    options = bench.back_up(bench.small()).manifest.options
    assert options["consistency"] in {"per collection", "snapshot"}
    hello = bench.client.admin.command("hello")
    if hello.get("setName") == "secantus":
        assert options["consistency"] == "per collection", "a server that ignores the time was believed"


def test_options_and_names_that_make_no_sense_are_refused(bench: Workbench) -> None:
    assert set(bench.engine.refuse_options(BackupOptions(include=("",), exclude=("a\0",)))) == {"include", "exclude"}
    for name in ("admin", "local", "flexdb_scratch_x", "a.b", "a b", "x" * 64):
        with pytest.raises(InvalidTarget):
            bench.engine.into(bench.target(), name)


def test_a_url_without_a_database_is_good_for_looking_at_the_server_only(bench: Workbench) -> None:
    there = bench.small()
    server = bench.engine.target("shop", bench.server)
    assert bench.engine.check(server, bench.run()).reachable
    names = bench.engine.databases(server, bench.run())
    assert there.database in names
    assert not {"admin", "local", "config"} & set(names)
    for attempt in (
        lambda: bench.back_up(server),
        lambda: bench.engine.inspect(server, bench.run()),
        lambda: bench.restore(bench.back_up(there), server),
    ):
        with pytest.raises(InvalidTarget):
            attempt()
    bench.restore(bench.back_up(there), bench.engine.into(server, bench.target().database))


def test_drop_says_whether_there_was_a_database(bench: Workbench) -> None:
    target = bench.small()
    assert bench.engine.drop(target, bench.run()) is True
    assert bench.engine.drop(target, bench.run()) is False


def test_a_wrong_password_is_access_denied_and_not_repeated(bench: Workbench) -> None:
    target = bench.with_password(bench.small(), "never-shown-word")
    with pytest.raises(AccessDenied) as denied:
        bench.back_up(target)
    assert "never-shown-word" not in str(denied.value)
