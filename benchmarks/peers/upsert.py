"""Ways to upsert customers that FlexDB is measured against, each in a process of its own: `python -m … < request`.

The request is JSON: `way`, `url`, `count`, `folder`. The answer is JSON: `rows` and `seconds`, the commit included;
making the rows, connecting and importing are left out.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.peers.customers import COLUMNS, NAMES, Row, rows, text

SAMPLE = 3000
"""Rows of the ways that go one by one; their rate does not change with the number."""
PAGE = 1000
LISTED = ", ".join(NAMES)
SETTINGS = ", ".join(f"{name} = EXCLUDED.{name}" for name in NAMES[1:])
ON_CONFLICT = f"ON CONFLICT (customer_id) DO UPDATE SET {SETTINGS}"

Work = Callable[[], None]


def pages(these: list[Row]) -> Iterator[list[Row]]:
    return (these[start : start + PAGE] for start in range(0, len(these), PAGE))


def limit(url: str, these: list[Row]) -> Work:
    import psycopg2

    encoded, opened = text(these), psycopg2.connect(url)
    with opened.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS limits; CREATE UNLOGGED TABLE limits ({COLUMNS})")
    opened.commit()

    def work() -> None:
        with opened.cursor() as cursor:
            cursor.copy_expert("COPY limits FROM STDIN", io.BytesIO(encoded))
        opened.commit()

    return work


def copied(url: str, these: list[Row]) -> Work:
    import psycopg2

    opened = psycopg2.connect(url)

    def work() -> None:
        with opened.cursor() as cursor:
            cursor.execute(f"CREATE TEMP TABLE staged ({COLUMNS}) ON COMMIT DROP")
            cursor.copy_expert("COPY staged FROM STDIN", io.BytesIO(text(these)))
            cursor.execute(f"INSERT INTO customers SELECT * FROM staged {ON_CONFLICT}")
        opened.commit()

    return work


def psycopg3(url: str, these: list[Row]) -> Work:
    import psycopg  # type: ignore[import-not-found]  # of the environment apart

    opened = psycopg.connect(url)

    def work() -> None:
        with opened.cursor() as cursor:
            cursor.execute(f"CREATE TEMP TABLE staged ({COLUMNS}) ON COMMIT DROP")
            with cursor.copy("COPY staged FROM STDIN") as copy:
                for one in these:
                    copy.write_row(one)
            cursor.execute(f"INSERT INTO customers SELECT * FROM staged {ON_CONFLICT}")
        opened.commit()

    return work


def execute_values(url: str, these: list[Row]) -> Work:
    import psycopg2
    import psycopg2.extras

    opened = psycopg2.connect(url)

    def work() -> None:
        with opened.cursor() as cursor:
            psycopg2.extras.execute_values(cursor, f"INSERT INTO customers ({LISTED}) VALUES %s {ON_CONFLICT}", these)
        opened.commit()

    return work


def _alchemy(url: str) -> tuple[Any, Any]:
    import sqlalchemy as sa  # type: ignore[import-not-found]  # of the environment apart
    from sqlalchemy.dialects.postgresql import insert  # type: ignore[import-not-found]  # of the environment apart

    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
    table = sa.Table("customers", sa.MetaData(), autoload_with=engine)
    new = insert(table)
    changes = {name: new.excluded[name] for name in NAMES[1:]}
    return engine, new.on_conflict_do_update(index_elements=["customer_id"], set_=changes)


def alchemy_bulk(url: str, these: list[Row]) -> Work:
    from sqlalchemy.orm import Session  # type: ignore[import-not-found]  # of the environment apart

    engine, statement = _alchemy(url)

    def work() -> None:
        with Session(engine) as session:
            for page in pages(these):
                session.execute(statement, [dict(zip(NAMES, one, strict=True)) for one in page])
            session.commit()

    return work


def alchemy_rows(url: str, these: list[Row]) -> Work:
    from sqlalchemy.orm import Session

    engine, statement = _alchemy(url)

    def work() -> None:
        with Session(engine) as session:
            for one in these:
                session.execute(statement, dict(zip(NAMES, one, strict=True)))
            session.commit()

    return work


def dlt_merge(url: str, these: list[Row]) -> Work:
    """Its tables are its own: what is there already is loaded before, as it loads."""
    os.environ.update(RUNTIME__DLTHUB_TELEMETRY="false", RUNTIME__LOG_LEVEL="ERROR", DLT_DATA_DIR=str(Path.cwd()))
    if urlsplit(url).password is None:  # it insists on one
        os.environ["DESTINATION__POSTGRES__CREDENTIALS__PASSWORD"] = "none"
    import dlt  # type: ignore[import-not-found]  # of the environment apart

    pipeline = dlt.pipeline(
        "bench",
        dataset_name="dlt",
        destination=dlt.destinations.postgres(url),
        pipelines_dir=str(Path.cwd()),
    )
    columns: Any = {
        "customer_id": {"data_type": "text", "primary_key": True, "nullable": False},
        "date_of_birth": {"data_type": "date"},
        "account_balance": {"data_type": "decimal", "precision": 15, "scale": 2},
        "created_at": {"data_type": "timestamp"},
    }

    def load(what: list[Row]) -> None:
        found = dlt.resource(
            ([dict(zip(NAMES, one, strict=True)) for one in page] for page in pages(what)),
            name="customers",
            write_disposition={"disposition": "merge", "strategy": "delete-insert"},
            primary_key="customer_id",
            columns=columns,
        )
        pipeline.run(found, loader_file_format="csv").raise_on_failed_jobs()

    load(list(rows(len(these) // 2, moved=True)))
    return lambda: load(these)


WAYS: dict[str, Callable[[str, list[Row]], Work]] = {
    "limit": limit,
    "copied": copied,
    "psycopg3": psycopg3,
    "execute_values": execute_values,
    "alchemy_bulk": alchemy_bulk,
    "alchemy_rows": alchemy_rows,
    "dlt_merge": dlt_merge,
}
BY_ROW = frozenset({"alchemy_rows"})


def main() -> None:
    asked = json.load(sys.stdin)
    os.chdir(asked["folder"])
    count = int(asked["count"])
    these = list(rows(count))
    if asked["way"] in BY_ROW:  # around the middle: half of them are there
        half = min(SAMPLE, count) // 2
        these = these[count // 2 - half : count // 2 + half]
    work = WAYS[asked["way"]](asked["url"], these)
    began = time.perf_counter()
    work()
    print(json.dumps({"rows": len(these), "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
