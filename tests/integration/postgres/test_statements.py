"""A script is taken apart the same way in whatever blocks it arrives."""

from __future__ import annotations

import pytest

from engines.postgres.outline import Outline
from engines.postgres.statements import UnreadableScriptError, pieces

SCRIPT = rb"""--
-- PostgreSQL database dump
--
\restrict abc

SET a = 1;
CREATE FUNCTION x(a$b$c int) RETURNS int LANGUAGE x AS $_$ begin; return '; '; end $_$;
CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END;
CREATE RULE r AS ON INSERT TO x DO (INSERT INTO a VALUES (1); INSERT INTO b VALUES (2););
SELECT E'a\'; b''c\\', 'it''s;', "q;""u" /* c /* n */ ; */ -- tail;
, 2;
COPY public.t (a, b) FROM stdin;
1	\\.
COPY x FROM stdin;
\\.x
\.


COPY public.e (a) FROM stdin;
\.

-- PostgreSQL database dump complete
\unrestrict abc
"""
STRINGS = SCRIPT[SCRIPT.index(b"SELECT E'a") : SCRIPT.index(b"COPY public.t")]
KINDS = [
    *("comment", "comment", "comment", "command", "statement", "statement", "statement", "statement", "statement"),
    *("statement", "statement", "comment", "command"),
]


def taken_apart(block: int) -> list[tuple[str, bytes]]:
    """Everything but rows, as it came."""
    blocks = [SCRIPT[at : at + block] for at in range(0, len(SCRIPT), block)]
    return [(piece.kind, piece.text) for piece in pieces(blocks) if piece.kind != "rows"]


@pytest.mark.parametrize("block", [1, 2, 3, 5, 7, 16, 64, 100_000])
def test_parts_do_not_depend_on_the_blocks_they_come_in(block: int) -> None:
    assert [kind for kind, _ in taken_apart(block)] == KINDS
    assert taken_apart(block) == taken_apart(len(SCRIPT))


@pytest.mark.parametrize("block", [1, 3, 100_000])
def test_rows_are_counted_per_table(block: int) -> None:
    whole = SCRIPT.replace(b"SET a = 1;", b"SET row_security = off;").replace(STRINGS, b"")
    outline = Outline.of(whole[at : at + block] for at in range(0, len(whole), block))
    assert outline.rows == {"public.t": 3, "public.e": 0} and outline.complete


@pytest.mark.parametrize("cut", [b"'it''s", b"/* c", b"$_$ begin", b"COPY x", b"BEGIN ATOMIC SELECT"])
def test_a_script_cut_inside_something_is_unreadable(cut: bytes) -> None:
    with pytest.raises(UnreadableScriptError, match="ends inside"):
        list(pieces([SCRIPT[: SCRIPT.index(cut) + len(cut) - 4]]))


@pytest.mark.parametrize("line", [rb"\! true", rb"\i /etc/passwd", rb"SELECT 1 \gexec", rb"\copy t from program 'x'"])
def test_psql_commands_that_run_things_are_refused_wherever_they_stand(line: bytes) -> None:
    with pytest.raises(UnreadableScriptError, match="psql command"):
        Outline.of([b"SET row_security = off;\n" + line + b"\n"])


def test_a_statement_after_the_end_means_that_it_is_not_the_end() -> None:
    end = b"-- PostgreSQL database dump complete\n"
    assert Outline.of([end]).complete and not Outline.of([end + b"SET row_security = off;\n"]).complete
