-- Queries of the PostgreSQL engine by name; servers from 13 on understand all of them.

-- name: server
-- Version, size of the database and whether we are superuser.
SELECT current_setting('server_version'),
       current_setting('server_version_num')::int / 10000,
       pg_database_size(current_database()),
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);

-- name: relations
-- Relations a dump may hold; of those that an extension owns only its configuration tables, with their condition.
-- Asking for sizes waits for whoever holds a table exclusively.
SELECT c.oid, n.nspname, c.relname, c.relkind::text,
       CASE WHEN %(sized)s AND c.relkind IN ('r', 'm')
            THEN pg_relation_size(c.oid) + coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0)
            ELSE 0 END,
       ARRAY(SELECT i.inhparent::bigint FROM pg_inherits i WHERE i.inhrelid = c.oid AND c.relispartition),
       (SELECT d.refobjid FROM pg_depend d
         WHERE c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid
           AND d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass LIMIT 1),
       x.extname IS NOT NULL,
       x.condition
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (
        SELECT e.extname, e.extcondition[array_position(e.extconfig, c.oid)] AS condition
          FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
         WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
           AND d.refclassid = 'pg_extension'::regclass) x ON true
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
   AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND (x.extname IS NULL OR x.condition IS NOT NULL)
 ORDER BY n.nspname, c.relname;

-- name: large_object_count
SELECT count(*) FROM pg_largeobject_metadata;

-- name: large_object_bytes
SELECT pg_relation_size('pg_largeobject');

-- name: user_objects
-- A few of the objects that make a database "not empty"; what extensions brought does not count.
WITH of_extension AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e')
SELECT 'relation ' || c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
   AND ('pg_class'::regclass, c.oid) NOT IN (SELECT classid, objid FROM of_extension)
UNION ALL
SELECT 'function ' || p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND ('pg_proc'::regclass, p.oid) NOT IN (SELECT classid, objid FROM of_extension)
UNION ALL
SELECT 'type ' || t.oid::regtype FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND t.typtype IN ('e', 'd', 'r')
   AND ('pg_type'::regclass, t.oid) NOT IN (SELECT classid, objid FROM of_extension)
UNION ALL
SELECT 'schema ' || n.nspname FROM pg_namespace n
 WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
   AND ('pg_namespace'::regclass, n.oid) NOT IN (SELECT classid, objid FROM of_extension)
UNION ALL SELECT 'large object ' || oid FROM pg_largeobject_metadata
UNION ALL SELECT 'publication ' || pubname FROM pg_publication
UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger
UNION ALL SELECT 'foreign server ' || srvname FROM pg_foreign_server
 LIMIT 5;

-- name: roles
-- Roles that own or are granted something in this database; the one initdb made is in no dependency list.
SELECT DISTINCT r.rolname FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
 WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype IN ('o', 'a', 'r')
   AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND r.rolname !~ '^pg_'
UNION SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid >= 16384
UNION SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE oid >= 16384 AND nspname !~ '^pg_'
UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE oid >= 16384
 ORDER BY 1;

-- name: extensions
-- Extensions a dump makes; those that initdb made are in every database.
SELECT extname FROM pg_extension WHERE oid >= 16384 ORDER BY extname;

-- name: unfilled_views
SELECT oid::regclass::text FROM pg_class WHERE relkind = 'm' AND NOT relispopulated ORDER BY 1;

-- name: unreadable
-- Relations that pg_dump would lock or read, and we may not: tables and sequences, or anything of a closed schema.
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY (%(oids)s::oid[]) AND c.relkind IN ('r', 'p', 'S')
   AND NOT (has_schema_privilege(n.oid, 'USAGE')
            AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT')
                               ELSE has_table_privilege(c.oid, 'SELECT') END)
 ORDER BY n.nspname, c.relname;

-- name: guarded
-- Tables whose row security is in force for us.
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY (%(oids)s::oid[]) AND c.relkind IN ('r', 'p') AND row_security_active(c.oid)
 ORDER BY n.nspname, c.relname;

-- name: unreadable_large_objects
-- Large objects we may not read. Later servers let readers of all data read them too: none is then told of.
SELECT oid FROM pg_largeobject_metadata m
 WHERE current_setting('lo_compat_privileges') <> 'on'
   AND current_setting('server_version_num')::int < 190000
   AND NOT pg_has_role(lomowner, 'USAGE')
   AND NOT EXISTS (SELECT FROM aclexplode(m.lomacl) a
                    WHERE a.privilege_type = 'SELECT' AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))
 ORDER BY oid LIMIT 20;

