-- An attempt's first moment. UnionPay knows an order by its number *and* this time, so it never changes, however often the
-- attempt is sent (submitted_at does). Processes of the release before insert without it: the default is their moment.
-- What has ended is not sent again: its submitted_at stays what it is and is read in its place. To rewrite a large table
-- would keep every gateway waiting for half a minute a million attempts.

ALTER TABLE attempts ADD COLUMN started_at timestamptz;
ALTER TABLE attempts ALTER COLUMN started_at SET DEFAULT clock_timestamp();
UPDATE attempts SET started_at = submitted_at WHERE state IN ('submitting', 'pending', 'unknown', 'closing');
