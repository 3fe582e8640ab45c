-- Gives the table `holdfast.table` an empty first page: a row that fits no constraint, in a transaction that is always
-- rolled back (migrate.py, seed_statistics). It names no column, so that no migration has to think of it.
DO $$
DECLARE
    hot regclass := current_setting('holdfast.table');
    rule name;
BEGIN
    FOR rule IN
        SELECT conname FROM pg_constraint WHERE conrelid = hot ORDER BY contype = 'n'   -- NOT NULL after the primary key
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I CASCADE', hot, rule);
    END LOOP;
    EXECUTE format('INSERT INTO %s DEFAULT VALUES', hot);
END $$;
