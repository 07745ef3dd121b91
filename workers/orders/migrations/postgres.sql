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
CREATE TABLE IF NOT EXISTS accounts (
    customer TEXT PRIMARY KEY,
    cents BIGINT NOT NULL CHECK (cents >= 0)
);
-- A refund deletes its payment.
CREATE TABLE IF NOT EXISTS payments (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id TEXT NOT NULL,
    customer TEXT NOT NULL,
    cents BIGINT NOT NULL,
    -- The order that it paid.
    order_number BIGINT,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS payments_job ON payments (job_id);
-- Stock that is taken for orders that are not placed yet.
CREATE TABLE IF NOT EXISTS reservations (
    job_id TEXT NOT NULL,
    sku TEXT NOT NULL,
    quantity BIGINT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS reservations_job ON reservations (job_id);
CREATE TABLE IF NOT EXISTS pick_lists (
    order_number BIGINT NOT NULL,
    lines TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS pick_lists_order ON pick_lists (order_number);
