-- The topics of the process that had the lease last, in order, with `, ` between them. NULL before the first lease, and
-- after a reset.
ALTER TABLE leveret_projections ADD COLUMN topics TEXT;
