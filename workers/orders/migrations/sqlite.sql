CREATE TABLE IF NOT EXISTS stock (
    sku TEXT PRIMARY KEY,
    quantity INTEGER NOT NULL CHECK (quantity >= 0)
);
CREATE TABLE IF NOT EXISTS orders (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL,
    customer TEXT NOT NULL,
    lines TEXT NOT NULL,
    total_cents INTEGER NOT NULL,
    placed_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
-- Not unique, because the inbox ensures that a job runs once.
CREATE INDEX IF NOT EXISTS orders_job ON orders (job_id);
CREATE TABLE IF NOT EXISTS accounts (
    customer TEXT PRIMARY KEY,
    cents INTEGER NOT NULL CHECK (cents >= 0)
);
-- A refund deletes its payment.
CREATE TABLE IF NOT EXISTS payments (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL,
    customer TEXT NOT NULL,
    cents INTEGER NOT NULL,
    -- The order that it paid.
    order_number INTEGER,
    created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS payments_job ON payments (job_id);
-- Stock that is taken for orders that are not placed yet.
CREATE TABLE IF NOT EXISTS reservations (
    job_id TEXT NOT NULL,
    sku TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS reservations_job ON reservations (job_id);
CREATE TABLE IF NOT EXISTS pick_lists (
    order_number INTEGER NOT NULL,
    lines TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS pick_lists_order ON pick_lists (order_number);
