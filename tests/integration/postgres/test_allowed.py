"""A dump made by hand may hold what pg_dump writes, and nothing that reaches out of its database."""

from __future__ import annotations

import pytest

from engines.artefacts.reading import Artefact
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.base import Dump, Tool
from engines.errors import InvalidDump
from engines.postgres.archive import SQL
from engines.postgres.outline import Outline
from engines.postgres.statements import UnreadableScriptError
from tests.conftest import FreshDatabase
from tests.integration.postgres.test_everything import EVERYTHING
from tests.integration.postgres.workbench import SAMPLE, Workbench, dumped, sql

MORE = r"""
CREATE EXTENSION postgres_fdw;
CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', dbname 'nowhere; --');
CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'u', password 'p''w');
CREATE FOREIGN TABLE over_there (a int OPTIONS (column_name 'b'), b text) SERVER far OPTIONS (table_name 't');
GRANT USAGE ON FOREIGN SERVER far TO PUBLIC;
GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO PUBLIC;
CREATE TEXT SEARCH DICTIONARY plain_words (TEMPLATE = simple, stopwords = 'english');
CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING FOR asciiword WITH plain_words;
CREATE COLLATION plain_order (locale = 'C');
CREATE CAST (point3 AS text) WITH INOUT;
CREATE CONVERSION odd FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
CREATE OPERATOR FAMILY some_ints USING btree;
CREATE OPERATOR CLASS ints FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 3 =, FUNCTION 1 btint4cmp(int, int);
CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler;
CREATE TABLE in_heap2 (a int) USING heap2;
CREATE FUNCTION in_c(int) RETURNS int LANGUAGE c STRICT AS '$libdir/btree_gist', 'gbt_decompress';
CREATE FUNCTION "language""c"(a$b$c int, "as" text DEFAULT '; $$ --') RETURNS SETOF record LANGUAGE sql
    SET search_path TO public, pg_catalog AS $_$ SELECT '$$', 1; $_$;
CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE DOMAIN code AS text COLLATE "C" DEFAULT 'x' NOT NULL CONSTRAINT short CHECK (length(VALUE) < 5);
CREATE TABLE typed OF point3;
CREATE TABLE one (type text, "user" int, "AS" int, CONSTRAINT excl EXCLUDE USING gist (("user") WITH =));
ALTER TABLE one REPLICA IDENTITY FULL, ALTER COLUMN type SET STORAGE EXTERNAL, ALTER type SET (n_distinct = 5);
INSERT INTO one VALUES (E'a\\''b(c;--', 1, NULL), ('pg_sleep(1)', 2, -3), ('/* */', -4, 5);
CREATE TABLE numbers (a numeric, b float8, c bool, d bytea, e bit(3), f timestamptz,
    g text GENERATED ALWAYS AS ('x') STORED);
INSERT INTO numbers VALUES ('NaN', '-Infinity', true, '\x00ff', B'101', now()),
    (-1.5e-10, 1e300, false, NULL, NULL, NULL);
CREATE VIEW holes AS SELECT x.a FROM over_there x;
CREATE FUNCTION looped(one) RETURNS int LANGUAGE sql AS 'SELECT $1."user"';
CREATE PUBLICATION every_table FOR ALL TABLES;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON egg DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE egg DISABLE TRIGGER late;
ALTER EVENT TRIGGER on_ddl DISABLE;
CREATE RULE "_insert" AS ON INSERT TO seen DO INSTEAD (INSERT INTO egg VALUES (9, 1); DELETE FROM egg; NOTIFY x);
CREATE FUNCTION cased(a int) RETURNS int LANGUAGE sql
    BEGIN ATOMIC SELECT 1 AS "case", 2 AS "end"; SELECT CASE a WHEN 1 THEN CASE WHEN true THEN 5 END END; END;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE STATISTICS common (mcv) ON a, t FROM kinds;
COMMENT ON DATABASE "{name}" IS 'COPY x TO PROGRAM';
ALTER DATABASE "{name}" SET work_mem = '8MB';
ALTER ROLE postgres IN DATABASE "{name}" SET work_mem = '9MB';
GRANT CONNECT ON DATABASE "{name}" TO PUBLIC;
"""
WAYS = (
    (),
    ("--create", "--clean", "--if-exists"),
    ("--clean",),
    ("--inserts", "--rows-per-insert=3"),
    ("--column-inserts", "--on-conflict-do-nothing"),
    ("--data-only", "--disable-triggers", "--superuser=postgres"),
    ("--use-set-session-authorization",),
    ("--quote-all-identifiers",),
    ("--schema-only", "--no-owner", "--no-privileges"),
    ("--enable-row-security", "--encoding=UTF8", "--section=pre-data", "--section=post-data"),
)


