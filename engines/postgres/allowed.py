"""What a dump made by hand may hold: the statements that pg_dump writes, and no others.

A script is carried out by the connection's user, often a superuser, to whom COPY … TO PROGRAM, CREATE ROLE or ALTER
SYSTEM are nothing special. The list follows `pg_dump.c`, `dumputils.c` and `pg_backup_archiver.c` of PostgreSQL 9.6
to 18. What the objects of a dump do by themselves, a default or a trigger when rows come, is part of the data.
"""

from __future__ import annotations

import re

from engines.errors import InvalidDump

DEEPEST = 100
"""Brackets in brackets."""
_DATABASE_ONLY = "Dump one database with pg_dump and leave the rest out, or restore the script by hand with psql."
_PART = re.compile(
    rb"(?P<text>[eE]'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+'"
    rb"|[bBxX]?'[^']*+(?:''[^']*+)*+'"
    rb"|(?P<tag>\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$).*?(?P=tag))"
    rb"|(?P<name>\"[^\"]*+(?:\"\"[^\"]*+)*+\")"
    rb"|[A-Za-z_\x80-\xff][\w$\x80-\xff]*+",
    re.DOTALL,
)
"""A string in each of its writings, a name in quotes, or a word: what begins none of the others."""
_BRACKETS = re.compile(rb"\([^()]*+\)")
_SHUT = b"\x01"
"""What stands for a pair of brackets and all that is in them."""
_BLANKS = re.compile(rb"\s+")
_REMARK = re.compile(rb"--|/\*")

