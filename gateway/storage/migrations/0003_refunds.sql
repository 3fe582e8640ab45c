-- Refunds: money of one payment on its way back. The table that 0001 reserved was never written, so it is made anew.
-- `refund_id` is also the number that the channel knows it by. Cases learn how they ended, and money that was held can
-- become an order's credit when people accept it.

DROP TABLE refunds;

CREATE TABLE refunds (
    refund_id           text COLLATE "C" PRIMARY KEY CHECK (refund_id ~ '^[0-9A-Z]{32}$'),
    app_id              text COLLATE "C" NOT NULL,
    order_id            text COLLATE "C" NOT NULL,
    out_refund_no       text COLLATE "C",              -- the app's own number; null: nobody asked for it, the rules did
    cause               text NOT NULL CHECK (cause IN ('app', 'excess', 'late', 'people')),
    attempt_id          text COLLATE "C" NOT NULL,
    channel             text NOT NULL,
    account             text NOT NULL,
    channel_transaction text NOT NULL,
    amount              bigint NOT NULL CHECK (amount > 0),
    reason              text NOT NULL DEFAULT '',
    state               text NOT NULL CHECK (state IN
                            ('submitting', 'unknown', 'processing', 'succeeded', 'failed', 'abnormal', 'reversed')),
    channel_refund      text,
    failure_code        text,
    failure_message     text,
    submits             smallint NOT NULL DEFAULT 1,
    step                smallint NOT NULL DEFAULT 0,
    started_at          timestamptz NOT NULL,          -- with the number, it names the refund at its channel
    submitted_at        timestamptz NOT NULL,
    succeeded_at        timestamptz,
    next_check_at       timestamptz,                   -- as in orders: the timer's truth, and the sweep's lease
    CONSTRAINT refunds_natural_key UNIQUE (app_id, out_refund_no),
    CONSTRAINT refunds_cause CHECK ((cause = 'app') = (out_refund_no IS NOT NULL))
) WITH (fillfactor = 75);

CREATE INDEX refunds_of_order ON refunds (order_id);
CREATE INDEX refunds_due ON refunds (next_check_at) WHERE next_check_at IS NOT NULL;

GRANT SELECT, INSERT, UPDATE ON refunds TO holdfast_gateway;

ALTER TABLE cases ADD COLUMN resolution text;          -- what was done: paid, closed, refunded, or what people chose
ALTER TABLE cases ADD COLUMN resolved_by text;
ALTER TABLE cases ADD COLUMN resolution_note text;     -- why, in their words
ALTER TABLE cases ADD COLUMN resolved_version integer; -- the transition that ended it

ALTER TABLE cases ADD COLUMN app_id text COLLATE "C";  -- null: no order of ours (a notification's), or opened by a release before

UPDATE cases c SET app_id = o.app_id FROM orders o WHERE o.order_id = c.order_id;

CREATE INDEX cases_of_order ON cases (order_id) WHERE resolved_at IS NULL;
CREATE INDEX cases_open_of_app ON cases (app_id, opened_at, order_id, version) WHERE resolved_at IS NULL;
CREATE INDEX cases_resolved_of_app ON cases (app_id, opened_at, order_id, version) WHERE resolved_at IS NOT NULL;

GRANT UPDATE (kind) ON payments TO holdfast_gateway;   -- held -> credit, when people accept it; nothing else of it changes

ALTER TABLE orders DROP CONSTRAINT orders_late_payment_check;
ALTER TABLE orders ADD CONSTRAINT orders_late_payment CHECK (late_payment IN ('accept', 'refund', 'hold')) NOT VALID;
ALTER TABLE orders VALIDATE CONSTRAINT orders_late_payment;
