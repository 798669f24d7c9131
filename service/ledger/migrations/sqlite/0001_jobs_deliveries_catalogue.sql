-- The ledger's tables. Rules that must never be broken are kept here, by the database itself.
-- Times are seconds since the epoch by the ledger's clock.

CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
-- fencing_token: the last one given out. ping: touched to prove that the file can be written.
INSERT INTO counters (name, value) VALUES ('fencing_token', 0), ('ping', 0);

-- Accepted events, many to one job. The primary key is what makes an event count once.
CREATE TABLE events (
    source TEXT NOT NULL,
    event_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    job_id TEXT NOT NULL,
    joined INTEGER NOT NULL DEFAULT 0 CHECK (joined IN (0, 1)),
    PRIMARY KEY (source, event_id)
) WITHOUT ROWID;
-- A job's own event is found by the job's source and event_id; this finds those that joined it.
CREATE INDEX events_joined ON events (job_id) WHERE joined = 1;

CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    job_id TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    event_id TEXT NOT NULL,
    operation TEXT NOT NULL,
    connection TEXT,
    data TEXT NOT NULL,
    join_digest TEXT NOT NULL,
    claims TEXT NOT NULL,                   -- JSON {key: mode}, what it must hold while it runs
    claim_count INTEGER NOT NULL,
    lane TEXT NOT NULL,                     -- jobs that wait for one key: 'x' (exclusive) or 's' and the key
    status TEXT NOT NULL DEFAULT 'queued'
        CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'canceled')),
    attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    crashes INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL,
    created_at REAL NOT NULL,
    due_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    deadline_seconds REAL,
    deadline_at REAL,
    expires_at REAL,
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    fencing_token INTEGER NOT NULL DEFAULT 0,
    worker_id TEXT,
    lease_until REAL,
    result TEXT,
    error TEXT,
    retry_of TEXT,
    retry_root TEXT,                        -- event id all retries of one event are numbered under
    CHECK ((status = 'running') = (lease_until IS NOT NULL)),
    CHECK ((status IN ('succeeded', 'failed', 'canceled')) = (ended_at IS NOT NULL))
);
CREATE INDEX jobs_waiting ON jobs (lane, seq, due_at) WHERE status = 'queued';
CREATE INDEX jobs_with_further_claims ON jobs (seq) WHERE status = 'queued' AND claim_count > 1;
CREATE INDEX jobs_delayed ON jobs (due_at) WHERE status = 'queued' AND due_at > created_at;
CREATE INDEX jobs_deadline ON jobs (deadline_at) WHERE status = 'queued' AND deadline_at IS NOT NULL;
CREATE INDEX jobs_expiry ON jobs (expires_at)
    WHERE status = 'queued' AND expires_at IS NOT NULL AND started_at IS NULL;
CREATE INDEX jobs_lease ON jobs (lease_until) WHERE status = 'running';
CREATE INDEX jobs_joinable ON jobs (join_digest) WHERE status IN ('queued', 'running');
CREATE INDEX jobs_by_status ON jobs (status, seq);
CREATE INDEX jobs_by_connection ON jobs (connection, seq) WHERE connection IS NOT NULL;
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;

CREATE TRIGGER jobs_move_along_the_state_machine BEFORE UPDATE OF status ON jobs
WHEN NOT (
    (OLD.status = 'queued' AND NEW.status IN ('running', 'canceled'))
    OR (OLD.status = 'running' AND NEW.status IN ('queued', 'succeeded', 'failed', 'canceled'))
)
BEGIN
    SELECT RAISE(ABORT, 'a job cannot move that way');
END;

-- What running jobs hold.
CREATE TABLE claims (
    key TEXT NOT NULL,
    mode TEXT NOT NULL CHECK (mode IN ('exclusive', 'shared')),
    job_id TEXT NOT NULL,
    fencing_token INTEGER NOT NULL,
    PRIMARY KEY (key, job_id)
) WITHOUT ROWID;
CREATE INDEX claims_by_job ON claims (job_id);
CREATE UNIQUE INDEX claims_one_excluder ON claims (key) WHERE mode = 'exclusive';

