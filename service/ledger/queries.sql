-- Every statement the ledger runs, by name, written for SQLite. Values are parameters.
-- Those with `?` take many rows at once: the VALUES group is repeated.
-- INDEXED BY stands where SQLite's planner, which keeps no statistics here, would walk through every queued job.
-- A comment `lock` or `skip locked` is where PostgreSQL locks the rows: other processes change them too.

-- ================================================================ intake

-- name: record_events
-- Events seen for the first time; one that is there already is passed over.
INSERT INTO events (source, event_id, digest, job_id) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING

-- name: record_jobs
-- New jobs, queued.
INSERT INTO jobs (
    job_id, source, event_id, operation, connection, data, join_digest, claims, claim_count, lane, max_attempts,
    created_at, due_at, deadline_seconds, deadline_at, expires_at, retry_of, retry_root
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: record_acceptances
-- The first history row of new jobs.
INSERT INTO history (job_id, seq, at, from_status, to_status, attempt, token) VALUES (?, 1, ?, NULL, 'queued', 0, 0)

-- name: record_callbacks
-- Where terminal events go; each URL once per job.
INSERT INTO callbacks (job_id, url) VALUES (?, ?) ON CONFLICT DO NOTHING

-- name: record_joined_events
-- Events that are answered by a job of another event.
INSERT INTO events (source, event_id, digest, job_id, joined) VALUES (?, ?, ?, ?, 1) ON CONFLICT DO NOTHING

-- name: find_event
-- What became of an event. No status: it was recorded a moment ago, its job comes next.
SELECT events.digest, events.job_id, events.joined, jobs.status
FROM events LEFT JOIN jobs ON jobs.job_id = events.job_id
WHERE events.source = :source AND events.event_id = :event_id

-- name: joinable_job
-- The oldest open job that asks for the same; one that is about to be canceled is left alone.
SELECT job_id, status FROM jobs
WHERE join_digest = :join_digest AND status IN ('queued', 'running') AND ended_at IS NULL AND cancel_requested = 0
ORDER BY seq LIMIT 1 /* lock */

-- name: excluding_job
-- An open job that holds, or waits for, what a claim excludes: the holder first, then its lane, then
-- the few queued jobs that want more than one key.
SELECT job_id FROM claims WHERE key = :key AND (mode = 'exclusive' OR :mode = 'exclusive')
UNION ALL
SELECT job_id FROM jobs INDEXED BY jobs_waiting WHERE status = 'queued' AND lane = 'x' || :key
UNION ALL
SELECT job_id FROM jobs INDEXED BY jobs_waiting
WHERE status = 'queued' AND lane = 's' || :key AND :mode = 'exclusive'
UNION ALL
SELECT jobs.job_id FROM jobs INDEXED BY jobs_with_further_claims, json_each(jobs.claims) AS wanted
WHERE jobs.status = 'queued' AND jobs.claim_count > 1 AND wanted.key = :key
    AND (wanted.value = 'exclusive' OR :mode = 'exclusive')
LIMIT 1

-- name: count_open_jobs
-- How many jobs count against the queue limit, and to which exchange events go.
SELECT count(*) AS open_jobs, (SELECT value FROM agreements WHERE name = 'exchange') AS exchange
FROM jobs WHERE status IN ('queued', 'running')

-- name: agreement
-- What all processes on the ledger go by.
SELECT value FROM agreements WHERE name = :name

-- name: agree
-- From now on all go by this.
INSERT INTO agreements (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value

-- name: disagree
-- Nobody goes by it any more.
DELETE FROM agreements WHERE name = :name

-- ================================================================ life of a job

-- name: claimable_jobs
-- Due jobs whose claims are free, oldest first; at most :limit of each lane, so that ten thousand
-- jobs behind one busy target cost one look at that target.
WITH RECURSIVE lanes (lane) AS (
    SELECT min(lane) FROM jobs INDEXED BY jobs_waiting WHERE status = 'queued'
    UNION ALL
    SELECT (SELECT min(waiting.lane) FROM jobs AS waiting INDEXED BY jobs_waiting
        WHERE waiting.status = 'queued' AND waiting.lane > lanes.lane)
    FROM lanes WHERE lanes.lane IS NOT NULL
),
free_lanes (lane) AS (
    SELECT lanes.lane FROM lanes
    WHERE lanes.lane IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM claims
        WHERE claims.key = substr(lanes.lane, 2)
            AND (claims.mode = 'exclusive' OR substr(lanes.lane, 1, 1) = 'x')
    )
)
SELECT jobs.job_id, jobs.claim_count, jobs.claims FROM free_lanes JOIN jobs ON jobs.seq IN (
    SELECT waiting.seq FROM jobs AS waiting INDEXED BY jobs_waiting
    WHERE waiting.status = 'queued' AND waiting.lane = free_lanes.lane AND waiting.due_at <= :now
        AND (waiting.deadline_at IS NULL OR waiting.deadline_at > :now)
        AND (waiting.expires_at IS NULL OR waiting.expires_at > :now OR waiting.started_at IS NOT NULL)
        AND (waiting.claim_count < 2 OR NOT EXISTS (
            SELECT 1 FROM json_each(waiting.claims) AS wanted
            JOIN claims ON claims.key = wanted.key
            WHERE claims.mode = 'exclusive' OR wanted.value = 'exclusive'
        ))
    ORDER BY waiting.seq LIMIT :limit
)
ORDER BY jobs.seq

-- name: claim_conflict
-- Whether another job holds what a queued job wants.
SELECT 1 FROM jobs, json_each(jobs.claims) AS wanted JOIN claims ON claims.key = wanted.key
WHERE jobs.job_id = :job_id AND (claims.mode = 'exclusive' OR wanted.value = 'exclusive')
LIMIT 1

-- name: next_tokens
-- The last of so many fencing tokens, each greater than any before.
UPDATE counters SET value = value + :number WHERE name = 'fencing_token' RETURNING value

-- name: start_jobs
-- Queued jobs, claimed by a worker, tokens as JSON {job: token}; not `counted`: only on their way to an end.
UPDATE jobs INDEXED BY sqlite_autoindex_jobs_1 SET status = 'running', attempts = attempts + :counted,
    fencing_token = CAST(taken.value AS BIGINT), worker_id = :worker_id, lease_until = :lease_until,
    moves = moves + 1,
    started_at = CASE WHEN :counted > 0 THEN coalesce(started_at, :now) ELSE started_at END
FROM json_each(:tokens) AS taken
WHERE jobs.job_id = taken.key AND jobs.status = 'queued'
RETURNING *

-- name: take_claims
-- All claims of a job at once.
INSERT INTO claims (key, mode, job_id, fencing_token)
SELECT wanted.key, wanted.value, jobs.job_id, :token
FROM jobs, json_each(jobs.claims) AS wanted WHERE jobs.job_id = :job_id

-- name: hold
-- A shared claim beside those a job has; a claim it has on the key already stays as it is.
INSERT INTO claims (key, mode, job_id, fencing_token)
SELECT :key, 'shared', :job_id, :token
WHERE NOT EXISTS (SELECT 1 FROM claims WHERE key = :key AND job_id <> :job_id AND mode = 'exclusive')
ON CONFLICT (key, job_id) DO NOTHING

-- name: claim_of_job
-- Whether a job has a claim on a key.
SELECT 1 FROM claims WHERE key = :key AND job_id = :job_id

-- name: running_job
-- A job whose lease is held by this token.
SELECT * FROM jobs WHERE job_id = :job_id AND fencing_token = :token AND status = 'running' /* lock */

-- name: renew
-- Leases, as JSON {job: token}, extended.
UPDATE jobs INDEXED BY sqlite_autoindex_jobs_1 SET lease_until = :lease_until FROM json_each(:leases) AS held
WHERE jobs.job_id = held.key AND jobs.fencing_token = CAST(held.value AS BIGINT) AND jobs.worker_id = :worker_id
    AND jobs.status = 'running'
RETURNING *

-- name: finish_jobs
-- Running jobs, ended by the holders of their tokens; no row back means that the lease is gone.
UPDATE jobs INDEXED BY sqlite_autoindex_jobs_1 SET status = ended.status, ended_at = :now, result = ended.result,
    error = ended.error, crashes = crashes + ended.crashed, worker_id = NULL, lease_until = NULL, moves = moves + 1
FROM (
    SELECT json_extract(value, '$.job_id') AS job_id, json_extract(value, '$.token') AS token,
        json_extract(value, '$.status') AS status, json_extract(value, '$.result') AS result,
        json_extract(value, '$.error') AS error, json_extract(value, '$.crashed') AS crashed
    FROM json_each(:ends)
) AS ended
WHERE jobs.job_id = ended.job_id AND jobs.fencing_token = ended.token AND jobs.status = 'running'
RETURNING *

-- name: requeue_job
-- A running job, back in the queue. `undone` is 1 when the attempt shall count as never made.
UPDATE jobs SET status = 'queued', due_at = :due_at, attempts = attempts - :undone, crashes = crashes + :crashed,
    error = coalesce(:error, error), worker_id = NULL, lease_until = NULL, moves = moves + 1,
    started_at = CASE WHEN attempts - :undone > 0 THEN started_at END
WHERE job_id = :job_id AND fencing_token = :token AND status = 'running'
RETURNING *

-- name: cancel_queued_job
-- A queued job, canceled.
UPDATE jobs SET status = 'canceled', ended_at = :now, error = :error, moves = moves + 1
WHERE job_id = :job_id AND status = 'queued'
RETURNING *

-- name: request_cancel
-- The wish to cancel, noted on a running job.
UPDATE jobs SET cancel_requested = 1 WHERE job_id = :job_id AND status = 'running'

-- name: free_claims
-- What jobs held, as a JSON array of their ids.
DELETE FROM claims WHERE job_id IN (SELECT value FROM json_each(:job_ids))

-- name: record_transitions
-- More history rows of jobs.
INSERT INTO history (job_id, seq, at, from_status, to_status, attempt, token, event_id, event_type, event)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: job_status
-- Where a job stands.
SELECT status FROM jobs WHERE job_id = :job_id /* lock */

-- name: terminal_event
-- The event that ended a job.
SELECT event_id, event_type, event FROM history
WHERE job_id = :job_id AND to_status IN ('succeeded', 'failed', 'canceled')

-- name: lost_leases
-- Running jobs whose worker went silent.
SELECT job_id FROM jobs INDEXED BY jobs_lease
WHERE status = 'running' AND lease_until <= :now ORDER BY lease_until LIMIT :limit

-- name: lost_lease
-- One of them, unless another process is at it.
SELECT job_id, fencing_token, cancel_requested, crashes FROM jobs
WHERE job_id = :job_id AND status = 'running' AND lease_until <= :now /* skip locked */

-- name: all_leases
-- Running jobs, whoever has them: at the start of the only process they are a dead one's.
SELECT job_id, fencing_token, cancel_requested, crashes FROM jobs WHERE status = 'running' ORDER BY seq

-- name: overdue_jobs
-- Queued jobs whose deadline has passed.
SELECT job_id FROM jobs INDEXED BY jobs_deadline
WHERE status = 'queued' AND deadline_at IS NOT NULL AND deadline_at <= :now ORDER BY deadline_at LIMIT :limit

-- name: overdue_job
-- One of them, unless another process is at it.
SELECT job_id FROM jobs WHERE job_id = :job_id AND status = 'queued' AND deadline_at <= :now /* skip locked */

-- name: expired_jobs
-- Queued jobs that were not started by the time their event named.
SELECT job_id FROM jobs INDEXED BY jobs_expiry
WHERE status = 'queued' AND expires_at IS NOT NULL AND started_at IS NULL AND expires_at <= :now
ORDER BY expires_at LIMIT :limit

-- name: expired_job
-- One of them, unless another process is at it.
SELECT job_id FROM jobs
WHERE job_id = :job_id AND status = 'queued' AND started_at IS NULL AND expires_at <= :now /* skip locked */

-- name: next_retry
-- When the first job that waits for its time is due.
SELECT min(due_at) AS moment FROM jobs INDEXED BY jobs_delayed
WHERE status = 'queued' AND due_at > created_at AND due_at > :now

-- name: next_ending
-- When the first deadline, expiry or lease runs out.
SELECT min(moment) AS moment FROM (
    SELECT min(deadline_at) AS moment FROM jobs INDEXED BY jobs_deadline
    WHERE status = 'queued' AND deadline_at IS NOT NULL
    UNION ALL
    SELECT min(expires_at) FROM jobs INDEXED BY jobs_expiry
    WHERE status = 'queued' AND expires_at IS NOT NULL AND started_at IS NULL
    UNION ALL
    SELECT min(lease_until) FROM jobs INDEXED BY jobs_lease WHERE status = 'running'
) AS endings

-- ================================================================ what callers ask

-- name: job
-- One job.
SELECT * FROM jobs WHERE job_id = :job_id

-- name: jobs
-- A page of jobs, newest first; what was asked and what came of it only up to :longest characters.
SELECT seq, job_id, source, event_id, operation, connection, status, attempts, crashes, max_attempts, created_at, due_at,
    started_at, ended_at, deadline_at, expires_at, cancel_requested, fencing_token, error, retry_of,
    CASE WHEN length(data) > :longest THEN '{}' ELSE data END AS data,
    CASE WHEN length(result) > :longest THEN NULL ELSE result END AS result,
    coalesce(length(result), 0) > :longest AS result_omitted
FROM jobs
WHERE (:operation IS NULL OR operation = :operation) AND seq < :before
ORDER BY seq DESC LIMIT :limit

-- name: jobs_by_status
-- A page of jobs in one status, newest first.
SELECT seq, job_id, source, event_id, operation, connection, status, attempts, crashes, max_attempts, created_at, due_at,
    started_at, ended_at, deadline_at, expires_at, cancel_requested, fencing_token, error, retry_of,
    CASE WHEN length(data) > :longest THEN '{}' ELSE data END AS data,
    CASE WHEN length(result) > :longest THEN NULL ELSE result END AS result,
    coalesce(length(result), 0) > :longest AS result_omitted
FROM jobs
WHERE status = :status AND (:operation IS NULL OR operation = :operation) AND seq < :before
ORDER BY seq DESC LIMIT :limit

-- name: jobs_by_connection
-- A page of jobs of one connection, newest first.
SELECT seq, job_id, source, event_id, operation, connection, status, attempts, crashes, max_attempts, created_at, due_at,
    started_at, ended_at, deadline_at, expires_at, cancel_requested, fencing_token, error, retry_of,
    CASE WHEN length(data) > :longest THEN '{}' ELSE data END AS data,
    CASE WHEN length(result) > :longest THEN NULL ELSE result END AS result,
    coalesce(length(result), 0) > :longest AS result_omitted
FROM jobs
WHERE connection = :connection AND (:status IS NULL OR status = :status)
    AND (:operation IS NULL OR operation = :operation) AND seq < :before
ORDER BY seq DESC LIMIT :limit

-- name: live_jobs
-- Ids of all jobs that have not ended.
SELECT job_id FROM jobs WHERE status IN ('queued', 'running')

-- name: known_jobs
-- Those of a JSON array of ids that have a row.
SELECT jobs.job_id FROM json_each(:job_ids) AS asked JOIN jobs ON jobs.job_id = asked.value

-- name: history
-- A job's transitions after a point.
SELECT * FROM history WHERE job_id = :job_id AND seq > :after_seq ORDER BY seq

-- name: counts
-- How many jobs are in each status.
SELECT status, count(*) AS jobs FROM jobs GROUP BY status

-- name: copy_callbacks
-- A retry answers to all who waited for the first.
INSERT INTO callbacks (job_id, url) SELECT :new_job_id, url FROM callbacks WHERE job_id = :job_id

-- ================================================================ deliveries

-- name: callbacks
-- Where the terminal events of jobs go, as a JSON array of their ids.
SELECT job_id, url FROM callbacks WHERE job_id IN (SELECT value FROM json_each(:job_ids))

-- name: record_deliveries
-- Events, each for one destination.
INSERT INTO deliveries (
    delivery_id, job_id, event_id, event_type, transport, kind, destination, url, host, body, created_at, due_at
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: take_deliveries
-- Due deliveries in turn over the hosts, each host's oldest first and no more than it has room for.
WITH RECURSIVE hosts (host) AS (
    SELECT min(host) FROM deliveries INDEXED BY deliveries_by_host WHERE status = 'pending' AND transport = 'http'
    UNION ALL
    SELECT (SELECT min(waiting.host) FROM deliveries AS waiting INDEXED BY deliveries_by_host
        WHERE waiting.status = 'pending' AND waiting.transport = 'http' AND waiting.host > hosts.host)
    FROM hosts WHERE hosts.host IS NOT NULL
),
rooms (host, room) AS (
    SELECT hosts.host, :per_host - coalesce(busy.value, 0)
    FROM hosts LEFT JOIN json_each(:busy_hosts) AS busy ON busy.key = hosts.host
    WHERE hosts.host IS NOT NULL
),
ranked AS (
    SELECT deliveries.seq, deliveries.due_at, rooms.room,
        row_number() OVER (PARTITION BY deliveries.host ORDER BY deliveries.due_at, deliveries.seq) AS turn
    FROM rooms JOIN deliveries ON deliveries.seq IN (
        SELECT waiting.seq FROM deliveries AS waiting INDEXED BY deliveries_by_host
        WHERE waiting.status = 'pending' AND waiting.transport = 'http' AND waiting.host = rooms.host
            AND waiting.due_at <= :now AND rooms.room > 0
        ORDER BY waiting.due_at, waiting.seq LIMIT :per_host
    )
)
SELECT seq FROM ranked WHERE turn <= room ORDER BY turn, due_at, seq LIMIT :limit

-- name: take_messages
-- Due deliveries by RabbitMQ, oldest first.
SELECT seq FROM deliveries WHERE status = 'pending' AND transport = 'amqp' AND due_at <= :now
ORDER BY due_at, seq LIMIT :limit /* skip locked */

-- name: lease_deliveries
-- Deliveries, as a JSON array of their numbers, hidden until their lease runs out.
UPDATE deliveries SET due_at = :due_at, leased = 1
WHERE seq IN (SELECT CAST(value AS BIGINT) FROM json_each(:seqs)) AND status = 'pending' AND due_at <= :now
RETURNING *

-- name: release_deliveries
-- What a dead process had taken is due again.
UPDATE deliveries SET due_at = :now, leased = 0 WHERE leased = 1 AND status = 'pending'

-- name: next_delivery_due
-- When the first pending delivery of a transport is due.
SELECT min(due_at) AS due_at FROM deliveries WHERE status = 'pending' AND transport = :transport

-- name: settle_deliveries
-- What attempts came to; no row back means that it was settled meanwhile.
UPDATE deliveries SET status = settled.status, attempts = attempts + 1, tries = tries + 1, due_at = settled.due_at,
    leased = 0, delivered_at = settled.delivered_at, last_error = settled.error
FROM (
    SELECT json_extract(value, '$.delivery_id') AS delivery_id, json_extract(value, '$.status') AS status,
        json_extract(value, '$.due_at') AS due_at, json_extract(value, '$.delivered_at') AS delivered_at,
        json_extract(value, '$.error') AS error
    FROM json_each(:settlements)
) AS settled
WHERE deliveries.delivery_id = settled.delivery_id AND deliveries.status = 'pending'
RETURNING seq, tries, deliveries.delivery_id

-- name: record_attempts
-- Lines of deliveries' logs.
INSERT INTO delivery_attempts (delivery_seq, number, at, http_status, error, milliseconds) VALUES (?, ?, ?, ?, ?, ?)

-- name: deliveries
-- A page of deliveries, newest first, those of `.started` among them or not.
SELECT * FROM deliveries
WHERE (:status IS NULL OR status = :status) AND seq < :before
    AND (:started = 1 OR replace(event_type, '.started', '') = event_type)
ORDER BY seq DESC LIMIT :limit

-- name: deliveries_of_job
-- A page of one job's deliveries, newest first.
SELECT * FROM deliveries
WHERE job_id = :job_id AND (:status IS NULL OR status = :status) AND seq < :before
    AND (:started = 1 OR replace(event_type, '.started', '') = event_type)
ORDER BY seq DESC LIMIT :limit

-- name: attempts_of
-- The logs of the deliveries in a JSON array of their numbers.
SELECT * FROM delivery_attempts WHERE delivery_seq IN (SELECT CAST(value AS BIGINT) FROM json_each(:seqs))
ORDER BY delivery_seq, number

-- name: job_of_delivery
-- The job of a delivery, kept from being swept meanwhile.
SELECT job_id FROM jobs
WHERE job_id = (SELECT job_id FROM deliveries WHERE delivery_id = :delivery_id) /* lock */

-- name: redeliver
-- A delivery, to be sent again from the beginning.
UPDATE deliveries SET status = 'pending', due_at = :now, leased = 0, attempts = 0, delivered_at = NULL
WHERE delivery_id = :delivery_id
RETURNING *

-- name: pending_deliveries
-- How many deliveries are on their way by each transport.
SELECT transport, count(*) AS pending FROM deliveries WHERE status = 'pending' GROUP BY transport

-- ================================================================ subscriptions

-- name: subscriptions
-- All of them, by name.
SELECT * FROM subscriptions ORDER BY name

-- name: subscription
-- One of them.
SELECT * FROM subscriptions WHERE name = :name

-- name: put_subscription
-- A subscription, made or replaced.
INSERT INTO subscriptions (name, url, types, created_at) VALUES (:name, :url, :types, :now)
ON CONFLICT (name) DO UPDATE SET url = excluded.url, types = excluded.types

-- name: delete_subscription
-- A subscription, gone; what is on its way to it still goes out.
DELETE FROM subscriptions WHERE name = :name

-- ================================================================ catalogue

-- name: backup
-- One backup.
SELECT * FROM backups WHERE backup_id = :backup_id

-- name: backups
-- A page of backups, newest first.
SELECT * FROM backups
WHERE (:connection IS NULL OR connection = :connection)
    AND level >= :min_level AND listed >= :listed AND damaged <= :damaged
    AND (:labels = '{}' OR NOT EXISTS (
        SELECT 1 FROM json_each(:labels) AS wanted
        WHERE NOT EXISTS (
            SELECT 1 FROM json_each(backups.labels) AS has WHERE has.key = wanted.key AND has.value = wanted.value
        )
    ))
    AND (ended_at, backup_id) < (:before, :before_id)
ORDER BY ended_at DESC, backup_id DESC LIMIT :limit

-- name: publish_backup
-- A backup enters the catalogue; one that was adopted unlisted is listed now.
INSERT INTO backups (backup_id, connection, ended_at, labels, manifest, store, folder, level, damaged, listed)
VALUES (:backup_id, :connection, :ended_at, :labels, :manifest, :store, :folder, :level, :damaged, :listed)
ON CONFLICT (backup_id) DO UPDATE SET
    manifest = excluded.manifest, store = excluded.store, folder = excluded.folder, labels = excluded.labels,
    level = excluded.level, damaged = excluded.damaged, listed = excluded.listed

-- name: adopt_backup
-- A backup found in storage, unless the catalogue has it.
INSERT INTO backups (backup_id, connection, ended_at, labels, manifest, store, folder, level, damaged, listed)
VALUES (:backup_id, :connection, :ended_at, :labels, :manifest, :store, :folder, :level, :damaged, :listed)
ON CONFLICT (backup_id) DO NOTHING

-- name: mark_damaged
-- A backup was found damaged.
UPDATE backups SET damaged = 1, level = 0 WHERE backup_id = :backup_id

-- name: mark_verified
-- A backup reached a level; a lower one than before takes nothing away.
UPDATE backups SET level = CASE WHEN level < :level THEN :level ELSE level END,
    damaged = CASE WHEN :level > 0 THEN 0 ELSE damaged END
WHERE backup_id = :backup_id

-- ================================================================ schedules

-- name: schedule
-- One schedule.
SELECT * FROM schedules WHERE name = :name

-- name: schedules
-- All of them.
SELECT * FROM schedules ORDER BY name

-- name: put_schedule
-- Make a schedule or give it another definition. A tick that waits to be fired is not lost by that.
INSERT INTO schedules (
    name, revision, cron, timezone, operation, data, enabled, next_at, created_at, updated_at
) VALUES (:name, :revision, :cron, :timezone, :operation, :data, :enabled, :next_at, :now, :now)
ON CONFLICT (name) DO UPDATE SET
    revision = excluded.revision, cron = excluded.cron, timezone = excluded.timezone,
    operation = excluded.operation, data = excluded.data, enabled = excluded.enabled,
    next_at = CASE
        WHEN schedules.cron = excluded.cron AND schedules.timezone = excluded.timezone
            AND schedules.next_at < excluded.next_at THEN schedules.next_at
        ELSE excluded.next_at
    END,
    last_refusal = NULL, updated_at = excluded.updated_at

-- name: delete_schedule
-- Jobs it has made stay.
DELETE FROM schedules WHERE name = :name

-- name: due_schedules
-- Schedules whose next tick has come.
SELECT * FROM schedules WHERE next_at <= :now ORDER BY next_at, name LIMIT :limit

-- name: next_schedule_due
-- When the first schedule is due.
SELECT min(next_at) AS next_at FROM schedules

-- name: hold_schedule
-- A schedule that is still as it was when its step was worked out.
SELECT name FROM schedules
WHERE name = :name AND revision = :revision AND next_at = :from_tick /* lock */

-- name: move_schedule
-- A tick has made its event.
UPDATE schedules SET next_at = :to_tick, last_at = :tick, last_job_id = :job_id, last_refusal = NULL
WHERE name = :name

-- name: refuse_tick
-- A tick's event was refused.
UPDATE schedules SET next_at = :to_tick, last_refusal = :refusal
WHERE name = :name AND revision = :revision AND next_at = :from_tick

-- ================================================================ records

-- name: collections
-- All that were put, by name.
SELECT * FROM collections ORDER BY name

-- name: collection
-- One of them.
SELECT * FROM collections WHERE name = :name

-- name: put_collection
-- A collection, made or replaced.
INSERT INTO collections (name, document, created_at, updated_at) VALUES (:name, :document, :now, :now)
ON CONFLICT (name) DO UPDATE SET document = excluded.document, updated_at = excluded.updated_at

-- name: delete_collection
-- A collection's declaration, gone; its table stays.
DELETE FROM collections WHERE name = :name

-- name: bookmark
-- How far something has come.
SELECT value FROM bookmarks WHERE key = :key

-- name: keep_bookmark
-- How far something has come now.
INSERT INTO bookmarks (key, value, job_id, updated_at) VALUES (:key, :value, :job_id, :now)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, job_id = excluded.job_id, updated_at = excluded.updated_at

-- name: record_rejected
-- Records that were not taken in; those told again are the same.
INSERT INTO rejected_records (job_id, page, position, record, reasons) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (job_id, page, position) DO NOTHING

-- name: rejected_records
-- A page of them, in the order they came in.
SELECT * FROM rejected_records
WHERE job_id = :job_id AND (page, position) > (:page, :position) ORDER BY page, position LIMIT :limit

-- name: stack
-- How many values a stack has, and its state.
SELECT size, revision FROM stacks WHERE name = :name

-- name: make_stack
-- An empty stack where there was none.
INSERT INTO stacks (name, size, revision) VALUES (:name, 0, 0) ON CONFLICT (name) DO NOTHING

-- name: resize_stack
-- A stack in another state.
UPDATE stacks SET size = :size, revision = revision + 1 WHERE name = :name

-- name: top_of_stack
-- What lies above a place, the topmost first.
SELECT value FROM stack_values WHERE stack = :name AND position > :floor ORDER BY position DESC

-- name: push_stack_values
-- Values put on top.
INSERT INTO stack_values (stack, position, value) VALUES (?, ?, ?)

-- name: pop_stack_values
-- What lies above a size, gone.
DELETE FROM stack_values WHERE stack = :name AND position > :size

-- name: stack_step
-- What a change that was made once came to.
SELECT outcome FROM stack_steps WHERE step = :step

-- name: keep_stack_step
-- A change that was made.
INSERT INTO stack_steps (step, outcome, made_at) VALUES (:step, :outcome, :now)

-- ================================================================ keeping

-- name: sweepable_jobs
-- Jobs that ended long ago and have nothing left to deliver.
SELECT job_id FROM jobs
WHERE ended_at IS NOT NULL AND ended_at < :before AND NOT EXISTS (
    SELECT 1 FROM deliveries WHERE deliveries.job_id = jobs.job_id AND deliveries.status = 'pending'
)
ORDER BY ended_at LIMIT :limit /* skip locked */

-- name: delivered_jobs
-- Those of a JSON array of jobs that have nothing to deliver.
SELECT value AS job_id FROM json_each(:job_ids) AS old
WHERE NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.job_id = old.value AND deliveries.status = 'pending')

-- name: sweep_joined_events
-- Ids of events that had joined.
DELETE FROM events WHERE joined = 1 AND job_id IN (SELECT value FROM json_each(:job_ids))

-- name: sweep_events
-- Ids of the jobs' own events: the same id makes a new job from now on.
DELETE FROM events WHERE (source, event_id) IN (
    SELECT jobs.source, jobs.event_id FROM json_each(:job_ids) AS gone JOIN jobs ON jobs.job_id = gone.value
)

-- name: sweep_attempts
-- Logs of deliveries.
DELETE FROM delivery_attempts WHERE delivery_seq IN (
    SELECT deliveries.seq FROM json_each(:job_ids) AS gone JOIN deliveries ON deliveries.job_id = gone.value
)

-- name: sweep_deliveries
-- Deliveries.
DELETE FROM deliveries WHERE job_id IN (SELECT value FROM json_each(:job_ids))

-- name: sweep_callbacks
-- Where terminal events went.
DELETE FROM callbacks WHERE job_id IN (SELECT value FROM json_each(:job_ids))

-- name: sweep_jobs
-- The jobs themselves; their history may go after them only.
DELETE FROM jobs WHERE job_id IN (SELECT value FROM json_each(:job_ids))

-- name: sweep_history
-- History of jobs that are gone.
DELETE FROM history WHERE job_id IN (SELECT value FROM json_each(:job_ids))

-- name: sweep_rejected
-- Records that jobs did not take in.
DELETE FROM rejected_records WHERE job_id IN (SELECT value FROM json_each(:job_ids))

-- name: sweep_bookmarks
-- How far jobs had come; what is kept beyond a job has a key of its own.
DELETE FROM bookmarks WHERE key IN (SELECT 'job:' || value FROM json_each(:job_ids))

-- name: sweep_steps
-- Changes of stacks that nobody can ask for again.
DELETE FROM stack_steps WHERE made_at < :before

-- name: ping
-- A write that changes nothing anybody reads.
UPDATE counters SET value = value + 1 WHERE name = 'ping'