_NAME = rb'(?:""|[A-Za-z_\x80-\xff][\w$\x80-\xff]*)'
_FULL = rb"%b(?:\.%b)?" % (_NAME, _NAME)
_LITERAL = rb"(?:''|-?[\d.]+|true|false|NULL)(?:::[\w ]+(?:\[\])?)?"
_OBJECT = (
    rb"(?:TABLE|FOREIGN TABLE|VIEW|MATERIALIZED VIEW|SEQUENCE|INDEX|TYPE|DOMAIN|FUNCTION|PROCEDURE|AGGREGATE|SCHEMA"
    rb"|ROUTINE|EXTENSION|(?:PROCEDURAL )?LANGUAGE|CAST|COLLATION|CONVERSION|OPERATOR(?: CLASS| FAMILY)?|STATISTICS"
    rb"|TEXT SEARCH (?:CONFIGURATION|DICTIONARY|PARSER|TEMPLATE)|POLICY|RULE|(?:EVENT )?TRIGGER|CONSTRAINT|COLUMN"
    rb"|PUBLICATION|FOREIGN DATA WRAPPER|SERVER|USER MAPPING|TRANSFORM|ACCESS METHOD|LARGE OBJECT) "
)
"""Kinds of objects that live inside one database. A subscription does not: it lets no database go, and connects out."""
_MADE = (
    rb"(?:DOMAIN|TYPE|AGGREGATE|CAST|COLLATION|(?:DEFAULT )?CONVERSION|OPERATOR(?: CLASS| FAMILY)?|STATISTICS|SEQUENCE"
    rb"|TEXT SEARCH (?:CONFIGURATION|DICTIONARY|PARSER|TEMPLATE)|POLICY|(?:OR REPLACE )?RULE"
    rb"|(?:OR REPLACE )?(?:CONSTRAINT |EVENT )?TRIGGER|PUBLICATION|FOREIGN DATA WRAPPER|SERVER|USER MAPPING|TRANSFORM"
    rb"|ACCESS METHOD|(?:OR REPLACE )?(?:TRUSTED )?(?:PROCEDURAL )?LANGUAGE|(?:UNIQUE )?INDEX"
    rb"|(?:OR REPLACE )?(?:RECURSIVE )?VIEW|(?:OR REPLACE )?(?:FUNCTION|PROCEDURE)) .+"
)
_SETTINGS = (
    rb"statement_timeout|lock_timeout|idle_in_transaction_session_timeout|transaction_timeout|check_function_bodies"
    rb"|client_encoding|xmloption|client_min_messages|row_security|escape_string_warning|search_path"
    rb"|default_tablespace|default_table_access_method|default_with_oids"
)
_GRANTED = (
    rb"(?:TABLE|SEQUENCE|FUNCTION|PROCEDURE|ROUTINE|LANGUAGE|SCHEMA|TYPE|DOMAIN|FOREIGN DATA WRAPPER|FOREIGN SERVER"
    rb"|LARGE OBJECT)"
)
_CALLS = (
    rb"set_config\('', '', false\)|setval\('', -?\d+, (?:true|false)\)|lo_create\(''\)|lo_open\('', \d+\)"
    rb"|lowrite\(0, ''\)|lo_close\(0\)|lo_unlink\(''\)"
)
_ALLOWED = re.compile(
    rb"SET (?:%(settings)b) = (?:''|[\w$]+|\"\")(?:, (?:''|[\w$]+|\"\"))*"
    rb"|SET standard_conforming_strings = on"
    rb"|SET SESSION AUTHORIZATION (?:DEFAULT|''|%(name)b)|RESET SESSION AUTHORIZATION"
    rb"|BEGIN|COMMIT"
    rb"|COPY %(full)b (?:\x01 )?FROM stdin"
    rb"|CREATE SCHEMA (?:IF NOT EXISTS )?%(name)b(?: AUTHORIZATION %(name)b)?"
    rb"|CREATE EXTENSION (?:IF NOT EXISTS )?%(name)b(?: WITH)?(?: SCHEMA %(name)b)?"
    rb"|CREATE (?:UNLOGGED |FOREIGN )?TABLE (?:IF NOT EXISTS )?%(full)b (?!.*\b(?i:AS|EXECUTE)\b).+"
    rb"|CREATE MATERIALIZED VIEW %(full)b .+ WITH NO DATA"
    rb"|CREATE %(made)b"
    rb"|REFRESH MATERIALIZED VIEW %(full)b"
    rb"|ALTER %(object)b(?!.*\b(?i:ALTER (?:COLUMN )?+\S+ (?:SET DATA )?TYPE) ).+"
    rb"|ALTER DEFAULT PRIVILEGES FOR (?:ROLE|USER) .+"
    rb"|DROP %(object)b.+"
    rb"|(?:COMMENT ON|SECURITY LABEL FOR %(name)b ON) %(object)b.+ IS (?:''|NULL)"
    rb"|(?:GRANT|REVOKE(?: GRANT OPTION FOR)?) [A-Z, \x01]+ ON %(granted)b .+ (?:TO|FROM) .+"
    % {
        b"settings": _SETTINGS,
        b"name": _NAME,
        b"full": _FULL,
        b"made": _MADE,
        b"object": _OBJECT,
        b"granted": _GRANTED,
    },
    re.DOTALL,
)
"""Of a statement with its strings, quoted names and brackets emptied, blanks made single, the semicolon gone."""
_SELECT = re.compile(
    rb"SELECT pg_catalog\.(?:%b)"
    rb"|SELECT \* FROM pg_catalog\.pg_restore_\w+_stats\((?:\s*%b,?)+\)"
    rb"|SELECT pg_catalog\.lo_unlink\(oid\) FROM pg_catalog\.pg_largeobject_metadata WHERE oid = ''"
    % (_CALLS, _LITERAL)
)
"""Of a statement whose brackets are still open."""
_INSERT = re.compile(
    rb"INSERT INTO %b \s*(?:\([^()]*+\) )?(?:OVERRIDING (?:SYSTEM|USER) VALUE )?(?:DEFAULT VALUES|VALUES"
    rb"(?:[\s(),]|''|[+-]?\d[\d.]*+(?:[eE][+-]?\d++)?|(?:NULL|true|false|DEFAULT)\b)*+)(?: ?ON CONFLICT DO NOTHING)?"
    % _FULL
)
_OF_THE_DATABASE = re.compile(
    rb"(?:CREATE|ALTER|DROP) DATABASE |COMMENT ON DATABASE |SECURITY LABEL (?:FOR \S+ )?ON DATABASE "
    rb"|(?:GRANT|REVOKE(?: GRANT OPTION FOR)?) [A-Z, ]+ ON DATABASE |ALTER ROLE %b IN DATABASE "
    rb"|UPDATE pg_catalog\.pg_database SET datistemplate = " % _NAME
)
_ROWS_OF = re.compile(rb'(?:COPY|INSERT INTO) ((?:"(?:[^"]|"")*+"|[^\s".(]+)(?:\.(?:"(?:[^"]|"")*+"|[^\s".(]+))?)')
_OF_THE_SERVER = re.compile(rb'(?:"?(?:pg_catalog|information_schema|pg_toast)"?\.|"?pg_[^.]*\Z)', re.IGNORECASE)
"""Tables of the server itself, by their schema or without one; pg_authid is every database's."""
_ENCODING = re.compile(rb"SET client_encoding = '?([\w-]+)'?;?\Z", re.IGNORECASE)
_UNSAFE_ENCODINGS = {b"SJIS", b"SHIFTJIS2004", b"BIG5", b"GBK", b"GB18030", b"UHC", b"JOHAB"}
"""Their characters hold bytes that look like backslashes, so where a string ends depends on who reads it."""
_PATH = re.compile(rb"SELECT pg_catalog\.set_config\('search_path', '")
_ROUTINE = re.compile(rb"CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE) ")
_LANGUAGE = re.compile(rb"\bLANGUAGE (\S+)", re.IGNORECASE)
_QUOTED_C = re.compile(rb"\bLANGUAGE\s+\"c\"", re.IGNORECASE)
_OF_THE_PACKAGE = re.compile(rb"\sAS '\$libdir/(?![\w.-]*\.\.)[\w.-]+', '\w+';?\s*\Z")
"""Code in C from the server's own folder of extensions: any other file would be loaded, and run, right away."""


