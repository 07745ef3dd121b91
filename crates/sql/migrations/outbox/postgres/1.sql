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
    -- 0, or the time of the next attempt.
    ready_at BIGINT NOT NULL DEFAULT 0,
    -- The relay that has claimed the row, and until when.
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

-- Enqueues a job in the caller's transaction, and returns its id. For programs without Rust. It refuses what `Outbox` refuses
-- in Rust. The payload is JSON rather than JSONB, so that it is published as it was written.
CREATE FUNCTION leveret_enqueue(
    job TEXT,
    queue TEXT,
    payload JSON,
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
    -- Not yet whole numbers: a time may be infinite.
    start TIMESTAMPTZ := coalesce(due, clock_timestamp() + delay);
    due_ms NUMERIC := CASE WHEN start IS NOT NULL THEN greatest(extract(epoch FROM start) * 1000, 0) END;
    end_ms NUMERIC := now_ms + extract(epoch FROM expires) * 1000;
    latest_ms BIGINT := now_ms + 315360000000;
    -- A UUIDv7: the time in 48 bits, then random ones, with the version and the variant of version 4 turned into 7.
    minted TEXT := encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send(now_ms) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid;
    given ALIAS FOR id;
    -- The control characters of Unicode in UTF-8, as `names::queue` refuses them. [[:cntrl:]] depends on the locale.
    has_control BOOLEAN := encode(convert_to(queue, 'UTF8'), 'hex') ~ '^(?:..)*(?:[01].|7f|c2[89].)';
    fault TEXT := CASE
        WHEN delay IS NOT NULL AND due IS NOT NULL THEN 'delay, due: set one of them, not both'
        WHEN priority NOT BETWEEN 0 AND 31 THEN format('priority %s: it must be 0 to 31', priority)
        WHEN octet_length(label) > 1024 THEN 'label: it must have at most 1024 bytes'
        WHEN octet_length(correlation_id) > 255 THEN 'correlation_id: it must have at most 255 bytes'
        WHEN delay < INTERVAL '0' THEN format('delay %s: it must not be negative', delay)
        WHEN expires < INTERVAL '0' THEN format('expires %s: it must not be negative', expires)
        WHEN due_ms >= latest_ms OR end_ms >= latest_ms THEN 'delay, due, expires: must be less than ten years ahead'
        WHEN end_ms <= greatest(due_ms, now_ms) THEN format('expires %s: the job would expire before it is due', expires)
        WHEN has_control THEN 'queue: it must have no control characters'
        WHEN jsonb_typeof(headers) <> 'object' THEN 'headers: must be a JSON object'
    END;
    name TEXT;
    value JSONB;
    -- The bytes of the headers in a message. Rust allows 112 KiB for them and all else besides the payload, such as the
    -- id and the label. All else has less than 2 KiB, so 110 KiB are left.
    size BIGINT := 0;
BEGIN
    IF fault IS NULL THEN
        FOR name, value IN SELECT * FROM jsonb_each(headers) LOOP
            IF octet_length(name) NOT BETWEEN 1 AND 255 OR name ~ '^(leveret-|x-)' OR name IN ('CC', 'BCC') THEN
                fault := format('header %L: its name must have 1 to 255 bytes, start with neither leveret- nor x-, and be '
                    'neither CC nor BCC', name);
            ELSIF jsonb_typeof(value) IN ('array', 'object') OR jsonb_typeof(value) = 'number'
                AND (value::text !~ '^-?[0-9]+$'
                    OR value::text::numeric NOT BETWEEN -9223372036854775808 AND 9223372036854775807) THEN
                fault := format('header %L: its value must be a text, a whole number or a boolean', name);
            END IF;
            size := size + CASE jsonb_typeof(value)
                WHEN 'null' THEN 0
                WHEN 'string' THEN 6 + octet_length(name) + octet_length(value #>> '{}')
                ELSE 10 + octet_length(name)
            END;
        END LOOP;
        IF fault IS NULL AND size > 112640 THEN
            fault := format('headers of %s bytes: they must have at most 112640 bytes', size);
        END IF;
    END IF;
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION 'the job cannot be enqueued: %', fault USING ERRCODE = 'check_violation';
    END IF;
    IF order_key IS NOT NULL THEN
        -- Held until the commit, so that the numbers of one key are in the order of the commits.
        PERFORM pg_advisory_xact_lock(1818588773, hashtext(order_key));
    END IF;
    INSERT INTO leveret_outbox (id, job, queue, payload, options, order_key, enqueued_at)
    VALUES (coalesce(given, minted), job, queue, convert_to(payload::text, 'UTF8'),
        jsonb_strip_nulls(jsonb_build_object('not_before', floor(due_ms)::bigint, 'expires_at', floor(end_ms)::bigint,
            'priority', priority, 'headers', headers, 'correlation_id', correlation_id, 'label', label,
            'track', track, 'lanes', lanes))::text,
        order_key, now_ms);
    RETURN coalesce(given, minted);
END
$$;
-- The function finds its table whatever the caller's search path.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION %1$I.leveret_enqueue SET search_path = pg_catalog, %1$I, pg_temp', current_schema());
END
$$;
