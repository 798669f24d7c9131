"""What is done to a script on its way into a database."""

from __future__ import annotations

from engines.mysql.load import Changes
from engines.mysql.script import Scanner

SCRIPT = b"""/*M!999999\\- enable the sandbox mode */
-- MariaDB dump 10.19
/*!40101 SET NAMES utf8mb4 */;
CREATE TABLE `a` (
  `id` bigint DEFAULT nextval(`shop`.`s`)
);
LOCK TABLES `a` WRITE;
INSERT INTO `a` VALUES
(1,'nextval(`shop`.`s`) DEFINER=`x`@`y`');
UNLOCK TABLES;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`x`@`y`*/ /*!50003 TRIGGER of_a before insert on a for each row set @x = 1 */;;
DELIMITER ;
CREATE TABLE `b` (
  `id` int
);
INSERT INTO `b` VALUES
(1);
DELIMITER ;;
/*!50106 CREATE*/ /*!50117 DEFINER=`x`@`y`*/ /*!50106 EVENT `e` ON SCHEDULE EVERY 1 DAY ON COMPLETION NOT PRESERVE \
ENABLE COMMENT ' ON COMPLETION PRESERVE ENABLE' DO delete from b */ ;;
CREATE DEFINER=`x`@`y` PROCEDURE `p`()
select 1 ;;
DELIMITER ;
-- Dump completed
"""


def changed(changes: Changes, script: bytes = SCRIPT) -> bytes:
    scanner = Scanner()
    pieces = [*scanner.feed(script), *scanner.finish()]
    return b"".join(changes.made(piece) for piece in pieces)


def test_events_are_switched_off_and_remembered_to_be_switched_on_in_their_place() -> None:
    changes = Changes("shop", "new")
    made = changed(changes)
    assert b"NOT PRESERVE DISABLE COMMENT ' ON COMPLETION PRESERVE ENABLE'" in made
    assert changes.enabled == ["e"]


def test_defaults_take_from_the_sequences_beside_them_and_rows_are_left_alone() -> None:
    made = changed(Changes("shop", "new"))
    assert b"DEFAULT nextval(`new`.`s`)" in made
    assert b"'nextval(`shop`.`s`) DEFINER=`x`@`y`'" in made


def test_what_the_client_would_not_understand_or_sequences_would_choke_on_is_left_out() -> None:
    made = changed(Changes("shop", "new"))
    assert b"sandbox" not in made
    assert b"LOCK TABLES" not in made
    assert b"DELIMITER ;;" in made


def test_definers_are_left_out_only_when_asked_for_and_never_in_rows() -> None:
    assert changed(Changes("shop", "new")).count(b"DEFINER") == 4
    assert changed(Changes("shop", "new", definers=False)).count(b"DEFINER") == 1


def test_chosen_tables_come_with_their_triggers_and_nothing_else() -> None:
    made = changed(Changes("shop", "new", frozenset({"a"})))
    assert b"CREATE TABLE `a`" in made
    assert b"TRIGGER of_a" in made
    assert b"SET NAMES" in made
    for left_out in (b"`b`", b"EVENT", b"PROCEDURE"):
        assert left_out not in made


def test_a_script_goes_nowhere_but_into_the_database_it_is_fed_to() -> None:
    made = changed(Changes("shop", "new"), b"CREATE DATABASE `other`;\nUSE `other`;\nCREATE TABLE `t` (a int);\n")
    assert made == b"CREATE TABLE `t` (a int);\n"
