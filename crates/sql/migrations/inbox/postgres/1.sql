-- Jobs that were done, noted in the transaction that did them. Ids are bytes: no two of them are taken for one.
CREATE TABLE leveret_inbox (
    queue TEXT NOT NULL,
    job_id BYTEA NOT NULL,
    done_at BIGINT NOT NULL,
    PRIMARY KEY (queue, job_id)
);
CREATE INDEX leveret_inbox_done ON leveret_inbox (done_at);
