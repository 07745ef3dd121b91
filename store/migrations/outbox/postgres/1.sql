-- Jobs that were enqueued in a transaction and wait for a relay. Times are milliseconds since the epoch.
-- Half of each page is kept free, so that a lease is written without a change of any index.
CREATE TABLE leveret_outbox (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL CHECK (octet_length(id) BETWEEN 1 AND 255),
    job TEXT NOT NULL CHECK (job ~ '^[a-z0-9_.-]{1,128}$'),
    queue TEXT NOT NULL CHECK (octet_length(queue) BETWEEN 1 AND 255),
    payload BYTEA NOT NULL,
    options TEXT NOT NULL DEFAULT '{}',
    order_key TEXT CHECK (octet_length(order_key) BETWEEN 1 AND 255),
    enqueued_at BIGINT NOT NULL,
    tries BIGINT NOT NULL DEFAULT 0,
    reason TEXT,
    -- 0, or when it is tried again.
    ready_at BIGINT NOT NULL DEFAULT 0,
    -- Whose it is, and until when.
    lease BIGINT,
    leased_until BIGINT NOT NULL DEFAULT 0,
    set_aside_at BIGINT,
    published_at BIGINT
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 10000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX leveret_outbox_ready ON leveret_outbox (ready_at, seq)
    WHERE order_key IS NULL AND published_at IS NULL AND set_aside_at IS NULL;
CREATE INDEX leveret_outbox_order ON leveret_outbox (order_key, seq)
    WHERE order_key IS NOT NULL AND published_at IS NULL;
CREATE INDEX leveret_outbox_set_aside ON leveret_outbox (seq) WHERE set_aside_at IS NOT NULL;
CREATE INDEX leveret_outbox_published ON leveret_outbox (published_at) WHERE published_at IS NOT NULL;

-- Wakes the relays when the transaction commits. It is a hint: without it they find the row within a second.
CREATE FUNCTION leveret_outbox_wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY leveret_outbox;
    RETURN NULL;
END
$$;
CREATE TRIGGER leveret_outbox_wake AFTER INSERT ON leveret_outbox
    FOR EACH STATEMENT EXECUTE FUNCTION leveret_outbox_wake();

-- Enqueues a job in the caller's transaction, and returns its id. For whoever has no Rust.
CREATE FUNCTION leveret_enqueue(
    job TEXT,
    queue TEXT,
    payload JSONB,
    id TEXT DEFAULT NULL,
    delay INTERVAL DEFAULT NULL,
    due TIMESTAMPTZ DEFAULT NULL,
    expires INTERVAL DEFAULT NULL,
    priority INT DEFAULT NULL,
    headers JSONB DEFAULT NULL,
    correlation_id TEXT DEFAULT NULL,
    label TEXT DEFAULT NULL,
    track BOOLEAN DEFAULT NULL,
    order_key TEXT DEFAULT NULL,
    lanes BOOLEAN DEFAULT NULL
) RETURNS TEXT LANGUAGE plpgsql AS $$
DECLARE
    now_ms BIGINT := floor(extract(epoch FROM clock_timestamp()) * 1000);
    not_before BIGINT := floor(extract(epoch FROM coalesce(due, clock_timestamp() + delay)) * 1000);
    expires_at BIGINT := now_ms + floor(extract(epoch FROM expires) * 1000);
    -- A UUIDv7: the time in 48 bits, then random ones, with the version and the variant of version 4 turned into 7.
    minted TEXT := encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send(now_ms) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid;
    given ALIAS FOR id;
BEGIN
    IF priority NOT BETWEEN 0 AND 31 THEN
        RAISE EXCEPTION 'priority % is not from 0 to 31', priority USING ERRCODE = 'check_violation';
    END IF;
    IF expires_at <= greatest(not_before, now_ms) THEN
        RAISE EXCEPTION 'expires after %: it must be longer than the delay of % ms, or the job expires before it can run',
            expires, greatest(not_before - now_ms, 0) USING ERRCODE = 'check_violation';
    END IF;
    IF octet_length(label) > 1024 OR octet_length(correlation_id) > 255 THEN
        RAISE EXCEPTION 'a label has at most 1024 bytes, a correlation id 255' USING ERRCODE = 'check_violation';
    END IF;
    IF order_key IS NOT NULL THEN
        -- Until the commit: so the numbers of one key are in the order in which they can be seen.
        PERFORM pg_advisory_xact_lock(1818588773, hashtext(order_key));
    END IF;
    INSERT INTO leveret_outbox (id, job, queue, payload, options, order_key, enqueued_at)
    VALUES (coalesce(given, minted), job, queue, convert_to(payload::text, 'UTF8'),
        jsonb_strip_nulls(jsonb_build_object('not_before', not_before, 'expires_at', expires_at, 'priority', priority,
            'headers', headers, 'correlation_id', correlation_id, 'label', label, 'track', track,
            'lanes', lanes))::text,
        order_key, now_ms);
    RETURN coalesce(given, minted);
END
$$;
