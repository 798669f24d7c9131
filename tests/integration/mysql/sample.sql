-- One of everything; statements are kept apart by empty lines.

CREATE TABLE customers (id bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, name varchar(80) NOT NULL, mood enum('ok','b,(ad') DEFAULT 'ok', tags set('a','b') DEFAULT NULL, zip int(6) zerofill, KEY by_name (name)) AUTO_INCREMENT=100

INSERT INTO customers (name, zip) SELECT CONCAT('name ', seq, ' it''s'), seq FROM seq_1_to_500

INSERT INTO customers VALUES (18446744073709551614, 'last', 'b,(ad', 'a,b', 42)

CREATE TABLE `odd ``name``; -- 'q' "d" ü
,(` (id int PRIMARY KEY, `sel``ect` text, customer bigint unsigned, CONSTRAINT to_customer FOREIGN KEY (customer) REFERENCES customers (id) ON DELETE CASCADE)

INSERT INTO `odd ``name``; -- 'q' "d" ü
,(` VALUES (1, 'a\nb'';\n(1),\n(2\\', 100), (2, '\\''),(', 101), (3, NULL, NULL)

CREATE TABLE `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx_end` (a int)

INSERT INTO `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx_end` VALUES (1)

CREATE TABLE kinds (id int PRIMARY KEY, b blob, bits bit(17), d date, dt datetime(6), ts timestamp NULL, dec_ decimal(30,10), f double, j json, g point, y year, t time(3), u tinyint unsigned, bin binary(4), emoji varchar(20) CHARACTER SET utf8mb4, latin varchar(20) CHARACTER SET latin1, sum_ int GENERATED ALWAYS AS (id + 1) STORED, virt int GENERATED ALWAYS AS (id * 2) VIRTUAL)

SET SESSION sql_mode = ''

INSERT INTO kinds (id, b, bits, d, dt, ts, dec_, f, j, g, y, t, u, bin, emoji, latin) VALUES (1, x'00FF275C0A0D1A', b'10101010101010101', '0000-00-00', '2024-02-29 12:34:56.789012', '2024-01-01 00:00:00', 12345678901234567890.0123456789, 1.5e300, '{"a": [1, "x\\"y"]}', ST_GeomFromText('POINT(1 2)'), 1999, '-12:00:00.5', 255, x'00010203', '😀 ü', 'é'), (2, '', NULL, NULL, '0000-00-00 00:00:00', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '', '')

SET SESSION sql_mode = DEFAULT

CREATE TABLE events_by_year (at date NOT NULL, v int) PARTITION BY RANGE (YEAR(at)) (PARTITION p2025 VALUES LESS THAN (2026), PARTITION rest VALUES LESS THAN MAXVALUE)

INSERT INTO events_by_year SELECT '2025-01-01' + INTERVAL seq DAY, seq FROM seq_0_to_699

CREATE TABLE circle_a (id int PRIMARY KEY, b int)

CREATE TABLE circle_b (id int PRIMARY KEY, a int, CONSTRAINT to_a FOREIGN KEY (a) REFERENCES circle_a (id))

ALTER TABLE circle_a ADD CONSTRAINT to_b FOREIGN KEY (b) REFERENCES circle_b (id)

INSERT INTO circle_a VALUES (1, NULL)

INSERT INTO circle_b VALUES (1, 1)

UPDATE circle_a SET b = 1

CREATE TABLE nothing_in_it (a int, b text, FULLTEXT (b))

CREATE TABLE stored_plainly (a int) ENGINE=MyISAM

INSERT INTO stored_plainly VALUES (1), (2)

CREATE TABLE log (id int AUTO_INCREMENT PRIMARY KEY, line text)

CREATE FUNCTION twice(n int) RETURNS int DETERMINISTIC RETURN n * 2

CREATE VIEW the_view AS SELECT id, name, twice(zip) AS z FROM customers

CREATE VIEW a_later_view AS SELECT * FROM the_view WHERE id > 100

CREATE TRIGGER after_customer AFTER INSERT ON customers FOR EACH ROW BEGIN INSERT INTO log (line) VALUES (CONCAT('new ', NEW.name)); END

CREATE PROCEDURE fill(IN n int) COMMENT 'a ; b' BEGIN DECLARE i int DEFAULT 0;
WHILE i < n DO
INSERT INTO `log` (line) VALUES
('(1),(2);
');
SET i = i + 1; END WHILE; END

CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 00:00:00' COMMENT 'PRESERVE ENABLE' DO DELETE FROM log WHERE id < 0

CREATE EVENT off ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 00:00:00' DISABLE DO SELECT 1

CREATE SEQUENCE numbers START WITH 42 INCREMENT BY 3

SELECT NEXTVAL(numbers)

CREATE TABLE numbered (id bigint DEFAULT NEXTVAL(numbers), v int)

INSERT INTO numbered (v) VALUES (1)

CREATE TABLE versioned (id int PRIMARY KEY, v int) WITH SYSTEM VERSIONING

INSERT INTO versioned VALUES (1, 1), (2, 2)

UPDATE versioned SET v = 3 WHERE id = 1