@pytest.fixture
def rich(server: str, fresh_database: FreshDatabase) -> str:
    url = fresh_database(server)
    sql(url, EVERYTHING)
    sql(url, MORE.replace("{name}", sql(url, "SELECT current_database()")[0][0]))
    return url


def test_whatever_pg_dump_writes_is_taken_in(bench: Workbench, rich: str) -> None:
    major = sql(rich, "SELECT current_setting('server_version_num')::int / 10000")[0][0]
    program = bench.clients.for_dump(major, tls=False).path("pg_dump")
    ways = (*WAYS, ("--statistics",)) if major >= 18 else WAYS
    for way in ways:
        outline = Outline.of([dumped(rich, *way, program=program)])
        assert outline.complete and outline.statements > 20, way


GOOD_ONES = rb"""
SELECT pg_catalog.setval('public."a b"', 1, false);
SELECT pg_catalog.lowrite(0, '\x00');
SELECT * FROM pg_catalog.pg_restore_relation_stats(
	'version', '180000'::integer,
	'relation', 'public.a'::regclass,
	'reltuples', '-1'::real
);
SET search_path = odd, pg_catalog;
CREATE OR REPLACE PROCEDURAL LANGUAGE plperl;
SECURITY LABEL FOR selinux ON TABLE public.a IS 'x; DROP';
SET SESSION AUTHORIZATION 'o''neil';
RESET SESSION AUTHORIZATION;
INSERT INTO public.a VALUES (1, 'x'), (NULL, true) ON CONFLICT DO NOTHING;
INSERT INTO public.a DEFAULT VALUES;
INSERT INTO public.a (b) OVERRIDING SYSTEM VALUE VALUES (-1.5e+10);
DROP DATABASE shop;
UPDATE pg_catalog.pg_database SET datistemplate = false WHERE datname = 'shop';
"""


def test_what_some_versions_write_is_taken_in() -> None:
    assert Outline.of([GOOD_ONES]).statements == 13


