-- Jobs that were done, recorded in the transaction of their effect. Ids are bytes, so that no two count as one.
CREATE TABLE leveret_inbox (
    queue TEXT NOT NULL,
    job_id BLOB NOT NULL,
    done_at INTEGER NOT NULL,
    PRIMARY KEY (queue, job_id)
) WITHOUT ROWID;
CREATE INDEX leveret_inbox_done ON leveret_inbox (done_at);
