"""URLs of MongoDB: what they name, and that nothing of them leaks."""

from __future__ import annotations

import pytest
from pymongo.errors import NetworkTimeout, OperationFailure, ServerSelectionTimeoutError

from engines.errors import AccessDenied, InvalidTarget, TargetBusy, TargetUnavailable
from engines.mongodb import MongoEngine
from engines.mongodb.address import Address
from engines.mongodb.connection import translated


@pytest.mark.parametrize(
    ("url", "host", "port", "database"),
    [
        ("mongodb://db.example/shop", "db.example", 27017, "shop"),
        ("mongodb://DB.example.:27018/shop", "db.example", 27018, "shop"),
        ("mongodb://127.0.0.1/shop", "localhost", 27017, "shop"),
        ("mongodb://[::1]:27017/shop", "localhost", 27017, "shop"),
        ("mongodb://b,a:27018/shop?replicaSet=r", "a:27018,b:27017", None, "shop"),
        ("mongodb+srv://u:p@cluster.example/shop", "srv:cluster.example", None, "shop"),
        ("mongodb://%2Ftmp%2Fmongodb-27017.sock/shop", "/tmp/mongodb-27017.sock", 27017, "shop"),
        ("mongodb://host/", "host", 27017, ""),
        ("mongodb://u:p%2Fq%40@host/a%C3%BC?authSource=admin", "host", 27017, "aü"),
    ],
)
def test_a_url_names_hosts_and_a_database(url: str, host: str, port: int | None, database: str) -> None:
    target = MongoEngine().target("shop", url)
    assert (target.host, target.port, target.database) == (host, port, database)


def test_the_order_of_a_seed_list_does_not_make_another_target() -> None:
    engine = MongoEngine()
    one, other = (engine.target("a", f"mongodb://{hosts}/shop?replicaSet=r") for hosts in ("x,y:1", "y:1,X:27017"))
    assert one.key == other.key != engine.into(one, "other").key


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host/db",
        "mongodb://user:sec@ret@host/db",
        "mongodb://user:secret@host:99999/db",
        "mongodb://user:secret@host/db?nosuchoption=secret",
        "mongodb://user:secret@host/a.b",
        "mongodb://user:secret@host/a%20b",
        "mongodb+srv://user:secret@one,two/db",
        "mongodb+srv://user:secret@one:27017/db",
        "mongodb://",
        f"mongodb://user:secret@host/{'x' * 64}",
    ],
)
def test_urls_that_make_no_sense_are_refused_without_their_secret(url: str) -> None:
    with pytest.raises(InvalidTarget) as refused:
        MongoEngine().target("shop", url)
    assert "secret" not in f"{refused.value} {refused.value.hint} {refused.value.details}"
    assert refused.value.__cause__ is None


def test_neither_target_nor_address_shows_its_password() -> None:
    url = "mongodb://user:hunter2@host/db"
    target = MongoEngine().target("shop", url)
    assert "hunter2" not in f"{target!r} {target} {Address.of(target)!r}"


@pytest.mark.parametrize("name", ["admin", "config", "local", ""])
def test_a_database_of_the_servers_own_is_no_target(name: str) -> None:
    with pytest.raises(InvalidTarget):
        Address.parse(f"mongodb://host/{name}").user_database()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ServerSelectionTimeoutError("mongodb://u:hunter2@h"), TargetUnavailable),
        (NetworkTimeout("h"), TargetUnavailable),
        (OperationFailure("not authorized", 13), AccessDenied),
        (OperationFailure("Authentication failed.", 18), AccessDenied),
        (OperationFailure("operation exceeded time limit", 50), TargetBusy),
        (OperationFailure("cursor not found", 43), TargetBusy),
        (OperationFailure("snapshot too old", 239), TargetBusy),
        (OperationFailure("shutting down", 11600), TargetUnavailable),
    ],
)
def test_driver_errors_become_ours(error: Exception, expected: type[Exception]) -> None:
    address = Address.parse("mongodb://u:hunter2@h/db")
    found = translated(error, address)  # type: ignore[arg-type]  # the parameters are of its kinds
    assert type(found) is expected
    assert "hunter2" not in found.message
