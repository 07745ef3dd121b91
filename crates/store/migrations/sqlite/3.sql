-- Workflows, one row each. Times are milliseconds since the epoch.
CREATE TABLE leveret_workflows (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    -- Distinguishes another definition under the same id.
    digest TEXT NOT NULL,
    -- Of the definition: its labels, the job that runs once the workflow has failed, whether steps are tracked.
    labels TEXT NOT NULL,
    on_failure TEXT,
    track BIGINT NOT NULL,
    -- The engine's row, and what lists and metrics select by.
    state TEXT NOT NULL,
    status TEXT NOT NULL,
    waiting_for TEXT,
    -- The queue that does not exist, while a job waits for it.
    blocked_queue TEXT,
    -- Other definitions under this id, which were refused.
    conflicts BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    started_at BIGINT,
    ended_at BIGINT,
    deadline_at BIGINT,
    -- The same, until the deadline has been handled.
    deadline_due BIGINT
);
CREATE INDEX leveret_workflows_created ON leveret_workflows (created_at, id);
CREATE INDEX leveret_workflows_status ON leveret_workflows (status, created_at, id);
CREATE INDEX leveret_workflows_deadline ON leveret_workflows (deadline_due)
    WHERE deadline_due IS NOT NULL AND ended_at IS NULL;
CREATE INDEX leveret_workflows_ended ON leveret_workflows (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX leveret_workflows_open ON leveret_workflows (created_at) WHERE ended_at IS NULL;

-- Steps, in the order in which they were defined.
CREATE TABLE leveret_workflow_steps (
    workflow BIGINT NOT NULL,
    position BIGINT NOT NULL,
    name TEXT NOT NULL,
    -- The job without its payload, and the job that compensates the step.
    spec TEXT NOT NULL,
    compensation TEXT,
    -- The engine's row, and what the engine selects by.
    state TEXT NOT NULL,
    phase TEXT NOT NULL,
    -- The number of its last success, while the step is to be compensated if the workflow fails.
    compensable BIGINT,
    published_at BIGINT,
    ended_at BIGINT,
    PRIMARY KEY (workflow, position)
);
CREATE UNIQUE INDEX leveret_workflow_steps_name ON leveret_workflow_steps (workflow, name);

-- The payloads of steps: one for a step, one for each member of a group. They never change.
CREATE TABLE leveret_workflow_payloads (
    workflow BIGINT NOT NULL,
    step BIGINT NOT NULL,
    member BIGINT NOT NULL,
    payload TEXT NOT NULL,
    PRIMARY KEY (workflow, step, member)
) WITHOUT ROWID;

-- What became of the jobs of steps (role 0), and of those that compensate (role 1) or run after a failure (role 2, step -1).
-- A job that has not ended in its first life has no row.
CREATE TABLE leveret_workflow_jobs (
    workflow BIGINT NOT NULL,
    step BIGINT NOT NULL,
    role BIGINT NOT NULL,
    member BIGINT NOT NULL,
    life BIGINT NOT NULL,
    outcome TEXT,
    error_kind TEXT,
    error TEXT,
    replayed_at BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    started_at BIGINT,
    ended_at BIGINT,
    worker TEXT,
    result TEXT,
    too_large BIGINT,
    PRIMARY KEY (workflow, step, role, member)
) WITHOUT ROWID;
CREATE INDEX leveret_workflow_jobs_failed ON leveret_workflow_jobs (workflow, step, member)
    WHERE outcome = 'failed' AND role = 0;

-- What is to be published, written in the transaction that decides it and deleted after the confirm.
CREATE TABLE leveret_workflow_outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    workflow BIGINT NOT NULL,
    -- `step`, `compensation`, `on_failure` or `cancel`.
    kind TEXT NOT NULL,
    step BIGINT NOT NULL,
    -- The members that are not published yet: from the first on, before the last.
    first BIGINT NOT NULL,
    last BIGINT NOT NULL,
    life BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    -- The time from which any server may publish it. A server that works on it sets it ahead.
    due_at BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    -- The queue that did not exist at the last attempt.
    blocked_queue TEXT,
    -- The reason why it waits, while no server works on it.
    error TEXT
);
CREATE INDEX leveret_workflow_outbox_due ON leveret_workflow_outbox (due_at, id);
CREATE INDEX leveret_workflow_outbox_workflow ON leveret_workflow_outbox (workflow);
CREATE INDEX leveret_workflow_outbox_blocked ON leveret_workflow_outbox (blocked_queue, id)
    WHERE blocked_queue IS NOT NULL;
