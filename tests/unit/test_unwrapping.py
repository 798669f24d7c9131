"""Taking gzip and zstd off a file that came from elsewhere: whole, in bounded memory, and never half."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tracemalloc
import zlib
from pathlib import Path

import pytest

from engines.artefacts.compression import zstd
from engines.artefacts.unwrapping import AsItCame, Unwrapped, unwrapped
from engines.errors import ArtefactDamaged
from engines.run import Run

PLAIN = b"CREATE TABLE orders (id int);\n" * 40_000 + os.urandom(300_000)


def opened(data: bytes) -> Unwrapped:
    return unwrapped(io.BytesIO(data), "shop.sql")


def whole(source: Unwrapped, size: int = 1 << 20) -> bytes:
    return b"".join(iter(lambda: source.read(size), b""))


GZIPPED = gzip.compress(PLAIN)
WRAPPED = {
    "plain": PLAIN,
    "empty": b"",
    "gzip": GZIPPED,
    "gzip of several members": gzip.compress(PLAIN[:1000]) + gzip.compress(b"") + gzip.compress(PLAIN[1000:]),
    "gzip filled up with zeros": GZIPPED + bytes(300_000),
    "zstd": zstd.compress(PLAIN),
    "zstd of several frames": zstd.compress(PLAIN[:7]) + zstd.compress(PLAIN[7:]),
    "zstd around gzip": zstd.compress(GZIPPED),
}


@pytest.mark.parametrize("size", [1 << 20, 4096, 7])
@pytest.mark.parametrize("how", WRAPPED)
def test_what_is_read_is_the_plain_file_however_it_is_wrapped(how: str, size: int) -> None:
    plain = PLAIN if how != "empty" else b""
    if size == 7:
        source, found = opened(WRAPPED[how]), b""
        while data := source.read(size if len(found) < 5000 else 1 << 20):
            found += data
        assert found == plain
    else:
        assert whole(opened(WRAPPED[how]), size) == plain


def test_the_head_is_seen_before_and_read_again() -> None:
    source = opened(GZIPPED)
    assert source.head(65536) == PLAIN[:65536]
    assert source.head(10) == PLAIN[:10]
    assert whole(source, 1000) == PLAIN
    assert opened(b"short").head(65536) == b"short"


def test_a_third_wrapping_is_left_on() -> None:
    inner = gzip.compress(b"x" * 100)
    assert whole(opened(zstd.compress(gzip.compress(inner)))) == inner


BROKEN = {
    "gzip cut in the data": (GZIPPED[:-5000], "cut short"),
    "gzip cut in the trailer": (GZIPPED[:-1], "cut short"),
    "gzip cut in its header": (GZIPPED[:6], "cut short"),
    "second member cut": (GZIPPED + GZIPPED[:-3], "cut short"),
    "second member of one byte": (GZIPPED + b"\x1f", "followed by other data"),
    "followed by something else": (GZIPPED + b"rubbish", "followed by other data"),
    "zstd cut": (zstd.compress(PLAIN)[:-1], "cut short"),
    "zstd followed by something else": (zstd.compress(PLAIN) + b"rubbish", "corrupt"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_not_whole_is_damaged(how: str) -> None:
    data, why = BROKEN[how]
    with pytest.raises(ArtefactDamaged, match=why) as caught:
        whole(opened(data))
    assert caught.value.details["evidence"][0]["ok"] is False


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_a_flipped_byte_is_damaged(pack: object) -> None:
    assert callable(pack)
    data = bytearray(pack(PLAIN))
    data[len(data) // 2] ^= 0x40
    if pack is zstd.compress:
        data = bytearray(zstd.compress(PLAIN, options={zstd.CompressionParameter.checksum_flag: 1}))
        data[-1] ^= 0x40
    with pytest.raises(ArtefactDamaged, match="corrupt"):
        whole(opened(bytes(data)))


def bomb(mebibytes: int) -> bytes:
    press = zlib.compressobj(9, wbits=31)
    return b"".join(press.compress(bytes(1 << 20)) for _ in range(mebibytes)) + press.flush()


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_what_unpacks_to_a_thousand_times_its_size_is_read_in_bounded_memory(kind: str) -> None:
    packed = bomb(300) if kind == "gzip" else zstd.compress(bytes(300 << 20))
    source, size = opened(packed), 0
    tracemalloc.start()
    try:
        while data := source.read():
            size += len(data)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert size == 300 << 20


def test_the_file_is_hashed_and_counted_as_it_came(tmp_path: Path) -> None:
    packed = GZIPPED + bytes(500)
    came = AsItCame(io.BytesIO(packed), "shop.sql.gz", len(packed), Run("job", 1, tmp_path))
    try:
        assert whole(unwrapped(came, "shop.sql.gz")) == PLAIN
        assert (came.bytes, came.sha256()) == (len(packed), hashlib.sha256(packed).hexdigest())
    finally:
        came.close()