-- name: held_exclusively
-- Tables that somebody else (pid NULL: a prepared transaction) holds so that not even readers get in.
SELECT DISTINCT l.relation::regclass::text, l.pid FROM pg_locks l
 WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.granted
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.relation = ANY (%(oids)s::oid[]) AND l.pid IS DISTINCT FROM pg_backend_pid();

-- name: may_make
-- Whether we may make databases, and act as the owner of the one named (NULL: there is none).
SELECT rolcreatedb OR rolsuper,
       (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = %s)
  FROM pg_roles WHERE rolname = current_user;

-- name: may_create
SELECT has_database_privilege(current_database(), 'CREATE');

-- name: available
-- Which of the given extensions this server has, and whether only superusers may make them.
SELECT name, bool_and(superuser), bool_or(trusted) FROM pg_available_extension_versions
 WHERE name = ANY (%s::name[]) GROUP BY name;

-- name: missing_roles
-- Which of the given roles do not exist here.
SELECT name FROM unnest(%s::text[]) AS wanted (name)
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) ORDER BY 1;

-- name: roles_we_cannot_act_for
-- Which of the given, existing roles we may not give objects to.
SELECT name FROM unnest(%s::text[]) AS wanted (name) WHERE NOT pg_has_role(current_user, name, 'MEMBER') ORDER BY 1;

-- name: locale
-- How a database was made: encoding, collation, character class, provider, its locale. Later servers renamed a column.
SELECT pg_encoding_to_char(encoding), datcollate, datctype,
       coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'),
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale')
  FROM pg_database d WHERE datname = current_database();

-- name: databases
-- What can be connected to and is no template; a limit of -2 marks one that was dropped halfway.
SELECT datname FROM pg_database
 WHERE datallowconn AND NOT datistemplate AND datconnlimit <> -2 ORDER BY datname;

-- name: database_exists
SELECT EXISTS (SELECT FROM pg_database WHERE datname = %s);

-- name: database_comment
SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s;

-- name: database_properties
-- What belongs to a database itself and is in no dump: owner, connection limit, comment, grants, settings.
SELECT pg_get_userbyid(d.datdba), d.datconnlimit, shobj_description(d.oid, 'pg_database'),
       (SELECT coalesce(json_agg(json_build_array(
                   CASE a.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END, a.privilege_type, a.is_grantable)), '[]')
          FROM aclexplode(d.datacl) a WHERE a.grantee <> d.datdba),
       d.datacl IS NOT NULL,
       (SELECT coalesce(json_agg(json_build_array(
                   CASE s.setrole WHEN 0 THEN NULL ELSE pg_get_userbyid(s.setrole) END, s.setconfig)), '[]')
          FROM pg_db_role_setting s WHERE s.setdatabase = d.oid)
  FROM pg_database d WHERE datname = %s;

-- name: sessions_named
-- Sessions whose application name begins so, ours excepted.
SELECT pid, application_name FROM pg_stat_activity
 WHERE starts_with(application_name, %s) AND pid <> pg_backend_pid();

-- name: end_session
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND application_name = %s;

-- name: end_sessions_on
-- End every other session on a database.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid();

-- name: ours
-- Databases FlexDB made for a job, with their comments.
SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database
 WHERE datname ~ '^flexdb_(scratch|new|old)_' ORDER BY datname;

-- name: tables
-- Relations with an estimate of their rows (-1: never analysed), their sizes, and whether we may read them.
SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.reltuples::bigint, pg_total_relation_size(c.oid),
       pg_relation_size(c.oid), has_table_privilege(c.oid, 'SELECT') AND NOT c.relrowsecurity
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'm', 'f', 'v') AND c.relpersistence <> 't'
   AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY n.nspname, c.relname;

-- name: structure
-- The structure of all user relations as text lines, in an order of their own; rows and sizes play no part.
-- NOT NULL is told per column: from 18 on it is a constraint too, and would make versions differ.
SELECT line FROM (
SELECT concat_ws(' ', 'column', c.oid::regclass, c.relkind, quote_ident(a.attname), format_type(a.atttypid, a.atttypmod),
                 a.attnotnull, a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid)) AS line
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
UNION ALL
SELECT concat_ws(' ', 'relation', c.oid::regclass, c.relkind, CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
                 pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
UNION ALL
SELECT concat_ws(' ', 'index', pg_get_indexdef(i.indexrelid))
  FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
UNION ALL
SELECT concat_ws(' ', 'constraint', k.conrelid::regclass, quote_ident(k.conname), pg_get_constraintdef(k.oid))
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype <> 'n' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
UNION ALL
SELECT concat_ws(' ', 'function', p.oid::regprocedure, md5(pg_get_functiondef(p.oid)))
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE p.prokind IN ('f', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
) all_lines ORDER BY line COLLATE "C";
