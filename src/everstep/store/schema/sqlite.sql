-- The tables of a SQLite store, version 1.  Times are microseconds since 1970.

-- Numbers of workers are never used again: a zombie's commits name its own.
CREATE TABLE worker (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    epoch INTEGER NOT NULL DEFAULT 1,
    beat INTEGER NOT NULL DEFAULT 0,
    commits INTEGER NOT NULL DEFAULT 0,
    address TEXT NOT NULL DEFAULT '',
    handlers TEXT NOT NULL DEFAULT '[]',
    alive INTEGER NOT NULL DEFAULT 1,
    started_at INTEGER NOT NULL
);

-- Values that may be long come last: SQLite reads a row from the left.
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    rid TEXT NOT NULL UNIQUE,
    handler TEXT NOT NULL,
    mode INTEGER NOT NULL,
    status INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    topic TEXT,
    trace TEXT NOT NULL DEFAULT '',
    priority INTEGER NOT NULL DEFAULT 0,
    hops INTEGER NOT NULL DEFAULT 0,
    parent INTEGER,
    fp INTEGER NOT NULL DEFAULT 0,
    key TEXT,
    key_pos INTEGER,
    worker INTEGER,
    epoch INTEGER NOT NULL DEFAULT 0,
    generation INTEGER NOT NULL DEFAULT 0,
    wakes INTEGER NOT NULL DEFAULT 0,
    parked_wakes INTEGER NOT NULL DEFAULT 0,
    waits INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    claims INTEGER NOT NULL DEFAULT 0,
    asked INTEGER NOT NULL DEFAULT 0,
    due_at INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    input BLOB NOT NULL,
    output BLOB,
    error BLOB
);
-- Each index holds only the rows its question is about, so that a million
-- parked runs cost nothing to those who look for work.  Never IN (...) here: each
-- written row would fill a table of its own to look itself up in.
CREATE INDEX run_ready ON run (handler, priority DESC, id) WHERE status = 2;
CREATE INDEX run_due ON run (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX run_queued ON run (handler, key, key_pos) WHERE status = 1;
CREATE INDEX run_held ON run (worker) WHERE worker IS NOT NULL;
CREATE INDEX run_aside ON run (status, id) WHERE status >= 5 AND status <= 8 AND status <> 7;
CREATE INDEX run_torn ON run (id) WHERE status = 4 AND wakes <> parked_wakes;  -- empty, or a defect
CREATE INDEX run_ended ON run (finished_at) WHERE finished_at IS NOT NULL AND status <> 8;

-- Rows in the order they were written, and an index with the addresses: a group
-- of 100 runs then changes a dozen pages, and not one page for each run.
CREATE TABLE entry (
    run INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    lane TEXT NOT NULL,
    pos INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    fp INTEGER NOT NULL,
    seq INTEGER,
    at INTEGER NOT NULL,
    state INTEGER NOT NULL,
    value BLOB
);
CREATE UNIQUE INDEX entry_address ON entry (run, generation, lane, pos);

CREATE TABLE key (
    handler TEXT NOT NULL,
    key TEXT NOT NULL,
    head INTEGER NOT NULL,
    tail INTEGER NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (handler, key)
) WITHOUT ROWID;

CREATE TABLE promise (
    run INTEGER NOT NULL,
    name TEXT NOT NULL,
    state INTEGER NOT NULL,
    value BLOB NOT NULL,
    "by" TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (run, name)
) WITHOUT ROWID;

CREATE TABLE kv (
    grp TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (grp, key)
) WITHOUT ROWID;

CREATE TABLE subscription (
    topic TEXT NOT NULL,
    handler TEXT NOT NULL,
    fifo INTEGER NOT NULL,
    delay INTEGER NOT NULL,
    PRIMARY KEY (topic, handler)
) WITHOUT ROWID;

CREATE TABLE unrouted (
    id INTEGER PRIMARY KEY,
    mid TEXT NOT NULL UNIQUE,
    topic TEXT NOT NULL,
    data BLOB NOT NULL,
    grp TEXT,
    delay INTEGER,
    priority INTEGER NOT NULL,
    hops INTEGER NOT NULL,
    trace TEXT NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX unrouted_topic ON unrouted (topic);

-- `owner`: rid:<public id> or run:<row id> of a run, or mid:<id of a message>.
CREATE TABLE blob (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    at INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX blob_owner ON blob (owner);

-- One row: what changes together with the subscriptions, so that a writer
-- reads them again only when somebody changed them.
CREATE TABLE fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO fact VALUES ('subscriptions', 0);
