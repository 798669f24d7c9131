"""The statements that bring staged rows into their table.

A join instead of ON CONFLICT for every row: those with other values are updated, those that are missing are inserted,
by MERGE where the server has it and its counters tell the two apart, else by one statement each. In a REPEATABLE READ
transaction all see the same table, so the counts are exact; when somebody else wrote the same keys meanwhile the
server says so and the transaction is begun again. Nothing is lost, and no row is written twice or without need.

Staged rows stay until there are many: to empty a table means to cut files, and the next commit waits for that on the
disk, which can take longer than all the rest of a small piece. So each `write` has a number, and what is brought in
are the rows of one number, or all.
"""

from __future__ import annotations

from psycopg2.sql import SQL, Composable, Identifier, Literal, Placeholder

from engines.postgres.records.encode import Format
from engines.postgres.records.naming import column, columns, comparable, table_name
from engines.records.fields import Field, Table

STAGE = Identifier("pg_temp", "flexdb_staged")
MARK = Identifier("#")
"""Which `write` a row came with: of two with one key the later counts. No field can have this name."""
BEGIN = SQL("BEGIN ISOLATION LEVEL REPEATABLE READ")
TURN = SQL("hashtextextended('flexdb writes ' || {}, 0)").format(Placeholder("turn"))
"""The advisory lock of those who write many rows to one table."""
COUNTERS = SQL("SELECT pg_stat_get_xact_tuples_inserted(%s), pg_stat_get_xact_tuples_updated(%s)")
"""What this session has done to a table lately; of interest is how much more it is after a statement."""


_NOTE = SQL(
    "SELECT set_config('flexdb.inserted', (pg_stat_get_xact_tuples_inserted({oid}){less_inserted})::text, false),"
    " set_config('flexdb.updated', (pg_stat_get_xact_tuples_updated({oid}){less_updated})::text, false)"
)
"""Keeps `COUNTERS` in the session itself, so that nobody must ask in between."""


class Statements:
    """Those with `{MARK}` in their text take a parameter `mark`."""

    def __init__(self, table: Table, *, one: bool) -> None:
        """`one`: the rows of one `write` are brought in at a time, not all."""
        self._table = table
        self._one = one
        self._key = table.field(table.key)
        self._others = [field for field in table.fields if field.name != table.key]

    def make_stage(self) -> Composable:
        """Columns of the very types, without constraints: what is too long is refused at once."""
        return SQL("CREATE TEMPORARY TABLE {} AS SELECT 0 AS {}, {} FROM {} WITH NO DATA").format(
            STAGE, MARK, columns(self._table.fields), table_name(self._table)
        )

    def copy(self, format: Format, *, emptied: bool = False) -> Composable:
        return SQL(f"{{}}COPY {{}} ({{}}, {{}}) FROM STDIN WITH ({format})").format(
            SQL("TRUNCATE {}; ").format(STAGE) if emptied else SQL(""), STAGE, columns(self._table.fields), MARK
        )

    def at_once(self, oid: int, *, alone: bool) -> Composable:
        """The whole transaction of a MERGE, with the turn before and after it, on one way to the server and back.

        Gives how many rows were inserted and updated. Parameters: `turn`, and those of the MERGE.
        """
        number = Literal(oid)
        less = (SQL(f" - current_setting('flexdb.{name}')::bigint") for name in ("inserted", "updated"))
        before = _NOTE.format(oid=number, less_inserted=SQL(""), less_updated=SQL(""))
        after = _NOTE.format(oid=number, less_inserted=next(less), less_updated=next(less))
        steps = [
            SQL("BEGIN"),  # of its own: what REPEATABLE READ sees is what is there at the first statement
            SQL("SELECT pg_advisory_lock({})").format(TURN),
            SQL("COMMIT"),
            BEGIN,
            *([self.exclude_writers()] if alone else []),
            before,
            self.merge(),
            after,
            SQL("COMMIT"),
            SQL(
                "SELECT current_setting('flexdb.inserted')::bigint, current_setting('flexdb.updated')::bigint,"
                " pg_advisory_unlock_all()"
            ),
        ]
        return SQL("; ").join(steps)

    def update(self) -> Composable | None:
        """None: there is nothing beside the key."""
        if not self._others:
            return None
        return SQL(
            "UPDATE {table} AS t SET {settings} FROM {stage} AS s WHERE t.{key} = s.{key} AND ({differing})"
        ).format(
            table=table_name(self._table),
            settings=SQL(", ").join([column(field) + SQL(" = ") + _new(field) for field in self._others]),
            stage=self._staged(),
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
            stage=self._staged(),
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
            stage=self._staged(),
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
        ).format(key=column(self._key), stage=self._staged(), table=table_name(self._table))

    def _staged(self) -> Composable:
        if not self._one:
            return STAGE
        # there are none above; of `=` the planner would think that hardly any row has it, and look up each
        return SQL("(SELECT * FROM {} WHERE {} >= {})").format(STAGE, MARK, Placeholder("mark"))

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
