-- Jobs that were enqueued in a transaction and wait for a relay. Times are milliseconds since the epoch.
CREATE TABLE leveret_outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL CHECK (length(CAST(id AS BLOB)) BETWEEN 1 AND 255),
    job TEXT NOT NULL CHECK (length(job) BETWEEN 1 AND 128 AND job NOT GLOB '*[^a-z0-9_.-]*'),
    queue TEXT NOT NULL CHECK (length(CAST(queue AS BLOB)) BETWEEN 1 AND 255),
    payload BLOB NOT NULL,
    options TEXT NOT NULL DEFAULT '{}',
    order_key TEXT CHECK (length(CAST(order_key AS BLOB)) BETWEEN 1 AND 255),
    enqueued_at INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    -- 0, or the time of the next attempt.
    ready_at INTEGER NOT NULL DEFAULT 0,
    -- The relay that has claimed the row, and until when.
    lease INTEGER,
    leased_until INTEGER NOT NULL DEFAULT 0,
    set_aside_at INTEGER,
    published_at INTEGER
);
CREATE INDEX leveret_outbox_ready ON leveret_outbox (ready_at, seq)
    WHERE order_key IS NULL AND published_at IS NULL AND set_aside_at IS NULL;
CREATE INDEX leveret_outbox_order ON leveret_outbox (order_key, seq)
    WHERE order_key IS NOT NULL AND published_at IS NULL;
CREATE INDEX leveret_outbox_set_aside ON leveret_outbox (seq) WHERE set_aside_at IS NOT NULL;
CREATE INDEX leveret_outbox_published ON leveret_outbox (published_at) WHERE published_at IS NOT NULL;
