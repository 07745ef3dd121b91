-- What a later delivery of the job reports: its result, and the steps that it added to its workflow, as JSON.
ALTER TABLE leveret_inbox ADD COLUMN success TEXT;
