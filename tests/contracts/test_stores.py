"""What every store promises, on a local folder and on S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from engines.errors import FlexError, InvalidTarget, ObjectMissing, StorageFailed
from engines.storage.base import Store
from engines.storage.local import LocalStore
from engines.storage.registry import open_store

MIB = 1 << 20


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class S3Bucket:
    """A bucket of its own on the test server, looked at without the code under test."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.ask("PUT", "")

    @property
    def url(self) -> str:
        return f"s3://key:s%2Fecret@{self.name}/artefacts?region=us-east-1&endpoint={self.address}&part_mib=5"

    def ask(self, method: str, query: str) -> str:
        request = urllib.request.Request(f"{self.address}/{self.name}{query}", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())

    def unfinished_uploads(self) -> bool:
        return "<Upload>" in self.ask("GET", "?uploads")


@pytest.fixture
def bucket(s3_address: str) -> S3Bucket:
    return S3Bucket(s3_address)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return open_store("main", str(tmp_path / "storage"))
    return open_store("main", request.getfixturevalue("bucket").url)


def test_what_is_written_is_read_back(store: Store) -> None:
    parts = [os.urandom(MIB) for _ in range(12)]  # more than two parts of an upload
    with store.writing("shop/one/shop.dump") as out:
        for part in parts:
            out.write(part)
    with store.open("shop/one/shop.dump") as source:
        assert source.read() == b"".join(parts)
    assert store.size("shop/one/shop.dump") == 12 * MIB


def test_reading_in_pieces_gives_the_same(store: Store) -> None:
    content = os.urandom(3 * MIB + 17)
    store.put("a/b", content)
    pieces = []
    with store.open("a/b") as source:
        while piece := source.read(100_000):
            assert len(piece) <= 100_000
            pieces.append(piece)
    assert b"".join(pieces) == content


def test_an_empty_object_exists(store: Store) -> None:
    store.put("a/empty", b"")
    assert store.get("a/empty") == b""
    assert store.size("a/empty") == 0


def test_a_second_write_replaces_the_first(store: Store) -> None:
    store.put("a/b", b"first, and longer")
    store.put("a/b", b"second")
    assert store.get("a/b") == b"second"


def test_an_object_cannot_be_seen_before_its_end(store: Store) -> None:
    with store.writing("a/b") as out:
        out.write(b"x" * (6 * MIB))
        assert list(store.list()) == []
        with pytest.raises(ObjectMissing):
            store.open("a/b")
    assert [found.key for found in store.list()] == ["a/b"]


class _OwnError(Exception):
    pass


def write_half(store: Store, key: str, size: int) -> None:
    with store.writing(key) as out:
        out.write(b"x" * size)
        raise _OwnError


@pytest.mark.parametrize("size", [10, 11 * MIB])
def test_an_exception_during_the_write_leaves_nothing(store: Store, size: int) -> None:
    with pytest.raises(_OwnError):
        write_half(store, "a/deep/b", size)
    assert list(store.list()) == []
    assert list(store.unfinished()) == []
    if isinstance(store, LocalStore):
        assert list(store.root.iterdir()) == [], "empty folders stayed"


def test_an_exception_aborts_the_upload(bucket: S3Bucket) -> None:
    store = open_store("main", bucket.url)
    with pytest.raises(_OwnError):
        write_half(store, "a/b", 11 * MIB)
    assert not bucket.unfinished_uploads()


def test_the_older_object_survives_a_failed_write(store: Store) -> None:
    store.put("a/b", b"old")
    with pytest.raises(_OwnError):
        write_half(store, "a/b", 3)
    assert store.get("a/b") == b"old"


def test_listing_tells_sizes_and_times_of_what_begins_with_the_prefix(store: Store) -> None:
    for key in ("shop/1/a", "shop/1/b", "shop/2/a", "shops/1/a"):
        store.put(key, b"12345")
    found = list(store.list("shop/"))
    assert sorted(item.key for item in found) == ["shop/1/a", "shop/1/b", "shop/2/a"]
    assert {item.bytes for item in found} == {5}
    assert all(abs(datetime.now(UTC) - item.modified) < timedelta(minutes=5) for item in found)
    assert sorted(item.key for item in store.list("shop/1/b")) == ["shop/1/b"]
    assert len(list(store.list())) == 4
    assert list(store.list("none/such")) == []


def test_deleting_removes_and_a_second_time_is_no_error(store: Store) -> None:
    store.put("a/b", b"x")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")
    assert list(store.list()) == []
    with pytest.raises(ObjectMissing):
        store.get("a/b")


def test_a_missing_object_is_said_to_be_missing_and_not_retried(store: Store) -> None:
    with pytest.raises(ObjectMissing) as opened:
        store.open("a/b")
    with pytest.raises(ObjectMissing):
        store.size("a/b")
    assert (opened.value.code, opened.value.retryable) == ("artefact_missing", False)


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a/./b", "a\\b", "a\0b", "a/.hidden"])
def test_keys_that_could_leave_the_store_are_refused(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="key"), store.writing(key) as out:
        out.write(b"x")
    assert list(store.list()) == []


def test_secrets_of_the_url_are_not_told(bucket: S3Bucket) -> None:
    store = open_store("main", bucket.url)
    assert store.url == f"s3://{bucket.name}/artefacts"
    assert "s/ecret" not in repr(vars(store))


