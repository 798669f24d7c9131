"""What a dump made by hand may hold: the statements that mysqldump and mariadb-dump write of one database, no others.

A script is carried out by the connection's user, often one who may do everything: a GRANT, a SET GLOBAL or a table of
another database in it would be no part of what is restored. What the objects of a dump do by themselves, a trigger or
an event, is part of the data: adopt only what you trust.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from engines.errors import InvalidDump
from engines.mysql.contents import shown
from engines.mysql.script import Piece, Rows, Statement

DEEPEST = 100
"""Brackets in brackets."""
_SHUT = b"\x01"
"""What stands for a pair of brackets and all that is in them."""
_BRACKETS = re.compile(rb"\([^()]*+\)")
_BLANKS = re.compile(rb"\s+")
_ESCAPED = rb"(?P<text>'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+')|(?P<quoted>\"[^\"\\]*+(?:(?:\\.|\"\")[^\"\\]*+)*+\")"
_ANSI = rb"(?P<text>'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+')|(?P<quoted>\"[^\"]*+(?:\"\"[^\"]*+)*+\")"
_UNESCAPED = rb"(?P<text>'[^']*+(?:''[^']*+)*+')|(?P<quoted>\"[^\"]*+(?:\"\"[^\"]*+)*+\")"
_OTHERS = (
    rb"|(?P<name>`[^`]*+(?:``[^`]*+)*+`)|(?P<versioned>/\*M?!\d*|\*/)|(?P<remark>/\*.*?\*/|--(?=[\s])[^\n]*|\#[^\n]*)"
)
_PARTS = {how: re.compile(how + _OTHERS, re.DOTALL) for how in (_ESCAPED, _ANSI, _UNESCAPED)}

_N = rb"(?:``|\"\"|[\w$\x80-\xff]+)(?! ?\.)"
"""Name of an object of the database that is restored: none of another stands before it."""
_KIND = rb"(?:TABLE|VIEW|SEQUENCE|TRIGGER|PROCEDURE|FUNCTION|EVENT|PACKAGE BODY|PACKAGE)"
_USER = rb"(?:``|\"\"|''|[^\s@`'\"]+)"
_CREATE = (
    rb"CREATE (?:OR REPLACE )?(?:ALGORITHM ?= ?\w+ )?(?:DEFINER ?= ?%(user)b(?: ?@ ?%(user)b)? )?"
    rb"(?:SQL SECURITY \w+ )?"
)
_SETTING = (
    rb"(?:time_zone|sql_mode|sql_notes|note_verbosity|unique_checks|foreign_key_checks|character_set_\w+"
    rb"|collation_\w+|autocommit|system_versioning_\w+|sql_quote_show_create|innodb_\w*stats\w*)"
)
_ASSIGNED = rb"(?:@\w+ ?:?= ?@@(?:session\.)?%b|(?:session |@@session\.|@@)?%b ?= ?(?:@\w+|@@\w+|''|[\w+:-]+))" % (
    _SETTING,
    _SETTING,
)
_WRITTEN = re.compile(
    rb"SET NAMES \w+|SET %(assigned)b(?: ?, ?%(assigned)b)*"
    rb"|UNLOCK TABLES|LOCK TABLES? %(n)b (?:READ|WRITE)(?: LOCAL)?"
    rb"|START TRANSACTION|BEGIN|COMMIT|ROLLBACK"
    rb"|ALTER DATABASE (?:``|\"\"|[\w$\x80-\xff]+) (?:DEFAULT )?CHARACTER SET ?=? ?\w+ COLLATE ?=? ?\w+"
    rb"|DROP %(kind)b (?:IF EXISTS )?%(n)b"
    rb"|ALTER TABLE %(n)b (?:DISABLE|ENABLE) KEYS|ANALYZE TABLE %(n)b"
    rb"|CREATE (?:OR REPLACE )?TABLE (?:IF NOT EXISTS )?%(n)b ?\x01 ?"
    rb"(?!.*\b(?:AS|SELECT|LIKE|DIRECTORY|VALUES|TABLE)\b)"
    rb"(?!.*\bENGINE ?= ?(?:CONNECT|FEDERATED\w*|SPIDER)\b).*"
    rb"|CREATE (?:OR REPLACE )?SEQUENCE (?:IF NOT EXISTS )?%(n)b .*"
    rb"|%(create)bVIEW (?:IF NOT EXISTS )?%(n)b.* AS .+"
    rb"|%(create)b(?:AGGREGATE )?(?:PROCEDURE|FUNCTION|EVENT|PACKAGE BODY|PACKAGE) (?:IF NOT EXISTS )?%(n)b"
    rb"(?! RETURNS \w+ SONAME\b).*"
    rb"|%(create)bTRIGGER (?:IF NOT EXISTS )?%(n)b (?:BEFORE|AFTER) (?:INSERT|UPDATE|DELETE)(?: OF .*)? ON %(n)b"
    rb" FOR EACH ROW.*"
    % {
        b"assigned": _ASSIGNED,
        b"n": _N,
        b"kind": _KIND,
        b"create": _CREATE % {b"user": _USER},
    },
    re.IGNORECASE | re.DOTALL,
)
"""Of a statement with its strings, quoted names and brackets emptied, blanks made single, remarks gone."""
_SETVAL = re.compile(rb"(?:DO|SELECT) SETVAL\( ?%b ?, ?-?\d+ ?, ?\d+ ?(?:, ?\d+ ?)?\)" % _N, re.IGNORECASE)
_INSERT = re.compile(
    rb"(?:INSERT|REPLACE) (?:(?:LOW_PRIORITY|DELAYED|IGNORE) )*INTO %b ?(?:\([^()]*+\) ?)?VALUES"
    rb"(?:[\s(),]|''|\"\"|[-+.]|\d\w*+|(?:NULL|_\w+)(?![\w(]))*+" % _N,
    re.IGNORECASE,
)
_CODE = re.compile(rb"(?:PROCEDURE|FUNCTION|EVENT|PACKAGE|PACKAGE BODY|TRIGGER) ", re.IGNORECASE)
_NEVER_IN_CODE = re.compile(
    rb"(?:^|; ?|\b(?:THEN|ELSE|DO|BEGIN|LOOP) )(?:USE|GRANT|REVOKE|(?:UN)?INSTALL|LOAD|SHUTDOWN|CHANGE MASTER|DELIMITER"
    rb"|(?:CREATE|DROP|ALTER) (?:OR REPLACE )?(?:DATABASE|SCHEMA|USER|ROLE|SERVER|TABLESPACE)"
    rb"|SET (?:GLOBAL|PERSIST|PASSWORD)|SET @@(?:GLOBAL|PERSIST))\b",
    re.IGNORECASE,
)
"""What a body seldom holds, and what more than one statement between two delimiters would be there for."""
_BEGIN = re.compile(rb"\bBEGIN\b", re.IGNORECASE)
_BODY_BEGINS = re.compile(
    rb"\bBEGIN\b|\b(?:IS|AS)\b"
    rb"|(?:\x01|''|\b(?:ROW|DO|SQL|DATA|DETERMINISTIC)) (?:(?:``|\w+) ?: ?)?(?:LOOP|REPEAT|WHILE|IF|CASE|FOR)\b",
    re.IGNORECASE,
)
_BODY_ENDS = re.compile(rb" ?(?:UNTIL .+)?END(?: (?:``|\w+)){0,2} ?\Z", re.IGNORECASE)
_BLOCK_ENDS = re.compile(rb" ?END(?! (?:IF|LOOP|CASE|WHILE|REPEAT|FOR)\b)(?: (?:``|\w+))? ?\Z", re.IGNORECASE)
_UNSAFE_CHARSET = re.compile(
    rb"\b(?:names|character_set_client)\s*=?\s*'?(?:big5|cp932|gb18030|gbk|sjis)\b", re.IGNORECASE
)
"""Their characters hold bytes that look like backslashes, so where a string ends depends on who reads it."""
_MODE = re.compile(rb"\bsql_mode\s*=\s*(?:'([^']*)'|(@?\w+))", re.IGNORECASE)
_KEEPS_MODE = re.compile(rb"(@\w+)\s*:?=\s*@@(?:session\.)?sql_mode", re.IGNORECASE)
_NO_ESCAPES = re.compile(rb"NO_BACKSLASH_ESCAPES", re.IGNORECASE)
_ANSI_QUOTES = re.compile(rb"ANSI|DB2|MAXDB|MSSQL|ORACLE|POSTGRESQL", re.IGNORECASE)
_GTID = re.compile(rb"GTID_PURGED|SQL_LOG_BIN", re.IGNORECASE)
HINT = "Dump one database with mysqldump or mariadb-dump, or restore the script by hand."


@dataclass(slots=True)
class Guard:
    """Shown every piece of a script in order, because some change how the following are read."""

    _quoting: bytes = _ESCAPED
    """How strings are read now; it changes while some code is made."""
    _kept: dict[bytes, bytes] = field(default_factory=dict)
    """The same for every variable that keeps a mode."""

    def looked_at(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The same pieces, each of them after `look_at`."""
        for piece in pieces:
            self.look_at(piece)
            yield piece

    def look_at(self, piece: Piece) -> None:
        """Raises `InvalidDump` for what these programs do not write, or not of one database alone."""
        if isinstance(piece, Rows):
            if self._quoting is _UNESCAPED or not piece.plain:
                raise _refused(b"INSERT INTO " + piece.table.encode(errors="surrogateescape") + b" ...")
        elif isinstance(piece, Statement):
            self._statement(piece)

    def _statement(self, piece: Statement) -> None:
        text = self._emptied(piece.text)
        if text is None or (text and not _may_be(text)):
            raise _refused(piece.text)
        if text.upper().startswith(b"SET "):
            self._setting(piece.text)

    def _emptied(self, text: bytes) -> bytes | None:
        """Without what is inside strings and quoted names, and without remarks; None when odd."""
        text = _BLANKS.sub(b" ", _PARTS[self._quoting].sub(_without_contents, text)).strip()
        odd = b"\0" in text or _SHUT in text or b"\\" in text or b"/*" in text
        quotes = text.replace(b"''", b"").replace(b'""', b"").replace(b"``", b"")
        return None if odd or re.search(rb"['\"`]", quotes) else text

    def _setting(self, text: bytes) -> None:
        if _UNSAFE_CHARSET.search(text):
            raise _refused(text)
        for variable in _KEEPS_MODE.findall(text):
            self._kept[variable.lower()] = self._quoting
        for literal, word in _MODE.findall(_KEEPS_MODE.sub(b"", text)):
            if word.startswith(b"@") and word.lower() not in self._kept:
                raise _refused(text)
            self._quoting = self._kept.get(word.lower()) or _quoting(literal + word)


