-- Deliveries go out by RabbitMQ too; moves and tries are counted where they are made, so that recording them
-- needs no look at those before.

-- What all processes on the ledger go by, whatever each was told. exchange: where events go in RabbitMQ.
CREATE TABLE agreements (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

ALTER TABLE jobs ADD COLUMN moves INTEGER NOT NULL DEFAULT 1;   -- rows of its history
UPDATE jobs SET moves = (SELECT max(seq) FROM history WHERE history.job_id = jobs.job_id);

CREATE TABLE deliveries_of_now (
    seq INTEGER PRIMARY KEY,
    delivery_id TEXT NOT NULL UNIQUE,
    job_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    transport TEXT NOT NULL CHECK (transport IN ('http', 'amqp')),
    kind TEXT NOT NULL CHECK (kind IN ('callback', 'subscription', 'exchange', 'reply')),
    destination TEXT NOT NULL,
    url TEXT NOT NULL,
    host TEXT NOT NULL,
    body BLOB NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'abandoned')),
    attempts INTEGER NOT NULL DEFAULT 0,
    tries INTEGER NOT NULL DEFAULT 0,       -- attempts since the beginning, redeliveries included
    created_at REAL NOT NULL,
    due_at REAL NOT NULL,
    leased INTEGER NOT NULL DEFAULT 0 CHECK (leased IN (0, 1)),
    delivered_at REAL,
    last_error TEXT
);
INSERT INTO deliveries_of_now (
    seq, delivery_id, job_id, event_id, event_type, transport, kind, destination, url, host, body, status,
    attempts, tries, created_at, due_at, leased, delivered_at, last_error
)
SELECT seq, delivery_id, job_id, event_id, event_type, 'http', kind, destination, url, host, body, status,
    attempts, (SELECT count(*) FROM delivery_attempts WHERE delivery_seq = seq), created_at, due_at, leased,
    delivered_at, last_error
FROM deliveries;
DROP TABLE deliveries;
ALTER TABLE deliveries_of_now RENAME TO deliveries;
CREATE INDEX deliveries_by_host ON deliveries (host, due_at, seq) WHERE status = 'pending' AND transport = 'http';
CREATE INDEX deliveries_due ON deliveries (transport, due_at, seq) WHERE status = 'pending';
CREATE INDEX deliveries_leased ON deliveries (seq) WHERE leased = 1;
CREATE INDEX deliveries_by_job ON deliveries (job_id, seq);
