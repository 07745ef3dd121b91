-- Held until the commit: only one of several starting workers creates the tables.
SELECT pg_advisory_xact_lock(7022361);
CREATE TABLE IF NOT EXISTS stock (
    sku TEXT PRIMARY KEY,
    quantity BIGINT NOT NULL CHECK (quantity >= 0)
);
CREATE TABLE IF NOT EXISTS orders (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id TEXT NOT NULL,
    customer TEXT NOT NULL,
    lines TEXT NOT NULL,
    total_cents BIGINT NOT NULL,
    placed_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
-- Not unique, because the inbox ensures that a job runs once.
CREATE INDEX IF NOT EXISTS orders_job ON orders (job_id);
CREATE TABLE IF NOT EXISTS pick_lists (
    order_number BIGINT NOT NULL,
    lines TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS pick_lists_order ON pick_lists (order_number);
