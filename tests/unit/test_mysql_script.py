"""The reader of mysqldump's scripts: every piece, every row, at any size of block."""

from __future__ import annotations

import random

import pytest

from engines.mysql.contents import Contents, Reader
from engines.mysql.script import Rows, Scanner, Statement, UnreadableScriptError

HEAD = b"-- MySQL dump 10.13  Distrib 8.0.36\n\n/*!40101 SET NAMES utf8mb4 */;\n"
TABLE = b"DROP TABLE IF EXISTS `t`;\nCREATE TABLE `t` (\n  `a` int COMMENT 'x;\\'y'\n) ENGINE=InnoDB;\n"
END = b"\n-- Dump completed\n"
ROUTINE = (
    b"DELIMITER ;;\nCREATE DEFINER=`root`@`localhost` PROCEDURE `p`()\nbegin\n"
    b"INSERT INTO `t` VALUES (1),(2);\nend ;;\nDELIMITER ;\n"
)


def read(script: bytes, size: int = 1 << 20, *, quick: bool = False) -> Contents:
    reader = Reader.quick() if quick else Reader()
    for start in range(0, len(script), size):
        reader.feed(script[start : start + size])
    return reader.finish()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 1 << 20])
@pytest.mark.parametrize(
    ("insert", "rows"),
    [
        (b"INSERT INTO `t` VALUES (1);\n", 1),
        (b"INSERT INTO `t` VALUES (1),(2),(3);\n", 3),
        (b"INSERT INTO `t` VALUES\n(1),\n(2);\n", 2),
        (b"INSERT INTO `t` VALUES ('a),(b'),('\\'),(');\n", 2),
        (b"INSERT INTO `t` VALUES ('\\\\'),('x'),('\\\\\\''),(NULL);\n", 4),
        (b"INSERT INTO `t` VALUES (';\n(1),'),('it''s (');\n", 2),
        (b"INSERT INTO `t` (`a`, `b),(`) VALUES (1,0x27);\n", 1),
        (b"INSERT  IGNORE INTO `t` VALUES (1);\nINSERT INTO `t` VALUES (2),(3);\n", 3),
        (b"REPLACE INTO `t` VALUES (1);\r\n", 1),
        (b"INSERT INTO `t` VALUES ('\\n\\Z\\0\\\"'),(_binary 'x\\\\');\n", 2),
    ],
)
def test_rows_are_counted_whatever_their_text(insert: bytes, rows: int, size: int) -> None:
    contents = read(HEAD + TABLE + insert + ROUTINE + END, size)
    assert contents.rows == {"t": rows}
    assert list(contents.others) == [("procedure", "p")]
    assert contents.definers == {"`root`@`localhost`"}
    assert not contents.uncounted


def test_the_pieces_together_are_the_script_at_any_size_of_block() -> None:
    script = HEAD + TABLE + b"INSERT INTO `t` VALUES\n(1,'\\\\'),\n(2,';\\n');\n" + ROUTINE + END
    chance = random.Random(3)
    for _ in range(200):
        scanner, start, pieces = Scanner(quick=chance.random() < 0.5), 0, []
        while start < len(script):
            size = chance.randint(1, 40)
            pieces += list(scanner.feed(script[start : start + size]))
            start += size
        pieces += list(scanner.finish())
        assert b"".join(piece.raw for piece in pieces) == script
        assert sum(piece.count for piece in pieces if isinstance(piece, Rows)) == 2
        assert sum(isinstance(piece, Statement) for piece in pieces) == 4


def test_random_strings_never_change_the_count() -> None:
    chance = random.Random(4)
    letters = [b"a", b"\\\\", b"\\'", b"(", b")", b",", b";", b"\\n", b"''", b"`", b"--", b"\xc3\xbc"]
    for _ in range(300):
        rows = [b"(%d,'%s')" % (n, b"".join(chance.choices(letters, k=chance.randint(0, 12)))) for n in range(5)]
        for between, quick in ((b",", False), (b",\n", False), (b",\n", True)):
            begin = b"VALUES\n" if between == b",\n" else b"VALUES "
            script = HEAD + TABLE + b"INSERT INTO `t` " + begin + between.join(rows) + b";\n" + END
            assert read(script, chance.randint(1, 200), quick=quick).rows == {"t": 5}


def test_brackets_that_rows_do_not_have_make_a_table_uncounted() -> None:
    script = HEAD + TABLE + b"INSERT INTO `t` VALUES (1,ST_GeomFromText('POINT(1 2)'));\n" + END
    contents = read(script)
    assert contents.uncounted == {"t"}
    assert [item.rows for item in contents.objects()] == [None]


@pytest.mark.parametrize(
    "cut",
    [
        HEAD + TABLE,
        HEAD + TABLE + b"INSERT INTO `t` VALUES (1),(2",
        HEAD + TABLE + b"INSERT INTO `t` VALUES ('x" + END,
        HEAD + b"CREATE TABLE `t` (a int" + END,
        HEAD + b"CREATE TABLE `t" + END,
        HEAD + b"DELIMITER ;;\nCREATE PROCEDURE `p`() select 1;\n" + END,
        HEAD + TABLE + END + b"DROP TABLE `t`;\n",
    ],
)
def test_a_script_that_is_not_whole_is_refused(cut: bytes) -> None:
    with pytest.raises(UnreadableScriptError):
        read(cut)


def test_names_of_every_kind_are_understood() -> None:
    script = (
        HEAD
        + b"CREATE TABLE `a``b\nc` (\n  `x` int\n);\nINSERT INTO `a``b\nc` VALUES (1);\n"
        + b"/*!50001 CREATE VIEW `v` AS SELECT\n NULL AS `q` */;\n"
        + b"/*!50001 CREATE ALGORITHM=UNDEFINED */\n/*!50013 DEFINER=`r``x`@`%` SQL SECURITY DEFINER */\n"
        + b"/*!50001 VIEW `v` AS select 1 AS `q` */;\nCREATE SEQUENCE `s` start with 1;\n"
        + b"DELIMITER ;;\n/*!50003 CREATE*/ /*!50017 DEFINER=`a`@`b`*/ /*!50003 TRIGGER tr before insert on v\n*/;;\n"
        + b"/*!50106 CREATE*/ /*!50117 DEFINER=`a`@`b`*/ /*!50106 EVENT `e` ON SCHEDULE EVERY 1 DAY DO x */ ;;\n"
        + b"DELIMITER ;\n"
        + END
    )
    contents = read(script, 11)
    assert contents.rows == {"a`b\nc": 1}
    assert list(contents.others) == [("view", "v"), ("sequence", "s"), ("trigger", "tr"), ("event", "e")]
    assert contents.definers == {"`r``x`@`%`", "`a`@`b`"}


@pytest.mark.parametrize("line", [b"USE `x`;\n", b"CREATE DATABASE /*!32312 IF NOT EXISTS*/ `x` /*!40100 */;\n"])
def test_databases_that_a_script_names_are_seen(line: bytes) -> None:
    assert read(HEAD + line + TABLE + END).databases == {"x"}
