"""The statements that bring staged rows into their table.

A join instead of ON CONFLICT for every row: those with other values are updated, those that are missing are inserted,
by MERGE where the server has it and its counters tell the two apart, else by one statement each. In a REPEATABLE READ
transaction all see the same table, so the counts are exact; when somebody else wrote the same keys meanwhile the
server says so and the transaction is begun again. Nothing is lost, and no row is written twice or without need.
"""

from __future__ import annotations

from psycopg2.sql import SQL, Composable, Identifier

from engines.postgres.records.encode import Format
from engines.postgres.records.naming import column, columns, comparable, table_name
from engines.records.fields import Field, Table

STAGE = Identifier("pg_temp", "flexdb_staged")
MARK = Identifier("#")
"""Which `write` a row came with: of two with one key the later counts. No field can have this name."""
COUNTERS = SQL("SELECT pg_stat_get_xact_tuples_inserted(%s), pg_stat_get_xact_tuples_updated(%s)")
"""What this session has done to a table lately; of interest is how much more it is after a statement."""


class Statements:
    def __init__(self, table: Table, *, marked: bool) -> None:
        self._table = table
        self._marked = marked
        self._key = table.field(table.key)
        self._others = [field for field in table.fields if field.name != table.key]

    def make_stage(self) -> Composable:
        """Columns of the very types, without constraints: what is too long is refused at once."""
        return SQL("CREATE TEMPORARY TABLE {} ON COMMIT {} ROWS AS SELECT {}{} FROM {} WITH NO DATA").format(
            STAGE,
            SQL("PRESERVE" if self._marked else "DELETE"),
            columns(self._table.fields),
            SQL(", 0 AS {}").format(MARK) if self._marked else SQL(""),
            table_name(self._table),
        )

    def copy(self, format: Format) -> Composable:
        names = columns(self._table.fields)
        listed = names + SQL(", ") + MARK if self._marked else names
        return SQL(f"COPY {{}} ({{}}) FROM STDIN WITH ({format})").format(STAGE, listed)

    def update(self) -> Composable | None:
        """None: there is nothing beside the key."""
        if not self._others:
            return None
        return SQL(
            "UPDATE {table} AS t SET {settings} FROM {stage} AS s WHERE t.{key} = s.{key} AND ({differing})"
        ).format(
            table=table_name(self._table),
            settings=SQL(", ").join([column(field) + SQL(" = ") + _new(field) for field in self._others]),
            stage=STAGE,
            key=column(self._key),
            differing=SQL(" OR ").join([_differs(field) for field in self._others]),
        )

    def insert(self) -> Composable:
        return SQL(
            "INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {stage} AS s"
            " WHERE NOT EXISTS (SELECT FROM {table} AS t WHERE t.{key} = s.{key})"
        ).format(
            table=table_name(self._table),
            names=columns(self._table.fields),
            values=SQL(", ").join([_first(field) for field in self._table.fields]),
            stage=STAGE,
            key=column(self._key),
        )

    def merge(self) -> Composable:
        """Both in one: half the joining."""
        matched = SQL(" WHEN MATCHED AND ({differing}) THEN UPDATE SET {settings}").format(
            differing=SQL(" OR ").join([_differs(field) for field in self._others]),
            settings=SQL(", ").join([column(field) + SQL(" = ") + _new(field) for field in self._others]),
        )
        return SQL(
            "MERGE INTO {table} AS t USING {stage} AS s ON t.{key} = s.{key}{matched}"
            " WHEN NOT MATCHED THEN INSERT ({names}) OVERRIDING SYSTEM VALUE VALUES ({values})"
        ).format(
            table=table_name(self._table),
            stage=STAGE,
            key=column(self._key),
            matched=matched if self._others else SQL(""),
            names=columns(self._table.fields),
            values=SQL(", ").join([_first(field) for field in self._table.fields]),
        )

    def twice_staged(self) -> Composable:
        return SQL("SELECT FROM {} GROUP BY {} HAVING count(*) > 1 LIMIT 1").format(STAGE, column(self._key))

    def drop_older(self) -> Composable:
        return SQL(
            "DELETE FROM {stage} AS s USING (SELECT {key} AS k, max({mark}) AS latest FROM {stage} GROUP BY {key}"
            " HAVING count(*) > 1) AS d WHERE s.{key} = d.k AND s.{mark} < d.latest"
        ).format(stage=STAGE, key=column(self._key), mark=MARK)

    def not_taken(self) -> Composable:
        """Keys of staged rows that are not in the table after all."""
        return SQL(
            "SELECT s.{key} FROM {stage} AS s WHERE NOT EXISTS (SELECT FROM {table} AS t WHERE t.{key} = s.{key})"
        ).format(key=column(self._key), stage=STAGE, table=table_name(self._table))

    def exclude_writers(self) -> Composable:
        return SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table_name(self._table))


def _new(field: Field) -> Composable:
    """The value after an update: a stamped field that the row does not bring stays as it was."""
    if field.stamped:
        return SQL("coalesce({}, {})").format(column(field, "s"), column(field, "t"))
    return column(field, "s")


def _differs(field: Field) -> Composable:
    if field.stamped:
        return SQL("{t} IS DISTINCT FROM coalesce({s}, {t})").format(s=column(field, "s"), t=column(field, "t"))
    return SQL("{} IS DISTINCT FROM {}").format(comparable(field, "t"), comparable(field, "s"))


def _first(field: Field) -> Composable:
    return SQL("coalesce({}, now())").format(column(field, "s")) if field.stamped else column(field, "s")
