"""A dump made by hand may hold what mysqldump and mariadb-dump write of one database, and nothing that reaches out."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest

from engines.artefacts.reading import Artefact
from engines.artefacts.writing import ArtefactWriter, Compression
from engines.assertions import Assertion
from engines.base import Dump
from engines.errors import InvalidAssertion, InvalidDump
from engines.mysql.allowed import Guard
from engines.mysql.script import Scanner
from tests.integration.mysql.conftest import Fresh
from tests.integration.mysql.workbench import Workbench
from tests.mariadb import sql


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


MORE = (
    (
        "CREATE FUNCTION ended(a int, b int) RETURNS int BEGIN IF a BETWEEN b AND 5 THEN BEGIN DECLARE c int;"
        " SET c = 1; END; CALL loops(); ELSE CASE a WHEN 1 THEN SET a = 2; ELSE BEGIN END; END CASE; END IF;"
        " -- it's odd; USE\n RETURN a; END"
    ),
    "CREATE PROCEDURE loops() one: LOOP LEAVE one; REPEAT SET @x = 'a\\';b'; UNTIL 1 END REPEAT; END LOOP one",
    "SET SESSION sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
    "CREATE PROCEDURE quoting() BEGIN SELECT 'a\\' AS \"b'c\"; SELECT 1; END",
    "SET SESSION sql_mode = DEFAULT",
    "CREATE EVENT cleans ON SCHEDULE EVERY 1 DAY DO BEGIN DELETE FROM customers WHERE 1 = 0; SET @a = 1; END",
)
WAYS = (
    *((), ("--routines", "--events", "--triggers", "--hex-blob", "--single-transaction")),
    ("--skip-opt", "--routines", "--events"),
    ("--compatible=ansi", "--routines", "--events"),
    ("--skip-quote-names", "--skip-extended-insert", "--tables", "customers", "log"),
    ("--no-create-info", "--insert-ignore", "--no-autocommit", "--order-by-primary"),
    ("--no-data", "--add-drop-trigger", "--routines", "--skip-dump-date", "--skip-tz-utc", "--skip-set-charset"),
    ("--replace", "--complete-insert", "--lock-tables", "--default-character-set=latin1", "--dump-date"),
    ("--allow-keywords", "--delayed-insert", "--create-options"),
)


def looked_at(script: bytes) -> None:
    guard, scanner = Guard(), Scanner()
    for piece in (*scanner.feed(script), *scanner.finish()):
        guard.look_at(piece)


def dumped(url: str, *options: str) -> bytes:
    before, _, tables = " ".join(options).partition("--tables")
    port = url.rpartition(":")[2].partition("/")[0]
    command = ["mariadb-dump", "--host=127.0.0.1", f"--port={port}", "--user=root", *before.split(), name_of(url)]
    return subprocess.run([*command, *tables.split()], capture_output=True, check=True).stdout


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_whatever_the_program_writes_is_taken_in(shop: str, way: tuple[str, ...]) -> None:
    sql(shop, *MORE)
    script = dumped(shop, *way)
    assert len(script) > 1000
    looked_at(script)


OTHERS = (
    "/*!50112 SET @OLD_SQL_NOTES=@@SQL_NOTES, SQL_NOTES=0 */;\n/*!40103 SET TIME_ZONE='+00:00' */;",
    "/*!50503 SET character_set_client = utf8mb4 */;\nSET NAMES utf8mb4;",
    (
        "/*!50001 CREATE ALGORITHM=UNDEFINED */\n/*!50013 DEFINER=`a`@`%` SQL SECURITY DEFINER */\n"
        "/*!50001 VIEW `v` AS select 1 AS `1` */;"
    ),
    "/*!50001 DROP VIEW IF EXISTS `v`*/;\nDROP TABLE IF EXISTS `t`;",
    "ALTER DATABASE `shop` CHARACTER SET latin1 COLLATE latin1_swedish_ci ;",
    (
        "DELIMITER ;;\n/*!50003 CREATE*/ /*!50017 DEFINER=`a`@`b`*/ /*!50003 TRIGGER `t` BEFORE INSERT ON `x`"
        " FOR EACH ROW BEGIN SET NEW.a = 1; END */;;\nDELIMITER ;"
    ),
    "DO SETVAL(`s`, 7, 0);\nSELECT SETVAL(`s`, -7, 0);",
    "INSERT INTO `t` VALUES (1,NULL,_binary 'a\\'b',0x00FF,-1.5e-10,'GRANT; (');",
)


@pytest.mark.parametrize("script", OTHERS)
def test_what_other_versions_write_is_taken_in(script: str) -> None:
    looked_at(script.encode() + b"\n")


HOSTILE = (
    *("DROP DATABASE x", "CREATE DATABASE x", "USE x", "CREATE USER a", "GRANT ALL ON *.* TO a", "CALL p()", "KILL 1"),
    *(
        "LOAD DATA INFILE 'x' INTO TABLE t",
        "SELECT 1 INTO OUTFILE '/tmp/x'",
        "HANDLER t OPEN",
        "SHUTDOWN",
        "XA START 'x'",
    ),
    *("SELECT SETVAL(`s`,1,0) INTO OUTFILE '/tmp/x'", "DO SETVAL(`s`, sleep(10), 0)", "INSTALL PLUGIN x SONAME 'y'"),
    *(
        "SET GLOBAL x=1",
        "SET @@global . x=1",
        "SET @a=';', GLOBAL x=1",
        "SET SESSION sql_log_bin=0",
        "SET PASSWORD='x'",
    ),
    *(
        "SET @a=(SELECT sleep(10))",
        "SET @a=LOAD_FILE('/etc/passwd')",
        "SET @a=1 /*!50003 , GLOBAL x=1*/",
        "SET PERSIST a=1",
    ),
    *("INSERT INTO `o`.`t` VALUES (1)", "INSERT INTO o.t VALUES (1)", "INSERT INTO `t` SELECT 1", "UPDATE t SET a = 1"),
    *("INSERT INTO `t` VALUES (sleep(10))", "INSERT INTO `t` VALUES (1),(load_file('/etc/passwd'))", "TRUNCATE t"),
    *(
        "CREATE TABLE `t` SELECT * FROM mysql.user",
        "CREATE TABLE `t` (a int) AS SELECT 1",
        "CREATE TABLE `t` LIKE `o`.`t`",
    ),
    *("CREATE TABLE `t` (a int) DATA DIRECTORY='/tmp/x'", "CREATE TABLE `t` (a int) ENGINE=CONNECT FILE_NAME='/etc/x'"),
    *("DROP TABLE `a`, `o`.`b`", "DROP TABLE IF EXISTS `o`.`b`", "ALTER TABLE `t` RENAME TO `o`.`t`", "DELETE FROM t"),
    *("CREATE TRIGGER t BEFORE INSERT ON o.x FOR EACH ROW SET @a=1", "CREATE PROCEDURE `o`.`p`() SELECT 1"),
    *(
        "CREATE FUNCTION f RETURNS STRING SONAME 'evil.so'",
        "LOCK TABLES `o`.`t` WRITE",
        "PREPARE s FROM 'x'",
        "FLUSH TABLES",
    ),
    *(
        "\\! touch /tmp/x\n",
        "system touch /tmp/x\n",
        "source /tmp/x\n",
        "SET @a=1 \\C sjis ",
        "SET autocommit=1\\g GRANT",
    ),
    *("/*!50003 GRANT ALL ON *.* TO a */", "/*M!100100 GRANT ALL ON *.* TO a */", "/* x */ GRANT ALL ON *.* TO a"),
    *("#x\nGRANT ALL ON *.* TO a", "SET NAMES sjis", "SET @@GLOBAL.GTID_PURGED='x'", "BEGIN NOT ATOMIC GRANT ALL; END"),
    *("CHANGE MASTER TO MASTER_HOST='x'", "EXECUTE IMMEDIATE 'DROP DATABASE x'", "RENAME TABLE a TO o.a"),
    "SET @a=@@sql_mode;\nSET sql_mode=@b",
    "INSERT INTO `t` VALUES (\"'\"); GRANT ALL ON *.* TO a; -- ')",
    "INSERT INTO `t` VALUES (1) /*'*/; GRANT ALL ON *.* TO a; -- ')",
    "SET sql_mode='NO_BACKSLASH_ESCAPES';\nINSERT INTO `t` VALUES ('\\'); GRANT ALL ON *.* TO a; -- ')",
    "DELIMITER ;;\nCREATE PROCEDURE `p`() SELECT 1; DROP DATABASE x ;;\nDELIMITER ;\nCOMMIT",
    "DELIMITER ;;\nCREATE PROCEDURE `p`() BEGIN SELECT 1; END; GRANT ALL ON *.* TO a ;;\nDELIMITER ;\nCOMMIT",
    "DELIMITER ;;\nCREATE PROCEDURE `p`() BEGIN SELECT 1; END; CALL p(); SELECT 1; END ;;\nDELIMITER ;\nCOMMIT",
    "DELIMITER ;;\nSET autocommit=1; GRANT ALL ON *.* TO a ;;\nDELIMITER ;\nCOMMIT",
    "DELIMITER ;;\nCOMMIT ;; GRANT ALL ON *.* TO a ;;\nDELIMITER ;\nCOMMIT",
)


@pytest.mark.parametrize("statement", HOSTILE)
def test_what_the_program_does_not_write_is_refused(statement: str) -> None:
    with pytest.raises(InvalidDump) as refused:
        looked_at(b"-- MariaDB dump\n" + statement.encode() + b";\n")
    assert refused.value.hint
    if "GTID" in statement:
        assert "--set-gtid-purged=OFF" in refused.value.hint


def taken_in_when_more_was(bench: Workbench, url: str, evil: bytes) -> Artefact:
    """An artefact as it would be had nobody looked at its statements."""
    run = bench.run()
    out = ArtefactWriter(bench.store, f"shop/adopted-{run.token}", Compression.parse("zstd"))
    adopted = bench.engine.adopt(io.BytesIO(dumped(url)), "mysqldump-sql", out, run)
    artefact = bench.published(adopted, out, run, "shop")
    return bench.altered(artefact, bench.script(artefact).replace(b"-- Dump completed", evil + b"\n-- Dump completed"))


def test_what_was_taken_in_before_is_looked_at_again_before_it_is_carried_out(bench: Workbench, fresh: Fresh) -> None:
    url, elsewhere = fresh(), fresh()
    sql(url, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)")
    evil = f"CREATE TABLE `{name_of(elsewhere)}`.`made` (a int);".encode()
    artefact = taken_in_when_more_was(bench, url, evil)
    target = fresh(create=False)
    for attempt in (
        lambda: bench.restore(artefact, target),
        lambda: bench.engine.rehearse(artefact, bench.target(url), bench.run()),
    ):
        with pytest.raises(InvalidDump):
            attempt()
    assert sql(elsewhere, "SHOW TABLES") == []
    assert sql(url, f"SHOW DATABASES LIKE '{name_of(target)}'") == []


def test_defaults_of_the_dumped_database_are_not_touched(bench: Workbench, fresh: Fresh) -> None:
    url = fresh()
    sql(url, "CREATE TABLE t (a int)", "CREATE PROCEDURE p() SELECT 1")
    sql(url, f"ALTER DATABASE `{name_of(url)}` CHARACTER SET latin1")
    run = bench.run()
    out = ArtefactWriter(bench.store, f"shop/adopted-{run.token}", Compression.parse("zstd"))
    script = dumped(url, "--routines")
    adopted: Dump = bench.engine.adopt(
        io.BytesIO(script.replace(b"-- Dump completed", ALTERED % name_of(url).encode())), "mysqldump-sql", out, run
    )
    bench.restore(bench.published(adopted, out, run, "shop"), fresh(create=False))
    assert "latin1" in sql(url, f"SHOW CREATE DATABASE `{name_of(url)}`")[0][1]


ALTERED = b"ALTER DATABASE `%s` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin ;\n-- Dump completed"
QUESTIONS = (
    *("SELECT writes()", "SELECT * FROM t FOR UPDATE", "SELECT NEXTVAL(s)", "SELECT SETVAL(s, 7)", "DROP TABLE t"),
    *("SET GLOBAL max_error_count = 65", "CREATE TABLE made (a int)", "SELECT 1; DROP TABLE t", "TRUNCATE t"),
    *("SELECT 1 INTO OUTFILE '/tmp/flexdb-was-here'", "SELECT 1 INTO @a", "LOCK TABLES t WRITE", "FLUSH TABLES"),
    *("WITH x AS (SELECT 1) DELETE FROM t", "BEGIN NOT ATOMIC DROP TABLE t; END", "EXECUTE IMMEDIATE 'DROP TABLE t'"),
    *("SET STATEMENT max_statement_time=1 FOR DROP TABLE t", "ANALYZE TABLE t", "KILL 1", "GRANT ALL ON *.* TO a"),
    *(
        "HANDLER t OPEN",
        "COMMIT",
        "PREPARE s FROM 'DROP TABLE t'",
        "/*!DROP TABLE t*/",
        "LOAD DATA INFILE 'x' INTO TABLE t",
    ),
)


def test_hostile_questions_change_nothing(bench: Workbench, fresh: Fresh) -> None:
    url = fresh()
    function = "CREATE FUNCTION writes() RETURNS int BEGIN INSERT INTO t VALUES (7); RETURN 1; END"
    sql(url, "CREATE TABLE t (a int)", "CREATE SEQUENCE s", function)
    setting = sql(url, "SELECT @@GLOBAL.max_error_count")
    artefact = bench.back_up(url)
    for question in QUESTIONS:
        with pytest.raises(InvalidAssertion):
            bench.engine.rehearse(artefact, bench.target(url), bench.run(), (Assertion("x", sql=question, equals=1),))
    assert sql(url, "SELECT @@GLOBAL.max_error_count") == setting
    assert sql(url, "SELECT COUNT(*) FROM t") == [(0,)] and not Path("/tmp/flexdb-was-here").exists()


def test_good_questions_are_answered(bench: Workbench, fresh: Fresh) -> None:
    url = fresh()
    sql(url, "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1), (2)")
    good: dict[str, int | str] = {
        "WITH x AS (SELECT a FROM t) SELECT MAX(a) FROM x": 2,
        "SELECT 2 UNION SELECT 1 ORDER BY 1": 1,
        "VALUES (5)": 5,
        "SELECT COUNT(*) FROM t p JOIN t q USING (a);": 2,
        "SELECT 'it''s; DROP' -- INTO": "it's; DROP",
        "(SELECT a FROM t ORDER BY a DESC)": 2,
    }
    asked = tuple(Assertion(question, sql=question, equals=answer) for question, answer in good.items())
    evidence = bench.engine.rehearse(bench.back_up(url), bench.target(url), bench.run(), asked)
    assert sum(item.check == "assertion" and item.ok for item in evidence) == len(good)