HOSTILE = {
    "a program": b"COPY (SELECT 1) TO PROGRAM 'touch /tmp/flexdb-was-here';",
    "a program's rows": b"COPY public.a FROM PROGRAM 'id';",
    "a file of the server": b"COPY public.a FROM '/etc/passwd';",
    "a file is written": b"COPY public.a TO '/tmp/flexdb-was-here';",
    "rows out": b"COPY public.a TO stdout;",
    "rows with options": b"COPY public.a FROM stdin WITH (FORMAT csv);",
    "rows into the roles": b"COPY pg_catalog.pg_authid (rolname) FROM stdin;\n\\.\n",
    "a row into the roles": b"INSERT INTO pg_authid VALUES ('x');",
    "quoted": b'INSERT INTO "pg_catalog"."pg_authid" VALUES (\'x\');',
    "a role": b"CREATE ROLE evil SUPERUSER;",
    "a user": b"ALTER USER postgres PASSWORD 'x';",
    "membership": b"GRANT pg_execute_server_program TO bob;",
    "the server's settings": b"ALTER SYSTEM SET archive_command = 'x';",
    "a parameter": b"GRANT ALTER SYSTEM ON PARAMETER work_mem TO bob;",
    "a tablespace": b"CREATE TABLESPACE t LOCATION '/tmp';",
    "a block": b"DO $$ BEGIN PERFORM 1; END $$;",
    "another role": b"SET ROLE postgres;",
    "another setting": b"SET session_preload_libraries = 'x';",
    "the quoting": b"SET  standard_conforming_strings TO off;",
    "the quoting, by function": b"SELECT pg_catalog.set_config('standard_conforming_strings', 'off', false);",
    "an encoding with backslashes": b"SET client_encoding = 'SJIS';",
    "the same, disguised": b"SET client_encoding = E'SJI\\x53';",
    "other sessions": b"SELECT pg_terminate_backend(1);",
    "a function's way out": b"SELECT pg_catalog.lo_export(1, '/tmp/flexdb-was-here');",
    "a call in an allowed call": b"SELECT pg_catalog.setval('a', pg_sleep(1), true);",
    "a call in a row": b"INSERT INTO public.a VALUES (pg_reload_conf());",
    "rows of a query": b"INSERT INTO public.a SELECT pg_ls_dir('/');",
    "a table of a query": b"CREATE TABLE public.a AS SELECT pg_read_file('/etc/passwd');",
    "a table with columns, of a query": b"CREATE TABLE public.a (b) WITH (fillfactor=70) as SELECT 1;",
    "a view that is filled": b"CREATE MATERIALIZED VIEW public.a AS SELECT pg_sleep(1);",
    "a conversion": b"ALTER TABLE public.a ALTER COLUMN b TYPE int USING pg_sleep(1);",
    "a library": b"CREATE FUNCTION f() RETURNS int LANGUAGE c AS '/tmp/evil.so', 'f';",
    "a library, disguised": b"CREATE FUNCTION f() RETURNS int LANGUAGE 'c' AS '/tmp/evil.so', 'f';",
    "a library, escaped": b"CREATE FUNCTION f() RETURNS int LANGUAGE U&\"\\0063\" AS '/tmp/evil.so', 'f';",
    "a library beside": b"CREATE FUNCTION f() RETURNS int LANGUAGE c AS '$libdir/../evil', 'f';",
    "a library, loaded": b"LOAD '/tmp/evil.so';",
    "a subscription": b"CREATE SUBSCRIPTION s CONNECTION 'host=x' PUBLICATION p WITH (connect = false);",
    "a procedure": b"CALL public.p();",
    "a notice": b"NOTIFY x;",
    "a vacuum": b"VACUUM FULL;",
    "a comment's end": b"CREATE TABLE public.a (b int) -- x\rCOPY public.a TO PROGRAM 'x'\n;",
    "a remark": b"CREATE TABLE public.a (b int) /* x */;",
    "a schema with more": b"CREATE SCHEMA a CREATE TABLE b AS SELECT 1;",
    "a function named begin": b"CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'x'; CALL p(); END;",
    "a column named case": b"CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1 case; END; CALL p(); "
    b"CREATE FUNCTION g() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; END; END;",
    "a remark in a body": b"CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; /**/ END; CALL p();"
    b" END;",
    "too many brackets": b"CREATE TABLE public.a " + b"(" * 200 + b")" * 200 + b";",
    "a zero byte": b"CREATE TABLE public.a ()\0;",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_pg_dump_does_not_write_is_refused_where_it_stands(what: str) -> None:
    script = b"SET row_security = off;\n\n" + HOSTILE[what] + b"\n"
    with pytest.raises(InvalidDump) as refused:
        Outline.of([script])
    assert "line 3 " in refused.value.message and refused.value.hint


@pytest.mark.parametrize("line", [rb"\connect `touch x`", rb"\restrict a`b`", rb"\connect x \! true", rb"\connect :x"])
def test_an_argument_that_psql_would_carry_out_is_refused(line: bytes) -> None:
    with pytest.raises(UnreadableScriptError, match="psql command"):
        Outline.of([line + b"\n"])


@pytest.mark.parametrize("how", ["-Fp", "-Fc"])
def test_a_subscription_is_refused_with_the_option_that_leaves_it_out(
    bench: Workbench, postgres15_url: str, fresh_database: FreshDatabase, how: str
) -> None:
    url = fresh_database(postgres15_url)
    sql(url, "CREATE SUBSCRIPTION flexdbtest_s CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false)")
    try:
        dump = dumped(url, how)
    finally:
        sql(url, "ALTER SUBSCRIPTION flexdbtest_s SET (slot_name = NONE)")
        sql(url, "DROP SUBSCRIPTION flexdbtest_s")
    with pytest.raises(InvalidDump) as refused:
        bench.adopt(dump)
    assert "--no-subscriptions" in refused.value.hint
    assert bench.stored() == []


def test_an_archive_whose_contents_were_changed_is_refused_too(bench: Workbench, shop15: str) -> None:
    sql(shop15, "COMMENT ON SCHEMA public IS 'xx'")
    dump = dumped(shop15, "-Fc", "-Z0")
    comment = b"COMMENT ON SCHEMA public IS 'xx';"
    evil = b"CREATE ROLE flexdbtest_evil".ljust(len(comment) - 1) + b";"
    assert comment in dump
    with pytest.raises(InvalidDump, match="CREATE ROLE"):
        bench.adopt(dump.replace(comment, evil))
    assert bench.stored() == []


def taken_in_when_more_was(bench: Workbench, url: str, evil: bytes) -> Artefact:
    """An artefact as it would be had nobody looked at its statements."""
    run = bench.run()
    out = ArtefactWriter(bench.store, f"shop/{run.job_id}-{run.token}", Compression.parse("none"))
    with out.file("adopted.sql", SQL) as sink:
        sink.write(
            dumped(url, "-Fp").replace(
                b"\n-- PostgreSQL database dump complete", evil + b"\n-- PostgreSQL database dump complete"
            )
        )
    dump = Dump(
        server_version="15.0",
        objects=(),
        counts="none",
        consistency="",
        restore_by_hand=(),
        tool=Tool("pg_dump", "15.0"),
        options={"content": "all"},
    )
    return bench._artefact(dump, out, run, "adopted")


@pytest.mark.parametrize("mode", ["create", "replace"])
def test_what_was_taken_in_before_is_looked_at_again_before_it_is_carried_out(
    bench: Workbench, shop15: str, postgres15_url: str, fresh_database: FreshDatabase, mode: str
) -> None:
    artefact = taken_in_when_more_was(bench, shop15, b"\nCREATE ROLE flexdbtest_evil;\n")
    target = fresh_database(postgres15_url)
    if mode == "replace":
        sql(target, "CREATE TABLE mine AS SELECT 7 AS a")
    for attempt in (
        lambda: bench.restore(artefact, target, mode=mode),
        lambda: bench.engine.parse(artefact, bench.run()),
    ):
        with pytest.raises(InvalidDump, match="CREATE ROLE"):
            attempt()
    assert sql(target, "SELECT 1 FROM pg_roles WHERE rolname = 'flexdbtest_evil'") == []
    left = sql(target, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    assert left == ([("mine",)] if mode == "replace" else [])
    assert sql(postgres15_url, f"SELECT 1 FROM pg_database WHERE datname ~ 'flexdb_.*{bench.job_id}'") == []


def test_grants_on_the_database_that_was_dumped_are_left_out(
    bench: Workbench, postgres15_url: str, fresh_database: FreshDatabase
) -> None:
    url = fresh_database(postgres15_url)
    sql(url, SAMPLE)
    name = sql(url, "SELECT current_database()")[0][0]
    sql(url, f'REVOKE CONNECT ON DATABASE "{name}" FROM PUBLIC')
    artefact = bench.adopt(dumped(url, "-Fp", "--create"))
    sql(url, f'GRANT CONNECT ON DATABASE "{name}" TO PUBLIC')
    granted = f"SELECT datacl::text FROM pg_database WHERE datname = '{name}'"
    before = sql(url, granted)
    bench.restore(artefact, fresh_database(postgres15_url, create=False))
    assert sql(url, granted) == before