CREATE TRIGGER claims_shared_against_exclusive BEFORE INSERT ON claims
WHEN EXISTS (
    SELECT 1 FROM claims held
    WHERE held.key = NEW.key AND held.job_id <> NEW.job_id
        AND (held.mode = 'exclusive' OR NEW.mode = 'exclusive')
)
BEGIN
    SELECT RAISE(ABORT, 'the key is claimed by another job');
END;

-- Every transition of every job. Rows are only ever added; they go with their job, never before it.
CREATE TABLE history (
    job_id TEXT NOT NULL,
    seq INTEGER NOT NULL,
    at REAL NOT NULL,
    from_status TEXT,
    to_status TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    token INTEGER NOT NULL,
    event_id TEXT,
    event_type TEXT,
    event TEXT,
    PRIMARY KEY (job_id, seq)
) WITHOUT ROWID;
CREATE UNIQUE INDEX history_one_terminal_event ON history (job_id)
    WHERE to_status IN ('succeeded', 'failed', 'canceled');

CREATE TRIGGER history_is_append_only BEFORE UPDATE ON history
BEGIN
    SELECT RAISE(ABORT, 'history is append-only');
END;
CREATE TRIGGER history_stays_with_its_job BEFORE DELETE ON history
WHEN EXISTS (SELECT 1 FROM jobs WHERE jobs.job_id = OLD.job_id)
BEGIN
    SELECT RAISE(ABORT, 'history is append-only');
END;

-- Where a job's terminal event goes: its own callback and those of events that joined it.
CREATE TABLE callbacks (
    job_id TEXT NOT NULL,
    url TEXT NOT NULL,
    PRIMARY KEY (job_id, url)
) WITHOUT ROWID;

CREATE TABLE subscriptions (
    name TEXT PRIMARY KEY,
    url TEXT NOT NULL,
    types TEXT NOT NULL,                    -- JSON array of patterns
    created_at REAL NOT NULL
) WITHOUT ROWID;

-- The outbox: one event on its way to one destination.
CREATE TABLE deliveries (
    seq INTEGER PRIMARY KEY,
    delivery_id TEXT NOT NULL UNIQUE,
    job_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('callback', 'subscription')),
    destination TEXT NOT NULL,
    url TEXT NOT NULL,
    host TEXT NOT NULL,
    body BLOB NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'abandoned')),
    attempts INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    due_at REAL NOT NULL,
    leased INTEGER NOT NULL DEFAULT 0 CHECK (leased IN (0, 1)),
    delivered_at REAL,
    last_error TEXT
);
CREATE INDEX deliveries_by_host ON deliveries (host, due_at, seq) WHERE status = 'pending';
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE status = 'pending';
CREATE INDEX deliveries_leased ON deliveries (seq) WHERE leased = 1;
CREATE INDEX deliveries_by_job ON deliveries (job_id, seq);

CREATE TABLE delivery_attempts (
    delivery_seq INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at REAL NOT NULL,
    http_status INTEGER,
    error TEXT,
    milliseconds REAL NOT NULL,
    PRIMARY KEY (delivery_seq, number)
) WITHOUT ROWID;

-- Backups that were published or found. Never swept.
CREATE TABLE backups (
    backup_id TEXT PRIMARY KEY,
    connection TEXT NOT NULL,
    ended_at REAL NOT NULL,                 -- when the dump ended; the catalogue's order
    labels TEXT NOT NULL,                   -- JSON object
    manifest TEXT NOT NULL,
    store TEXT NOT NULL,
    folder TEXT NOT NULL,
    level INTEGER NOT NULL,
    damaged INTEGER NOT NULL DEFAULT 0 CHECK (damaged IN (0, 1)),
    listed INTEGER NOT NULL DEFAULT 1 CHECK (listed IN (0, 1))
) WITHOUT ROWID;
CREATE INDEX backups_newest ON backups (ended_at, backup_id);