def test_a_store_that_cannot_be_reached_fails_with_retry_and_without_secrets() -> None:
    url = "s3://key:s%2Fecret@bucket/x?region=us-east-1&endpoint=http://127.0.0.1:1"
    store = open_store("main", url)
    with pytest.raises(StorageFailed) as failed:
        store.get("a/b")
    assert failed.value.retryable
    assert "ecret" not in str(failed.value)


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "s3://", "s3://bucket?colour=red", "s3://bucket?part_mib=many", "", "."]
)
def test_urls_that_make_no_sense_are_refused(url: str) -> None:
    with pytest.raises(InvalidTarget):
        open_store("main", url)


def test_a_file_url_is_a_local_folder(tmp_path: Path) -> None:
    store = open_store("main", (tmp_path / "with space").as_uri())
    store.put("a", b"x")
    assert (tmp_path / "with space" / "a").read_bytes() == b"x"
    assert store.local_path("a") == tmp_path / "with space" / "a"


def test_local_folders_and_files_are_private(tmp_path: Path) -> None:
    store = LocalStore("main", tmp_path / "x" / "storage")
    store.put("shop/1/a", b"x")
    modes = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "x").rglob("*")}
    assert modes.pop(tmp_path / "x/storage/shop/1/a") == 0o600
    assert set(modes.values()) == {0o700}


def test_symbolic_links_inside_a_local_store_are_not_followed(tmp_path: Path) -> None:
    store = LocalStore("main", tmp_path / "storage")
    store.put("shop/a", b"x")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (store.root / "link").symlink_to(outside)
    (store.root / "shop" / "link").symlink_to(outside / "secret")
    for key in ("link/secret", "shop/link"):
        with pytest.raises(StorageFailed):
            store.get(key)
    with pytest.raises(StorageFailed):
        store.put("link/new", b"x")
    store.delete("shop/link")
    assert [found.key for found in store.list()] == ["shop/a"]
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]


def test_what_a_killed_write_left_is_listed_as_unfinished_and_can_be_deleted(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from engines.storage.local import LocalStore\n"
        "with LocalStore('main', Path(sys.argv[1])).writing('shop/1/a') as out:\n"
        "    out.write(b'half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=30)
    store = LocalStore("main", tmp_path)
    assert list(store.list()) == []
    (left,) = store.unfinished()
    assert left.key.startswith("shop/1/.a.part-")
    store.delete(left.key)
    assert list(tmp_path.iterdir()) == []


def test_deleting_neighbours_does_not_disturb_a_write(tmp_path: Path) -> None:
    store = LocalStore("main", tmp_path)
    over = threading.Event()

    def keep_deleting() -> None:
        while not over.is_set():
            store.put("shop/1/other", b"x")
            store.delete("shop/1/other")

    thread = threading.Thread(target=keep_deleting)
    thread.start()
    try:
        for _ in range(200):
            store.put("shop/1/a", b"x")
            store.delete("shop/1/a")
    finally:
        over.set()
        thread.join()


def test_a_local_object_is_synced_then_renamed_then_its_folders_are_synced(tmp_path: Path) -> None:
    store = LocalStore("main", tmp_path)
    seen: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or function not in (os.fsync, os.rename):
            return
        if function is os.rename:
            seen.append(("rename", Path(str(frame.f_locals["self"])).name[:3]))
        else:
            path = Path(f"/proc/self/fd/{frame.f_locals['descriptor']}").readlink()
            seen.append(
                (
                    "fsync",
                    path.name[:3] if path.name.startswith(".") else path.relative_to(tmp_path).as_posix(),
                )
            )

    sys.setprofile(note)
    try:
        store.put("shop/1/a", b"x")
    finally:
        sys.setprofile(None)
    assert seen == [
        ("fsync", "."),
        ("fsync", "shop"),
        ("fsync", ".a."),
        ("rename", ".a."),
        ("fsync", "shop/1"),
    ]


LIMITED_WRITE = """
import json, os, resource, sys
from pathlib import Path
from engines.errors import FlexError
from engines.storage.local import LocalStore
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
store = LocalStore("main", Path(sys.argv[1]))
try:
    with store.writing("shop/1/a") as out:
        for _ in range(64):
            out.write(bytes(1 << 20))
    code = "written"
except FlexError as error:
    code = error.code
print(json.dumps([code, len(list(Path(sys.argv[1]).rglob("*")))]))
"""


def test_a_write_beyond_the_size_allowed_is_storage_full_and_leaves_nothing(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", LIMITED_WRITE, str(tmp_path), "limit"],
        check=True,
        capture_output=True,
        timeout=30,
    )
    assert json.loads(answer.stdout) == ["storage_full", 0]


def test_a_full_disk_is_storage_full_and_leaves_nothing(tmp_path: Path) -> None:
    """On a file system of 2 MiB that only the child process sees."""
    mount = 'mount -t tmpfs -o size=2m none "$0" && exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(tmp_path)]
    if subprocess.run([*command, "true"], check=False, capture_output=True, timeout=30).returncode:
        pytest.skip("this machine lets nobody mount a file system of their own (unshare)")
    answer = subprocess.run(
        [*command, sys.executable, "-c", LIMITED_WRITE, str(tmp_path), "disk"],
        check=True,
        capture_output=True,
        timeout=30,
    )
    assert json.loads(answer.stdout) == ["storage_full", 0]


def test_a_folder_that_must_not_be_written_is_a_clear_failure(tmp_path: Path) -> None:
    """procfs lets nobody make files, root included."""
    with pytest.raises(FlexError) as failed:
        LocalStore("main", Path("/proc/self")).put("shop/a", b"x")
    assert failed.value.code in {"storage_failed", "artefact_missing"}


def test_free_room_is_known_before_the_folder_exists(tmp_path: Path) -> None:
    assert (LocalStore("main", tmp_path / "not" / "yet").free_bytes() or 0) > 0
