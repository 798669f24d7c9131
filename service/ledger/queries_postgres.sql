-- Statements that PostgreSQL wants written differently from `queries.sql`, by the same names.
-- What is asked of open jobs repeats the words of the partial index that answers it; a status in `status || ''` is no
-- plain column to the planner, so that it looks for no index by status.

-- name: excluding_job
-- An open job that holds, or waits for, what a claim excludes: the holder first, then its lane, then
-- the few queued jobs that want more than one key.
(SELECT job_id FROM claims WHERE key = :key AND (mode = 'exclusive' OR :mode = 'exclusive') LIMIT 1)
UNION ALL
(SELECT job_id FROM jobs
WHERE lease_until IS NULL AND ended_at IS NULL AND lane >= 'x' || :key AND lane <= 'x' || :key ORDER BY lane, seq LIMIT 1)
UNION ALL
(SELECT job_id FROM jobs
WHERE lease_until IS NULL AND ended_at IS NULL AND lane >= 's' || :key AND lane <= 's' || :key AND :mode = 'exclusive'
ORDER BY lane, seq LIMIT 1)
UNION ALL
(SELECT jobs.job_id FROM jobs CROSS JOIN LATERAL json_items(jobs.claims) AS wanted
WHERE jobs.ended_at IS NULL AND jobs.claim_count > 1 AND jobs.status || '' = 'queued' AND wanted.key = :key
    AND (wanted.value = 'exclusive' OR :mode = 'exclusive') LIMIT 1)
LIMIT 1

-- name: next_tokens
-- Fencing tokens, each greater than any before: so many rows, ascending.
SELECT nextval('fencing_tokens') AS value FROM generate_series(1, :number)

