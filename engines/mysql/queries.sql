-- Everything this engine asks of a server's catalogue. `%s` is a value; each query is named.

-- name: server
-- Version, encryption of this very session, longest statement, size of tables and indexes of a database.
SELECT VERSION(), @@GLOBAL.max_allowed_packet, @@GLOBAL.lower_case_table_names,
       (SELECT COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables WHERE table_schema = %s);

-- name: database
-- Character set and collation of a database; no row for one that does not exist.
SELECT default_character_set_name, default_collation_name FROM information_schema.schemata
 WHERE schema_name = %s;

-- name: comment
-- The comment of a database; MariaDB has them from 10.5 on.
SELECT schema_comment FROM information_schema.schemata WHERE schema_name = %s;

-- name: databases
-- Every database that is not the server's own.
SELECT schema_name FROM information_schema.schemata
 WHERE LOWER(schema_name) NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys')
 ORDER BY schema_name;

-- name: files
-- Size of the files in a database's folder; the table is named by the caller, it differs between makers.
SELECT COALESCE(SUM(file_size), 0) FROM information_schema.TABLESPACES WHERE LEFT(name, CHAR_LENGTH(%s)) = %s;

-- name: tables
-- Everything that is selected from: name, type, engine, estimated rows, bytes of rows, bytes in all.
SELECT table_name, table_type, engine, table_rows, COALESCE(data_length, 0),
       COALESCE(data_length, 0) + COALESCE(index_length, 0)
  FROM information_schema.tables WHERE table_schema = %s ORDER BY table_name;

-- name: code
-- Kind and name of triggers, routines and events. A trigger is in the database of its table; only asked by that one does
-- MariaDB look at one database, and not at all of them, waiting for whoever holds a table there. Compared by bytes where names of databases may differ in case only:
-- the catalogue itself takes such names for the same.
SELECT 'trigger', trigger_name FROM information_schema.triggers WHERE event_object_schema = %s AND (@@lower_case_table_names <> 0 OR BINARY trigger_schema = %s)
UNION ALL
SELECT LOWER(routine_type), routine_name FROM information_schema.routines WHERE routine_schema = %s AND (@@lower_case_table_names <> 0 OR BINARY routine_schema = %s)
UNION ALL
SELECT 'event', event_name FROM information_schema.events WHERE event_schema = %s AND (@@lower_case_table_names <> 0 OR BINARY event_schema = %s);

-- name: foreign_references
-- A table of another database whose foreign key points into this one.
SELECT constraint_schema, table_name FROM information_schema.referential_constraints
 WHERE unique_constraint_schema = %s AND constraint_schema <> %s LIMIT 1;

-- name: sequence_defaults
-- Columns whose default takes from a sequence: the database's name stands in the text.
SELECT table_name, column_name, column_default FROM information_schema.columns
 WHERE table_schema = %s AND (column_default LIKE '%%nextval(%%' OR column_default LIKE '%%lastval(%%');

-- name: sessions_on
-- Sessions that are on a database, but for this one.
SELECT id FROM information_schema.processlist WHERE db = %s AND id <> CONNECTION_ID();

-- name: session_of_ours
-- Whether a session of this user with that number is on one of three databases: numbers begin anew with the server.
SELECT id FROM information_schema.processlist
 WHERE id = %s AND id <> CONNECTION_ID() AND user = SUBSTRING_INDEX(USER(), '@', 1) AND db IN (%s, %s, %s);

-- name: structure_columns
SELECT table_name, ordinal_position, column_name, column_type, is_nullable, column_default, extra, collation_name,
       column_comment
  FROM information_schema.columns WHERE table_schema = %s;

-- name: structure_tables
SELECT table_name, table_type, engine, table_collation FROM information_schema.tables WHERE table_schema = %s;

-- name: structure_indexes
SELECT table_name, index_name, seq_in_index, column_name, non_unique, index_type, sub_part
  FROM information_schema.statistics WHERE table_schema = %s;

-- name: structure_keys
SELECT table_name, constraint_name, ordinal_position, column_name, referenced_table_name, referenced_column_name
  FROM information_schema.key_column_usage WHERE table_schema = %s;

-- name: structure_rules
SELECT table_name, constraint_name, update_rule, delete_rule, referenced_table_name
  FROM information_schema.referential_constraints WHERE constraint_schema = %s;

-- name: structure_partitions
SELECT table_name, partition_name, partition_method, partition_expression, partition_description
  FROM information_schema.partitions WHERE table_schema = %s AND partition_name IS NOT NULL;

-- name: structure_triggers
SELECT trigger_name, event_object_table, action_timing, event_manipulation, action_order, action_statement
  FROM information_schema.triggers WHERE event_object_schema = %s;

-- name: structure_routines
SELECT routine_type, routine_name, dtd_identifier, routine_definition
  FROM information_schema.routines WHERE routine_schema = %s;

-- name: structure_events
SELECT event_name, event_type, interval_value, interval_field, event_definition
  FROM information_schema.events WHERE event_schema = %s;

-- name: structure_views
SELECT table_name, view_definition, security_type FROM information_schema.views WHERE table_schema = %s;
