"""Loads the named queries of `queries.sql`: `sql.finish_job` is the statement below `-- name: finish_job`.

The statements are written for SQLite. For PostgreSQL they are translated where only the notation differs, and
`queries_postgres.sql` holds those that have to be written differently there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
ROW_OF_VALUES = re.compile(r"VALUES (\([^()]*\?[^()]*\))")
"""In an insert of many rows: the group that is repeated."""


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """One statement in both dialects."""

    name: str
    sqlite: str
    postgres: str
    row: str = field(init=False, default="")
    """For an insert of many rows: PostgreSQL's text of one row's values; `postgres` has `%s` in its place."""

    def __post_init__(self) -> None:
        many = ROW_OF_VALUES.search(self.postgres)
        if many is not None:
            head, tail = self.postgres[: many.start(1)], self.postgres[many.end(1) :]
            object.__setattr__(self, "row", many[1].replace("?", "%s"))
            object.__setattr__(self, "postgres", head + "%s" + tail)


def looking(query: Query) -> Query:
    """The same query for a mere look: it locks nothing."""
    return Query(query.name, query.sqlite, query.postgres.replace(" FOR UPDATE SKIP LOCKED", ""))


class Queries:
    """Named statements as attributes; an unknown name raises `AttributeError`."""

    def __init__(self, text: str, postgres: str = "") -> None:
        """`postgres` holds the statements that are not a translation. Raises `ValueError` for a name of no use."""
        texts, own = _split(text), _split(postgres)
        if strange := own.keys() - texts.keys():
            raise ValueError(f"no query is called {', '.join(sorted(strange))}")
        self._queries = {name: Query(name, body, for_postgres(own.get(name, body))) for name, body in texts.items()}

    def __getattr__(self, name: str) -> Query:
        try:
            return self.__dict__["_queries"][name]  # type: ignore[no-any-return]  # __dict__ is untyped
        except KeyError:
            raise AttributeError(f"queries.sql has no query {name!r}") from None

    def names(self) -> list[str]:
        return sorted(self._queries)


def _split(text: str) -> dict[str, str]:
    parts = _NAME.split(text)
    texts: dict[str, str] = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        if name in texts:
            raise ValueError(f"two queries are called {name}")
        texts[name] = _without_comments(body)
    return texts


def _without_comments(body: str) -> str:
    return "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip()


_NOTATION = (
    (re.compile(r" INDEXED BY \w+"), ""),  # PostgreSQL keeps statistics and chooses by itself
    (re.compile(r"\bjson_each\("), "json_items("),  # a function of the ledger's schema, with the same columns
    (re.compile(r"/\* lock \*/"), "FOR UPDATE"),
    (re.compile(r"/\* skip locked \*/"), "FOR UPDATE SKIP LOCKED"),
    (re.compile(r"%"), "%%"),
    (re.compile(r"(?<!:):([a-z]\w*)"), r"%(\1)s"),
)


def for_postgres(statement: str) -> str:
    """The statement in psycopg2's notation."""
    for pattern, replacement in _NOTATION:
        statement = pattern.sub(replacement, statement)
    return statement


def load() -> Queries:
    folder = resources.files("service.ledger")
    return Queries(
        folder.joinpath("queries.sql").read_text(encoding="utf-8"),
        folder.joinpath("queries_postgres.sql").read_text(encoding="utf-8"),
    )


sql = load()
