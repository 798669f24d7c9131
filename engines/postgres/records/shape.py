"""What the database's catalog says of a table that records are kept in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver names its class in lower case

from engines.postgres.connection import rows
from engines.postgres.records.naming import split
from engines.records.fields import Table

_TABLE = """
SELECT c.oid, c.relkind, t.before,
       current_setting('server_version_num')::int >= 150000 AND current_setting('track_counts')::bool
       AND c.relkind = 'r' AND NOT c.relhasrules AND NOT c.relhassubclass AND t.many = 0
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       CROSS JOIN LATERAL (SELECT count(*), coalesce(bool_or(tgtype & 3 = 3 AND tgenabled <> 'D'), false)
                             FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal) AS t (many, before)
 WHERE n.nspname = %s AND c.relname = %s
"""
"""`tgtype`: 1 is FOR EACH ROW, 2 is BEFORE."""

_COLUMNS = """
SELECT a.attname, format_type(coalesce(nullif(y.typbasetype, 0), y.oid), NULL),
       CASE WHEN y.typbasetype <> 0 THEN y.typtypmod ELSE a.atttypmod END,
       format_type(a.atttypid, a.atttypmod), a.attnotnull, a.atthasdef, a.attidentity, a.attgenerated <> '',
       coalesce(l.collisdeterministic, true), coalesce(l.collname, '')
  FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""

_UNIQUE = """
SELECT x.relname, a.attname
  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
 WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indimmediate
   AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = 1
"""


@dataclass(frozen=True, slots=True)
class Column:
    type: str
    """Without length or precision; of a domain the type below it."""
    modifier: int
    """Length, or precision and scale, as the catalog packs them; -1: none."""
    written: str
    """The type as one would write it."""
    not_null: bool
    has_default: bool
    identity: str
    """`a`: always, `d`: by default, empty: none."""
    computed: bool
    deterministic: bool
    """Whether its collation calls only equal bytes equal."""
    collation: str

    @property
    def length(self) -> int | None:
        return self.modifier - 4 if self.modifier >= 4 else None

    @property
    def digits(self) -> tuple[int, int] | None:
        """Precision and scale of a numeric; the packing is that of `numeric_typmod_precision` and `…_scale`."""
        if self.modifier < 4:
            return None
        packed = self.modifier - 4
        return packed >> 16, ((packed & 0x7FF) ^ 1024) - 1024


@dataclass(frozen=True, slots=True)
class Shape:
    kind: str
    """As `pg_class.relkind`: `r` a table, `p` a partitioned one."""
    columns: Mapping[str, Column]
    unique: Mapping[str, frozenset[str]]
    """Columns that are unique by themselves, with the names of the indexes that see to it."""
    guarded: bool
    """Whether triggers run before rows are written; these may change or drop them."""
    merges: bool = False
    """Whether MERGE can be used, and the server's own counters tell how many rows it inserted and how many it updated:
    from version 15 on, with nothing attached to the table that may write to it too."""
    oid: int = 0

    def nullable(self, name: str) -> bool:
        found = self.columns.get(name)
        return found is None or not found.not_null


def look(opened: Connection, table: Table) -> Shape | None:
    """None when there is no such table. Needs the search path to be `pg_catalog`."""
    found = rows(opened, _TABLE, split(table.name))
    if not found:
        return None
    oid, kind, guarded, merges = found[0]
    columns = {name: Column(*described) for name, *described in rows(opened, _COLUMNS, (oid,))}
    unique: dict[str, frozenset[str]] = {}
    for index, column in rows(opened, _UNIQUE, (oid,)):
        unique[column] = unique.get(column, frozenset()) | {index}
    return Shape(kind, columns, unique, guarded, merges, oid)