def of_the_database(statement: bytes) -> bool:
    """Whether it speaks of the database that was dumped, as --create and --clean have it, not of what is in it."""
    return _OF_THE_DATABASE.match(statement) is not None


def refuse_foreign(statement: bytes, line: int) -> None:
    """Raise `InvalidDump` for a statement that pg_dump would not have written."""
    if of_the_database(statement):
        return  # never carried out
    emptied = _emptied(statement)
    if emptied is None or not _may_be(emptied, statement):
        words = " ".join(statement[:200].decode(errors="replace").split()[:6])[:80]
        raise InvalidDump(
            f"The dump cannot be taken in: line {line} holds {words!r}. {_reason(statement)}", hint=_hint(statement)
        )


def without_strings(text: bytes) -> bytes:
    """SQL with every string emptied; names in quotes stay what they are."""
    return _PART.sub(lambda found: b"''" if found["text"] else found[0], text)


def _emptied(statement: bytes) -> bytes | None:
    """Without what is inside strings and quoted names, so that nothing in there can be taken for SQL; None when odd."""
    if b"\0" in statement:
        return None
    text = _PART.sub(_without_contents, statement)
    if _SHUT in text or _REMARK.search(text) or b"\\" in text:
        return None
    return _BLANKS.sub(b" ", text).strip().removesuffix(b";").rstrip()


def _without_contents(found: re.Match[bytes]) -> bytes:
    if found["text"]:
        return b"''"
    return b'""' if found["name"] else found[0]


def _may_be(text: bytes, statement: bytes) -> bool:
    if text.startswith((b"INSERT ", b"COPY ")):
        into = _ROWS_OF.match(statement)
        if into is None or _OF_THE_SERVER.match(into[1]):
            return False
    if text.startswith(b"INSERT "):
        return _INSERT.fullmatch(text) is not None
    if text.startswith(b"SELECT "):
        return _SELECT.fullmatch(text) is not None and (b"set_config" not in text or _PATH.match(statement) is not None)
    for _ in range(DEEPEST):
        text, shut = _BRACKETS.subn(_SHUT, text)
        if not shut:
            return _ALLOWED.fullmatch(text) is not None and _is_safe(text, statement)
    return False


def _is_safe(text: bytes, statement: bytes) -> bool:
    """What is told apart only by what stands in its strings."""
    if text.startswith(b"SET client_encoding"):
        found = _ENCODING.match(statement)
        return found is not None and re.sub(rb"[-_]", b"", found[1].upper()) not in _UNSAFE_ENCODINGS
    if not _ROUTINE.match(text):
        return True
    languages = [word.lower() for word in _LANGUAGE.findall(text)]
    if languages == [b'""'] and _QUOTED_C.search(statement):
        languages = [b"c"]
    if languages == [b"c"]:
        return text.endswith(b" AS '', ''") and _OF_THE_PACKAGE.search(statement) is not None
    return len(languages) == 1 and re.fullmatch(rb'""|\w+', languages[0]) is not None


def _reason(statement: bytes) -> str:
    if statement.startswith((b"CREATE SUBSCRIPTION ", b"ALTER SUBSCRIPTION ", b"COMMENT ON SUBSCRIPTION ")):
        return "A subscription belongs to its server, and would take rows from another one."
    if _ENCODING.match(statement):
        return "Text in this encoding cannot be told from SQL for certain."
    return "pg_dump does not write this, and it may reach out of the database."


def _hint(statement: bytes) -> str:
    if b" SUBSCRIPTION " in statement[:30]:
        return "Dump again with --no-subscriptions."
    if _ENCODING.match(statement):
        return "Dump again with --encoding=UTF8."
    return _DATABASE_ONLY
