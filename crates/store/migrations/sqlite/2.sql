-- Distinguishes a tracked job from others with the same id; and that id, if the row has another one.
ALTER TABLE leveret_jobs ADD COLUMN origin TEXT;
ALTER TABLE leveret_jobs ADD COLUMN wire_id TEXT;

-- Only the end of the job that took a key frees it early.
ALTER TABLE leveret_unique ADD COLUMN origin TEXT;

-- Random, in hexadecimal: proves that a slot was given by this limit.
ALTER TABLE leveret_rates ADD COLUMN secret TEXT;
