-- An attempt's first moment. UnionPay knows an order by its number *and* this time, so it never changes, however often the
-- attempt is sent (submitted_at does). Processes of the release before insert without it: the default is their moment.

ALTER TABLE attempts ADD COLUMN started_at timestamptz;
UPDATE attempts SET started_at = submitted_at;
ALTER TABLE attempts ALTER COLUMN started_at SET DEFAULT clock_timestamp(), ALTER COLUMN started_at SET NOT NULL;
