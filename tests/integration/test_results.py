"""Results of dear calculations: in memory within bounds, in a real Redis, and what happens when that is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis
import structlog

from service.results import open_results
from service.results.memory import LARGEST_BYTES, MemoryResults
from service.results.shared import KEPT_SECONDS, PREFIX, RedisResults
from tests.redis_server import OwnRedis, own_redis
from tests.servers import ServerMissingError, missing


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    try:
        with own_redis(tmp_path_factory.mktemp("redis")) as server:
            yield server
    except ServerMissingError as error:
        missing(str(error))


@pytest.fixture
def server(node: OwnRedis) -> OwnRedis:
    """Running and empty."""
    node.start()
    with redis.Redis(port=node.port) as client:
        client.flushdb()
    return node


@pytest.fixture
def cache(server: OwnRedis) -> Iterator[RedisResults]:
    """As one replica has it."""
    found = RedisResults(server.url, pause=0.2)
    yield found
    found.close()


def test_memory_holds_what_was_used_last_in_so_many_bytes() -> None:
    cache = MemoryResults(3 * 1200 + 400)
    for name in ("one", "two", "three"):
        cache.put(name, "=" + "9" * 990)
    assert cache.get("one") is not None, "used again"
    cache.put("four", "=" + "9" * 990)
    assert [name for name in ("one", "two", "three", "four") if cache.get(name)] == ["one", "three", "four"]
    cache.put("three", "=1")
    cache.put("five", "=" + "9" * 990)
    assert cache.get("three") == "=1" and cache.get("one"), "a shorter value made room"
    cache.put("six", "=" + "9" * 5000)
    assert cache.get("six") is None and cache.get("one"), "what is larger than all of it throws nothing out"


def test_memory_is_safe_in_many_threads() -> None:
    cache = MemoryResults(20_000)

    def work(number: int) -> None:
        for turn in range(300):
            cache.put(f"{(number + turn) % 50}", "=" + "1" * (turn % 900))
            cache.get(f"{turn % 50}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0 <= cache._bytes <= 20_000
    assert cache._bytes == sum(len(key) + len(value) + 200 for key, value in cache._kept.items())


def test_what_one_replica_worked_out_another_has(server: OwnRedis, cache: RedisResults) -> None:
    value = "=" + "7" * 1_000_000
    cache.put("fact:1", value)
    other = open_results(server.url)
    assert other.get("fact:1") == value
    other.close()
    with redis.Redis(port=server.port) as client:
        assert client.keys() == [f"{PREFIX}fact:1".encode()]
        assert 0 < client.ttl(f"{PREFIX}fact:1") <= KEPT_SECONDS
        client.flushdb()
    assert cache.get("fact:1") == value, "from its own memory, without asking"
    assert cache.get("fact:2") is None


def test_what_is_too_large_is_not_sent(server: OwnRedis, cache: RedisResults) -> None:
    cache.put("huge", "=" + "7" * LARGEST_BYTES)
    with redis.Redis(port=server.port) as client:
        assert client.keys() == []


def test_what_others_wrote_there_is_no_result(server: OwnRedis) -> None:
    cache = RedisResults(server.url, pause=0)
    with redis.Redis(port=server.port) as client:
        client.set(f"{PREFIX}odd", b"\xff\xfe")
        client.set(f"{PREFIX}long", b"=" + b"9" * 2 * LARGEST_BYTES)
        client.lpush(f"{PREFIX}list", "x")
        client.set(f"{PREFIX}ours", b"=9")
    with structlog.testing.capture_logs() as logged:
        assert [cache.get(key) for key in ("odd", "long", "ours")] == [None, None, "=9"]
    assert logged == [], "a Redis that holds odd things is no Redis that is away"
    assert cache.get("list") is None
    cache.close()


def test_a_redis_that_is_away_is_left_alone_for_a_while_and_found_again(server: OwnRedis, cache: RedisResults) -> None:
    cache.put("before", "=1")
    server.stop()
    assert cache.get("unknown") is None
    with structlog.testing.capture_logs() as logged:
        assert cache.get("before") == "=1"
        cache.put("meanwhile", "=2")
        assert cache.get("meanwhile") == "=2"
    assert logged == [], "nobody asked it again"
    server.start()
    until = time.monotonic() + 5
    with redis.Redis(port=server.port) as client:
        while not client.keys():
            assert time.monotonic() < until
            cache.put("after", "=3")


def test_a_redis_that_says_nothing_slows_one_calculation_a_little(server: OwnRedis, cache: RedisResults) -> None:
    cache.put("before", "=1")
    with server.paused():
        began = time.monotonic()
        assert cache.get("unknown") is None
        assert 0.2 < time.monotonic() - began < 1.5
        began = time.monotonic()
        assert [cache.get(f"unknown-{number}") for number in range(100)] == [None] * 100
        assert time.monotonic() - began < 0.2


def test_no_redis_is_memory_and_a_bad_url_does_not_show_its_secret() -> None:
    assert isinstance(open_results(None), MemoryResults)
    with pytest.raises(ValueError, match="FLEXDB_REDIS_URL") as caught:
        open_results("http://user:s3cret@localhost")
    assert "s3cret" not in str(caught.value)
