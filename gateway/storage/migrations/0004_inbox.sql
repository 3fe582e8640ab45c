-- The inbox of notifications. A verified one that speaks of an order nobody knows is parked: told again by us until the order
-- turns up (restored, or on its way from another database), while its channel is refused; then it is a case for people.
-- Its row stays without next_try_at, so that the same money said once more begins no second ladder.

CREATE TABLE parked (
    notification_id     bigint PRIMARY KEY,
    order_id            text COLLATE "C" NOT NULL,
    channel             text NOT NULL,
    account             text NOT NULL,
    channel_transaction text NOT NULL,
    said                json NOT NULL,             -- the payment that was verified
    tries               integer NOT NULL DEFAULT 0,
    next_try_at         timestamptz,               -- also the lease of the process that tells it
    parked_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT parked_once UNIQUE (channel, account, channel_transaction)
);

CREATE INDEX parked_due ON parked (next_try_at) WHERE next_try_at IS NOT NULL;
CREATE INDEX parked_of_order ON parked (order_id);

-- What strangers sent is forgotten sooner than what a channel said; queries.sql names the same verdicts.
CREATE INDEX notifications_unverified ON notifications (notification_id) WHERE verdict IN
    ('malformed', 'bad_signature', 'signature_probe', 'unknown_key', 'stale', 'unreadable', 'too_large');

GRANT SELECT, INSERT, UPDATE, DELETE ON parked TO holdfast_gateway;
GRANT DELETE ON notifications TO holdfast_gateway;     -- by age; a notification is still never changed