def _quoting(mode: bytes) -> bytes:
    if _NO_ESCAPES.search(mode):
        return _UNESCAPED
    return _ANSI if _ANSI_QUOTES.search(mode) else _ESCAPED


def _without_contents(found: re.Match[bytes]) -> bytes:
    if found["text"]:
        return b"''"
    if found["quoted"]:
        return b'""'
    return b"``" if found["name"] else b" "


def _may_be(text: bytes) -> bool:
    if text[:6].upper() in {b"INSERT", b"REPLAC"}:
        return _INSERT.fullmatch(text) is not None
    if _SETVAL.fullmatch(text):
        return True
    for _ in range(DEEPEST):
        text, shut = _BRACKETS.subn(_SHUT, text)
        if not shut:
            break
    else:
        return False
    if b";" in text and not _is_body(text):
        return False
    return _WRITTEN.fullmatch(text) is not None


def _is_body(text: bytes) -> bool:
    """Whether the semicolons stand in one routine, not between it and something else, as far as can be told."""
    parts = text.rstrip(b"; ").split(b";")
    if text[:7].upper() != b"CREATE " or not _CODE.search(parts[0]) or not _BODY_BEGINS.search(parts[0]):
        return False
    if _NEVER_IN_CODE.search(text) or not _BODY_ENDS.match(parts[-1]):
        return False
    return _BEGIN.search(parts[0]) is None or not _ends_early(parts)


def _ends_early(parts: list[bytes]) -> bool:
    """Whether every BEGIN has its END before the last part, so that something else follows."""
    opened = 0
    for part in parts[:-1]:
        opened += len(_BEGIN.findall(part)) - (1 if _BLOCK_ENDS.match(part) else 0)
        if opened <= 0:
            return True
    return False


def _refused(text: bytes) -> InvalidDump:
    words = shown(" ".join(text[:80].decode(errors="surrogateescape").split()))
    hint = "Dump again with --set-gtid-purged=OFF." if _GTID.search(text[:200]) else HINT
    return InvalidDump(f"The dump holds a statement that is no part of one database's dump: {words}", hint=hint)
