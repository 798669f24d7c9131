"""One case per engine with tables of records: an empty database, and ways to look at it and disturb it from outside."""

from __future__ import annotations

import secrets
import sqlite3
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import psycopg2
from psycopg2 import sql
from pymongo import MongoClient

from engines.base import Target
from engines.mongodb import MongoEngine
from engines.mysql import MySQLEngine
from engines.postgres import PostgresEngine
from engines.records.base import RecordTable, Written
from engines.records.fields import Field, Row, Table
from engines.run import Run
from engines.sqlite import SQLiteEngine
from tests import mariadb
from tests.contracts.engine_cases import MONGOD
from tests.mongodb import with_database

CASES = ("postgres-15", "mysql-mariadb", "sqlite-wal", "sqlite-delete", "mongodb-secantus", *MONGOD)

OpenTable = Callable[..., RecordTable]
"""`opened(table, prepare=True)`: the table as the engine under test serves it, closed after the test."""


def new_table(*fields: Field, key: str = "id", generated: bool = False, name: str = "") -> Table:
    """A table nobody else has; with an integer `id` as its first field unless `key` says otherwise."""
    own = (Field("id", "integer", required=True),) if key == "id" else ()
    return Table(name or f"t_{secrets.token_hex(6)}", key, (*own, *fields), generated)


def in_pieces(table: RecordTable, rows: list[Row], run: Run) -> Written:
    with table.writing(run, whole=False) as writer:
        return writer.write(rows)


def together(*calls: Callable[[], object]) -> list[Any]:
    """What they return or raise, all run at once in threads of their own."""
    found: list[Any] = [None] * len(calls)
    gate = threading.Barrier(len(calls))

    def one(number: int) -> None:
        gate.wait()
        try:
            found[number] = calls[number]()
        except Exception as error:  # noqa: BLE001  handed to the caller
            found[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


class RecordCase(ABC):
    """A database of one kind, made for one module of tests and gone after it."""

    engine: Any
    target: Target
    has_columns: ClassVar[bool] = True
    """Whether the database itself knows columns, their types and which take NULL."""
    holds_locks: ClassVar[bool] = True
    """Whether `holding` keeps others from writing."""
    sees_one_moment: bool = True
    """Whether a scan does not see what is written after its beginning."""

    @abstractmethod
    def count(self, table: Table) -> int:
        """Records there are, as every other program sees it."""

    @abstractmethod
    def values(self, table: Table, field: str) -> list[Any]:
        """The values of an integer or text field, sorted, as every other program sees them."""

    @abstractmethod
    def exists(self, table: Table) -> bool: ...

    @abstractmethod
    def make_unique(self, table: Table, field: str) -> None:
        """Let the database refuse a second record with the same value there."""

    @abstractmethod
    def add_column(self, table: Table, name: str) -> None:
        """One for integers that takes NULL, which no field names."""

    @abstractmethod
    def watched(self, table: Table) -> Callable[[], dict[Any, Any]]:
        """From now on, calling it gives for each key something that changes when its record is written again."""

    @abstractmethod
    @contextmanager
    def holding(self, table: Table, key: Any) -> Iterator[None]:
        """Another program has changed this record and not yet committed."""

    @abstractmethod
    def absent(self) -> Target | None:
        """A database that does not exist; None where there is no such thing."""

    @abstractmethod
    def close(self) -> None: ...


class SQLRecordCase(RecordCase):
    """What databases that speak SQL have in common."""

    mark = '"'

    @abstractmethod
    @contextmanager
    def cursor(self) -> Iterator[Any]:
        """A driver's cursor in a transaction that is committed at the end."""

    def quoted(self, name: str) -> str:
        return self.mark + name + self.mark

    def run(self, statement: str) -> list[Any]:
        with self.cursor() as cursor:
            found = cursor.execute(statement)
            return list((found if isinstance(found, sqlite3.Cursor) else cursor).fetchall())

    def do(self, statement: str) -> None:
        with self.cursor() as cursor:
            cursor.execute(statement)

    def count(self, table: Table) -> int:
        return int(self.run(f"SELECT COUNT(*) FROM {self.quoted(table.name)}")[0][0])

    def values(self, table: Table, field: str) -> list[Any]:
        rows = self.run(f"SELECT {self.quoted(field)} FROM {self.quoted(table.name)}")
        return sorted(value for (value,) in rows)

    def make_unique(self, table: Table, field: str) -> None:
        name = f"only_{secrets.token_hex(4)}"
        self.do(f"CREATE UNIQUE INDEX {name} ON {self.quoted(table.name)} ({self.quoted(field)})")

    def add_column(self, table: Table, name: str) -> None:
        self.do(f"ALTER TABLE {self.quoted(table.name)} ADD COLUMN {self.quoted(name)} integer")

    @contextmanager
    def holding(self, table: Table, key: Any) -> Iterator[None]:
        where = f"{self.quoted(table.key)} = {key!r}"
        with self.cursor() as cursor:
            name = self.quoted(table.name)
            cursor.execute(f"UPDATE {name} SET {self.quoted(table.key)} = {key!r} WHERE {where}")
            yield


class SQLiteRecords(SQLRecordCase):
    def __init__(self, folder: Path, journal: str) -> None:
        self.engine = SQLiteEngine(5.0)
        self._folder = folder
        path = folder / "shop with space%.sqlite"
        self.target = self.engine.target("shop", f"sqlite:///{quote(str(path))}")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal}")

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        with closing(sqlite3.connect(self.target.database, timeout=5)) as connection, connection:
            yield connection

    def exists(self, table: Table) -> bool:
        return bool(self.run(f"SELECT 1 FROM sqlite_schema WHERE name = '{table.name}'"))

    def watched(self, table: Table) -> Callable[[], dict[Any, Any]]:
        name, key = self.quoted(table.name), self.quoted(table.key)
        self.do(f"CREATE TABLE seen_{table.name} (k)")
        for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
            self.do(
                f"CREATE TRIGGER {event}_{table.name} AFTER {event} ON {name}"
                f" BEGIN INSERT INTO seen_{table.name} VALUES ({row}.{key}); END"
            )
        return lambda: dict(self.run(f"SELECT k, COUNT(*) FROM seen_{table.name} GROUP BY k"))

    def absent(self) -> Target | None:
        target: Target = self.engine.target("gone", f"sqlite:///{quote(str(self._folder / 'gone.sqlite'))}")
        return target

    def close(self) -> None:
        return


