-- Tracked jobs, one row each, with the state of their newest events. Times are milliseconds since the epoch.
CREATE TABLE leveret_jobs (
    id TEXT PRIMARY KEY,
    label TEXT,
    job TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority BIGINT,
    state TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    hop BIGINT NOT NULL,
    step_rank BIGINT NOT NULL,
    moment BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    due_at BIGINT,
    expires_at BIGINT,
    started_at BIGINT,
    finished_at BIGINT,
    updated_at BIGINT NOT NULL,
    worker TEXT,
    progress DOUBLE PRECISION,
    note TEXT,
    error_kind TEXT,
    error TEXT,
    result TEXT,
    too_large BIGINT,
    cancel_hop BIGINT,
    cancel_requested_at BIGINT,
    stale BIGINT NOT NULL
);
CREATE INDEX leveret_jobs_created ON leveret_jobs (created_at, id);
CREATE INDEX leveret_jobs_state ON leveret_jobs (state, created_at, id);

CREATE TABLE leveret_job_steps (
    id TEXT NOT NULL,
    hop BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    step TEXT NOT NULL,
    at BIGINT NOT NULL,
    worker TEXT,
    detail TEXT,
    PRIMARY KEY (id, hop, attempt, step)
);

-- Single facts of the server, such as the time of the last received event.
CREATE TABLE leveret_facts (
    name TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);

CREATE TABLE leveret_idempotency (
    key TEXT PRIMARY KEY,
    body_hash TEXT NOT NULL,
    task_ids TEXT NOT NULL,
    answer TEXT,
    leased_until BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX leveret_idempotency_created ON leveret_idempotency (created_at);

-- The job that has a unique key, and until when.
CREATE TABLE leveret_unique (
    key TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    until BIGINT NOT NULL
);
CREATE INDEX leveret_unique_job ON leveret_unique (job_id);
CREATE INDEX leveret_unique_until ON leveret_unique (until);

-- Dead letters that were ingested from the broker, which no longer has them.
CREATE TABLE leveret_dead (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source TEXT NOT NULL,
    queue TEXT NOT NULL,
    job_id TEXT,
    job TEXT NOT NULL,
    kind TEXT NOT NULL,
    attempt BIGINT NOT NULL,
    hop BIGINT NOT NULL,
    failed_at BIGINT NOT NULL,
    taken_at BIGINT NOT NULL,
    state TEXT NOT NULL,
    state_at BIGINT NOT NULL,
    fingerprint TEXT NOT NULL,
    digest TEXT,
    replay_id BIGINT,
    error TEXT NOT NULL,
    properties BYTEA NOT NULL,
    payload BYTEA NOT NULL,
    original BYTEA
);
CREATE INDEX leveret_dead_digest ON leveret_dead (digest);
CREATE INDEX leveret_dead_job_id ON leveret_dead (job_id);
CREATE INDEX leveret_dead_over ON leveret_dead (state_at) WHERE state IN ('replayed', 'purged');
CREATE INDEX leveret_dead_replay ON leveret_dead (replay_id, id) WHERE state = 'replaying';
-- Holds all columns of groups, so that they need not read the messages.
CREATE INDEX leveret_dead_groups ON leveret_dead (fingerprint, state, queue, job, kind, failed_at, id);

CREATE TABLE leveret_fingerprints (
    fingerprint TEXT PRIMARY KEY,
    job TEXT NOT NULL,
    kind TEXT NOT NULL,
    masked TEXT NOT NULL
);

CREATE TABLE leveret_dead_history (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dead_id BIGINT NOT NULL,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    detail TEXT
);
CREATE INDEX leveret_dead_history_dead_id ON leveret_dead_history (dead_id);

CREATE TABLE leveret_replays (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    actor TEXT NOT NULL,
    options TEXT NOT NULL,
    total BIGINT NOT NULL,
    replayed BIGINT NOT NULL,
    -- The process that runs it, until the lease ends; `judged` is 1 once its canaries have succeeded.
    owner TEXT NOT NULL,
    leased_until BIGINT NOT NULL,
    judged BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    finished_at BIGINT,
    outcome TEXT
);

CREATE TABLE leveret_audit (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    detail TEXT NOT NULL
);

-- Limits that workers share. Times are nanoseconds since the epoch, by the database's clock.
CREATE TABLE leveret_rates (
    name TEXT PRIMARY KEY,
    -- The first free slot.
    free BIGINT NOT NULL
);

-- Slots of a concurrency limit that workers have.
CREATE TABLE leveret_places (
    name TEXT NOT NULL,
    holder TEXT NOT NULL,
    granted BIGINT NOT NULL,
    wanted BIGINT NOT NULL,
    leased_until BIGINT NOT NULL,
    PRIMARY KEY (name, holder)
);
