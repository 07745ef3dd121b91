-- Limits that workers share. Times are nanoseconds since the epoch, by the database's clock.
CREATE TABLE leveret_rates (
    name TEXT PRIMARY KEY,
    -- The first slot that nobody has.
    free BIGINT NOT NULL
);

-- Places that workers have of a concurrency limit.
CREATE TABLE leveret_places (
    name TEXT NOT NULL,
    holder TEXT NOT NULL,
    granted BIGINT NOT NULL,
    wanted BIGINT NOT NULL,
    leased_until BIGINT NOT NULL,
    PRIMARY KEY (name, holder)
) WITHOUT ROWID;