class PostgresRecords(SQLRecordCase):
    def __init__(self, server: str) -> None:
        self.engine = PostgresEngine(None)
        self._server = server.rpartition("/")[0]
        self._name = f"flexdb_records_{uuid.uuid4().hex[:12]}"
        self.target = self.engine.target("shop", f"{self._server}/{self._name}")
        # neither the order of texts nor that of dates may depend on what the database's owner chose
        self._maintenance(
            "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'",
            "ALTER DATABASE {} SET TimeZone = 'Asia/Kolkata'",
            "ALTER DATABASE {} SET DateStyle = 'German'",
        )

    def _maintenance(self, *statements: str) -> None:
        with closing(psycopg2.connect(f"{self._server}/postgres")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(sql.SQL(statement).format(sql.Identifier(self._name)))

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        url = f"{self._server}/{self._name}"
        with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
            yield cursor

    def exists(self, table: Table) -> bool:
        return bool(self.run(f"SELECT 1 FROM pg_tables WHERE tablename = '{table.name}'"))

    def watched(self, table: Table) -> Callable[[], dict[Any, Any]]:
        key = self.quoted(table.key)
        return lambda: dict(self.run(f"SELECT {key}, xmin::text || ctid::text FROM {self.quoted(table.name)}"))

    def absent(self) -> Target | None:
        target: Target = self.engine.target("gone", f"{self._server}/flexdb_records_gone")
        return target

    def close(self) -> None:
        self._maintenance("DROP DATABASE IF EXISTS {} WITH (FORCE)")


class MySQLRecords(SQLRecordCase):
    mark = "`"

    def __init__(self, server: str) -> None:
        self.engine = MySQLEngine(None)
        self._server = server
        self._name = f"flexdb_records_{uuid.uuid4().hex[:12]}"
        self.target = self.engine.target("shop", mariadb.with_database(server, self._name))
        # the owner's character set has neither emoji nor an order by code points
        mariadb.sql(server, f"CREATE DATABASE `{self._name}` CHARACTER SET latin1", on="")

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        with closing(mariadb.connected(self._server, self._name)) as connection:
            connection.begin()
            with connection.cursor() as cursor:
                yield cursor
            connection.commit()

    def exists(self, table: Table) -> bool:
        return bool(self.run(f"SHOW TABLES LIKE '{table.name}'"))

    def watched(self, table: Table) -> Callable[[], dict[Any, Any]]:
        """The server sets the column only when another one really gets another value."""
        name, key = self.quoted(table.name), self.quoted(table.key)
        self.do(f"ALTER TABLE {name} ADD COLUMN touched TIMESTAMP(6) NULL ON UPDATE CURRENT_TIMESTAMP(6)")
        return lambda: dict(self.run(f"SELECT {key}, touched FROM {name}"))

    def absent(self) -> Target | None:
        target: Target = self.engine.target("gone", mariadb.with_database(self._server, "flexdb_records_gone"))
        return target

    def close(self) -> None:
        mariadb.sql(self._server, f"DROP DATABASE IF EXISTS `{self._name}`", on="")


class MongoRecords(RecordCase):
    """A key is looked for under its own name and as `_id`."""

    has_columns = False
    holds_locks = False

    def __init__(self, server: str, *, sees_one_moment: bool) -> None:
        self.engine = MongoEngine()
        self.sees_one_moment = sees_one_moment
        self._client: MongoClient[dict[str, Any]] = MongoClient(server)
        self._name = f"flexdb_records_{uuid.uuid4().hex[:12]}"
        self.target = self.engine.target("shop", with_database(server, self._name))

    def _on(self, table: Table) -> Any:
        return self._client[self._name][table.name]

    def _value(self, table: Table, document: dict[str, Any], field: str) -> Any:
        if field == table.key and field not in document:
            return document["_id"]
        return document.get(field)

    def count(self, table: Table) -> int:
        return int(self._on(table).count_documents({}))

    def values(self, table: Table, field: str) -> list[Any]:
        return sorted(self._value(table, found, field) for found in self._on(table).find())

    def exists(self, table: Table) -> bool:
        return table.name in self._client[self._name].list_collection_names()

    def make_unique(self, table: Table, field: str) -> None:
        self._on(table).create_index(field, unique=True)

    def add_column(self, table: Table, name: str) -> None:
        self._on(table).update_many({}, {"$set": {name: None}})

    def watched(self, table: Table) -> Callable[[], dict[Any, Any]]:
        """MongoDB tells no version of a document; what can be seen is its content."""
        return lambda: {self._value(table, found, table.key): found for found in self._on(table).find()}

    @contextmanager
    def holding(self, table: Table, key: Any) -> Iterator[None]:
        yield

    def absent(self) -> Target | None:
        return None

    def close(self) -> None:
        self._client.drop_database(self._name)
        self._client.close()
