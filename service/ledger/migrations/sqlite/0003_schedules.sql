-- Cron lines that make events, each with the tick that comes next.

CREATE TABLE schedules (
    name TEXT PRIMARY KEY,
    revision TEXT NOT NULL,                 -- another one after every change of the definition
    cron TEXT NOT NULL,
    timezone TEXT NOT NULL,
    operation TEXT NOT NULL,
    data TEXT NOT NULL,                     -- JSON object
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    next_at REAL CHECK (enabled = 1 OR next_at IS NULL),
    last_at REAL,
    last_job_id TEXT,
    last_refusal TEXT,                      -- JSON object
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX schedules_due ON schedules (next_at) WHERE next_at IS NOT NULL;