-- name: claimable_jobs
-- Due jobs whose claims are free, oldest first; at most :limit of each lane, so that ten thousand
-- jobs behind one busy target cost one look at that target. Rows another process is about to take are passed over.
WITH RECURSIVE lanes (lane) AS (
    (SELECT lane FROM jobs WHERE lease_until IS NULL AND ended_at IS NULL ORDER BY lane LIMIT 1)
    UNION ALL
    SELECT (
        SELECT waiting.lane FROM jobs AS waiting
        WHERE waiting.lease_until IS NULL AND waiting.ended_at IS NULL AND waiting.lane > lanes.lane
        ORDER BY waiting.lane LIMIT 1
    )
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
SELECT candidates.* FROM free_lanes CROSS JOIN LATERAL (
    SELECT waiting.job_id, waiting.claim_count, waiting.claims, waiting.seq FROM jobs AS waiting
    WHERE waiting.lease_until IS NULL AND waiting.ended_at IS NULL
        -- Not `=`: the planner would drop the lane from the order, and walk by the primary key past all that ended.
        AND waiting.lane >= free_lanes.lane AND waiting.lane <= free_lanes.lane
        AND waiting.due_at <= :now
        AND (waiting.deadline_at IS NULL OR waiting.deadline_at > :now)
        AND (waiting.expires_at IS NULL OR waiting.expires_at > :now OR waiting.started_at IS NOT NULL)
        AND (waiting.claim_count < 2 OR NOT EXISTS (
            SELECT 1 FROM json_items(waiting.claims) AS wanted
            JOIN claims ON claims.key = wanted.key
            WHERE claims.mode = 'exclusive' OR wanted.value = 'exclusive'
        ))
    ORDER BY waiting.lane, waiting.seq LIMIT :limit FOR UPDATE SKIP LOCKED
) AS candidates
ORDER BY candidates.seq

-- name: start_jobs
-- Queued jobs, claimed by a worker, tokens as JSON {job: token}; not `counted`: only on their way to an end.
UPDATE jobs SET status = 'running', attempts = attempts + :counted, fencing_token = CAST(taken.value AS BIGINT),
    worker_id = :worker_id, lease_until = :lease_until, moves = moves + 1,
    started_at = CASE WHEN :counted > 0 THEN coalesce(started_at, :now) ELSE started_at END
FROM json_items(:tokens) AS taken
WHERE jobs.job_id = taken.key AND jobs.status || '' = 'queued'
RETURNING jobs.*

-- name: renew
-- Leases, as JSON {job: token}, extended.
UPDATE jobs SET lease_until = :lease_until FROM json_items(:leases) AS held
WHERE jobs.job_id = held.key AND jobs.fencing_token = CAST(held.value AS BIGINT) AND jobs.worker_id = :worker_id
    AND jobs.status || '' = 'running'
RETURNING jobs.job_id, jobs.cancel_requested

-- name: finish_jobs
-- Running jobs, ended by the holders of their tokens; no row back means that the lease is gone.
UPDATE jobs SET status = ended.status, ended_at = :now, result = ended.result, error = ended.error,
    crashes = crashes + ended.crashed, worker_id = NULL, lease_until = NULL, moves = moves + 1
FROM json_to_recordset(:ends) AS ended
    (job_id text, token bigint, status text, result text, error text, crashed integer)
WHERE jobs.job_id = ended.job_id AND jobs.fencing_token = ended.token AND jobs.status || '' = 'running'
RETURNING jobs.*

-- name: lost_leases
-- Running jobs whose worker went silent.
SELECT job_id FROM jobs WHERE lease_until IS NOT NULL AND lease_until <= :now ORDER BY lease_until LIMIT :limit

-- name: overdue_jobs
-- Queued jobs whose deadline has passed.
SELECT job_id FROM jobs
WHERE ended_at IS NULL AND deadline_at IS NOT NULL AND deadline_at <= :now AND status || '' = 'queued'
ORDER BY deadline_at LIMIT :limit

-- name: expired_jobs
-- Queued jobs that were not started by the time their event named.
SELECT job_id FROM jobs
WHERE ended_at IS NULL AND expires_at IS NOT NULL AND started_at IS NULL
    AND expires_at <= :now AND status || '' = 'queued'
ORDER BY expires_at LIMIT :limit

-- name: next_retry
-- When the first job that waits for its time is due.
SELECT min(due_at) AS moment FROM (
    SELECT due_at FROM jobs
    WHERE ended_at IS NULL AND due_at > created_at AND due_at > :now AND status || '' = 'queued'
    ORDER BY due_at LIMIT 1
) AS retries

-- name: next_ending
-- When the first deadline, expiry or lease runs out.
SELECT min(moment) AS moment FROM (
    (SELECT deadline_at AS moment FROM jobs
    WHERE ended_at IS NULL AND deadline_at IS NOT NULL AND status || '' = 'queued' ORDER BY deadline_at LIMIT 1)
    UNION ALL
    (SELECT expires_at FROM jobs
    WHERE ended_at IS NULL AND expires_at IS NOT NULL AND started_at IS NULL
    AND status || '' = 'queued' ORDER BY expires_at LIMIT 1)
    UNION ALL
    (SELECT lease_until FROM jobs WHERE lease_until IS NOT NULL ORDER BY lease_until LIMIT 1)
) AS endings

-- name: take_deliveries
-- Due deliveries in turn over the hosts, each host's oldest first and no more than it has room for.
WITH RECURSIVE hosts (host) AS (
    (SELECT host FROM deliveries WHERE status = 'pending' AND transport = 'http' ORDER BY host LIMIT 1)
    UNION ALL
    SELECT (
        SELECT waiting.host FROM deliveries AS waiting
        WHERE waiting.status = 'pending' AND waiting.transport = 'http' AND waiting.host > hosts.host
        ORDER BY waiting.host LIMIT 1
    )
    FROM hosts WHERE hosts.host IS NOT NULL
),
rooms (host, room) AS (
    SELECT hosts.host, :per_host - coalesce(CAST(busy.value AS BIGINT), 0)
    FROM hosts LEFT JOIN json_items(:busy_hosts) AS busy ON busy.key = hosts.host
    WHERE hosts.host IS NOT NULL
),
ranked AS (
    SELECT due.seq, due.due_at, rooms.room,
        row_number() OVER (PARTITION BY rooms.host ORDER BY due.due_at, due.seq) AS turn
    FROM rooms CROSS JOIN LATERAL (
        SELECT waiting.seq, waiting.due_at FROM deliveries AS waiting
        WHERE waiting.status = 'pending' AND waiting.transport = 'http' AND waiting.host = rooms.host
            AND waiting.due_at <= :now AND rooms.room > 0
        ORDER BY waiting.due_at, waiting.seq LIMIT :per_host
    ) AS due
)
SELECT seq FROM ranked WHERE turn <= room ORDER BY turn, due_at, seq LIMIT :limit

-- name: settle_deliveries
-- What attempts came to; no row back means that it was settled meanwhile.
UPDATE deliveries SET status = settled.status, attempts = attempts + 1, tries = tries + 1, due_at = settled.due_at,
    leased = 0, delivered_at = settled.delivered_at, last_error = settled.error
FROM json_to_recordset(:settlements) AS settled
    (delivery_id text, status text, due_at double precision, delivered_at double precision, error text)
WHERE deliveries.delivery_id = settled.delivery_id AND deliveries.status = 'pending'
RETURNING deliveries.seq, deliveries.tries, deliveries.delivery_id
