-- Jobs that were done, recorded in the transaction of their effect. Ids are bytes, so that no two count as one.
CREATE TABLE leveret_inbox (
    queue TEXT NOT NULL,
    job_id BYTEA NOT NULL,
    done_at BIGINT NOT NULL,
    PRIMARY KEY (queue, job_id)
);
CREATE INDEX leveret_inbox_done ON leveret_inbox (done_at);
