-- Collections, bookmarks of what was read how far, rejected records, stacks of numbers.

CREATE TABLE collections (
    name TEXT PRIMARY KEY,
    document TEXT NOT NULL,                 -- JSON object, as it was put
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE bookmarks (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,                    -- JSON object
    job_id TEXT NOT NULL,                   -- the job that set it last
    updated_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX bookmarks_of_jobs ON bookmarks (job_id);

CREATE TABLE rejected_records (
    job_id TEXT NOT NULL,
    page INTEGER NOT NULL,
    position INTEGER NOT NULL,
    record TEXT NOT NULL,                   -- JSON text, cut when it is long
    reasons TEXT NOT NULL,                  -- JSON array of {pointer, detail}
    PRIMARY KEY (job_id, page, position)
) WITHOUT ROWID;

CREATE TABLE stacks (
    name TEXT PRIMARY KEY,
    size INTEGER NOT NULL CHECK (size >= 0),
    revision INTEGER NOT NULL               -- another one after every change
) WITHOUT ROWID;

CREATE TABLE stack_values (
    stack TEXT NOT NULL,
    position INTEGER NOT NULL CHECK (position >= 1),  -- from the bottom
    value TEXT NOT NULL,
    PRIMARY KEY (stack, position)
) WITHOUT ROWID;

CREATE TABLE stack_steps (
    step TEXT PRIMARY KEY,                  -- names one change, so that it is made once
    outcome TEXT NOT NULL,
    made_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX stack_steps_by_age ON stack_steps (made_at);
