-- Projections of the log of events. Times are milliseconds since the epoch.
CREATE TABLE leveret_projections (
    name TEXT PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 128),
    -- The offset of the last event that was read; -1 before the first one, NULL before the view was emptied.
    position BIGINT,
    -- Recognises the event at the position: its id, or a digest.
    event_id BYTEA,
    -- Number of events that handlers applied.
    applied BIGINT NOT NULL DEFAULT 0,
    -- True (1) if the projection may start with a log whose first events are gone.
    allows_truncated BIGINT NOT NULL DEFAULT 0,
    -- Grows with each holder. A transaction of an earlier holder changes nothing.
    epoch BIGINT NOT NULL DEFAULT 0,
    holder TEXT,
    leased_until BIGINT NOT NULL DEFAULT 0,
    -- The event that is to be skipped, by its offset.
    skips BIGINT,
    -- The last failure, until the position moves on.
    failed_offset BIGINT,
    error TEXT,
    failed_at BIGINT,
    tries BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- The ids of the last applied events, which drop repeats. One row has the ids of one transaction, each after its length.
CREATE TABLE leveret_projection_ids (
    projection TEXT NOT NULL,
    -- The number of the row's last event among the applied ones.
    last_applied BIGINT NOT NULL,
    ids BYTEA NOT NULL,
    PRIMARY KEY (projection, last_applied)
);
