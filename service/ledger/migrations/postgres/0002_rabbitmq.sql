-- Deliveries go out by RabbitMQ too; moves and tries are counted where they are made, so that recording them
-- needs no look at those before.

-- What all processes on the ledger go by, whatever each was told. exchange: where events go in RabbitMQ.
CREATE TABLE agreements (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

ALTER TABLE jobs ADD COLUMN moves INTEGER NOT NULL DEFAULT 1;   -- rows of its history
UPDATE jobs SET moves = (SELECT max(seq) FROM history WHERE history.job_id = jobs.job_id);

ALTER TABLE deliveries
    ADD COLUMN transport TEXT NOT NULL DEFAULT 'http' CHECK (transport IN ('http', 'amqp')),
    ADD COLUMN tries INTEGER NOT NULL DEFAULT 0,    -- attempts since the beginning, redeliveries included
    DROP CONSTRAINT deliveries_kind_check,
    ADD CONSTRAINT deliveries_kind_check CHECK (kind IN ('callback', 'subscription', 'exchange', 'reply'));
ALTER TABLE deliveries ALTER COLUMN transport DROP DEFAULT;
UPDATE deliveries SET tries = made.tries
FROM (SELECT delivery_seq, count(*) AS tries FROM delivery_attempts GROUP BY delivery_seq) AS made
WHERE made.delivery_seq = deliveries.seq;
DROP INDEX deliveries_by_host, deliveries_due, deliveries_leased;  -- leases of deliveries run out by themselves here
CREATE INDEX deliveries_by_host ON deliveries (host, due_at, seq) WHERE status = 'pending' AND transport = 'http';
CREATE INDEX deliveries_due ON deliveries (transport, due_at, seq) WHERE status = 'pending';
