-- The spine: apps, orders and what hangs on them. Every CHECK and index restates a promise of the state machine, so that
-- a bug in the process can not write what must never be. There are no foreign keys between the hot tables: their rows are
-- written by one statement that inserts them only for the order it moved, and a key check a row would cost more than it proves.

CREATE TABLE apps (
    app_id         text COLLATE "C" PRIMARY KEY CHECK (app_id ~ '^[a-z0-9][a-z0-9_-]{0,31}$'),
    webhook_url    text,
    webhook_secret bytea NOT NULL,                 -- sealed with the master key (gateway/sealing.py)
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE app_keys (
    key_hash   bytea PRIMARY KEY CHECK (length(key_hash) = 32),     -- SHA-256; the key itself is shown once
    app_id     text COLLATE "C" NOT NULL REFERENCES apps,
    hint       text NOT NULL,                                       -- the key's first characters, to tell keys apart
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at timestamptz
);

CREATE TABLE orders (
    order_id        text COLLATE "C" PRIMARY KEY CHECK (order_id ~ '^[0-9A-Z]{26}$'),
    app_id          text COLLATE "C" NOT NULL,
    out_order_no    text COLLATE "C" NOT NULL,
    amount          bigint NOT NULL CHECK (amount > 0),
    currency        text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    subject         text NOT NULL,
    buyer           text,
    items           json,
    metadata        json,
    webhook_url     text,
    return_url      text,
    late_payment    text NOT NULL CHECK (late_payment IN ('accept', 'hold')),
    fingerprint     bytea,                         -- of a create that named a buyer (design: duplicate submissions)
    state           text NOT NULL CHECK (state IN ('created', 'paying', 'closing', 'paid', 'closed', 'exception')),
    reason          text,                          -- why the order is in exception
    version         integer NOT NULL CHECK (version > 0),
    paid_amount     bigint NOT NULL DEFAULT 0,
    refunded_amount bigint NOT NULL DEFAULT 0 CHECK (refunded_amount >= 0),
    late            boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL,
    paid_at         timestamptz,
    closed_at       timestamptz,
    step            smallint NOT NULL DEFAULT 0,   -- how many rungs of the current query ladder were used
    next_check_at   timestamptz,                   -- the timer's truth; also the sweep's lease
    CONSTRAINT orders_natural_key UNIQUE (app_id, out_order_no),
    CONSTRAINT orders_refunds_within_paid CHECK (refunded_amount <= paid_amount),
    CONSTRAINT orders_paid_has_money CHECK ((state = 'paid') = (paid_amount > 0)),
    CONSTRAINT orders_exception_has_reason CHECK (state <> 'exception' OR reason IS NOT NULL)
) WITH (fillfactor = 75);

CREATE INDEX orders_due ON orders (next_check_at) WHERE next_check_at IS NOT NULL;

CREATE TABLE attempts (
    attempt_id    text COLLATE "C" PRIMARY KEY CHECK (attempt_id ~ '^[0-9A-Z]{28}$'),   -- goes out as out_trade_no
    order_id      text COLLATE "C" NOT NULL,
    number        smallint NOT NULL CHECK (number BETWEEN 1 AND 99),
    channel       text NOT NULL,
    account       text NOT NULL,
    method        text NOT NULL,
    params        json,
    state         text NOT NULL CHECK (state IN
                      ('submitting', 'pending', 'unknown', 'succeeded', 'failed', 'closing', 'closed')),
    credential    json,
    failure_code  text,
    failure_message text,
    submits       smallint NOT NULL DEFAULT 1,     -- how often it was sent under its one number
    submitted_at  timestamptz NOT NULL,
    CONSTRAINT attempts_out_trade_no UNIQUE (channel, account, attempt_id)
) WITH (fillfactor = 75);

CREATE UNIQUE INDEX attempts_one_live ON attempts (order_id) WHERE state IN ('submitting', 'pending', 'unknown', 'closing');
CREATE INDEX attempts_of_order ON attempts (order_id);

CREATE TABLE payments (
    channel             text NOT NULL,
    account             text NOT NULL,
    channel_transaction text NOT NULL,
    order_id            text COLLATE "C" NOT NULL,
    attempt_id          text COLLATE "C" NOT NULL,
    kind                text NOT NULL CHECK (kind IN ('credit', 'excess', 'held')),
    amount              bigint NOT NULL CHECK (amount > 0),
    currency            text NOT NULL,
    success_at          timestamptz NOT NULL,
    learned_at          timestamptz NOT NULL,
    learned_by          text NOT NULL CHECK (learned_by IN ('notification', 'query')),
    CONSTRAINT payments_once PRIMARY KEY (channel, account, channel_transaction)
);

CREATE UNIQUE INDEX payments_one_credit ON payments (order_id) WHERE kind = 'credit';
CREATE INDEX payments_of_order ON payments (order_id);

CREATE TABLE refunds (
    refund_id     text COLLATE "C" PRIMARY KEY,
    app_id        text COLLATE "C" NOT NULL,
    order_id      text COLLATE "C" NOT NULL,
    out_refund_no text COLLATE "C" NOT NULL,
    amount        bigint NOT NULL CHECK (amount > 0),
    CONSTRAINT refunds_natural_key UNIQUE (app_id, out_refund_no)
);

CREATE TABLE events (
    order_id text COLLATE "C" NOT NULL,
    version  integer NOT NULL,
    at       timestamptz NOT NULL,
    type     text NOT NULL,
    state    text NOT NULL,
    op_id    bigint NOT NULL,                      -- which write made this version: a retry after an unknown outcome finds itself
    evidence json,
    CONSTRAINT events_one_a_version PRIMARY KEY (order_id, version)
);

CREATE TABLE cases (
    order_id    text COLLATE "C" NOT NULL,
    version     integer NOT NULL,                  -- the transition that opened it
    reason      text NOT NULL,
    evidence    json,
    opened_at   timestamptz NOT NULL,
    resolved_at timestamptz,
    PRIMARY KEY (order_id, version)
);

CREATE INDEX cases_open ON cases (opened_at) WHERE resolved_at IS NULL;

CREATE TABLE outbox (
    event_id     text COLLATE "C" PRIMARY KEY,     -- the webhook id: stable over every try
    app_id       text COLLATE "C" NOT NULL,
    order_id     text COLLATE "C" NOT NULL,
    seq          integer NOT NULL,                 -- the order's version: a receiver ignores a lower one
    type         text NOT NULL,
    url          text NOT NULL,
    body         bytea NOT NULL,
    state        text NOT NULL DEFAULT 'owed' CHECK (state IN ('owed', 'delivered', 'dead')),
    tries        integer NOT NULL DEFAULT 0,
    next_try_at  timestamptz NOT NULL,             -- also the lease of the process that delivers it
    last_status  integer,
    last_error   text,
    created_at   timestamptz NOT NULL,
    delivered_at timestamptz
) WITH (fillfactor = 75);

CREATE INDEX outbox_owed ON outbox (next_try_at) WHERE state = 'owed';

CREATE TABLE notifications (
    notification_id bigint PRIMARY KEY,
    channel         text NOT NULL,
    order_id        text NOT NULL,                 -- as the path named it; need not exist
    attempt         text NOT NULL,
    verdict         text NOT NULL,                 -- verified, or why it was not believed
    headers         json NOT NULL,
    body            bytea NOT NULL,
    received_at     timestamptz NOT NULL
);

CREATE INDEX notifications_of_order ON notifications (order_id, received_at);

CREATE TABLE submissions (
    app_id       text COLLATE "C" NOT NULL,
    fingerprint  bytea NOT NULL CHECK (length(fingerprint) = 16),
    out_order_no text COLLATE "C" NOT NULL,
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (app_id, fingerprint)
) WITH (fillfactor = 75);

CREATE INDEX submissions_expired ON submissions (expires_at);

-- The gateway works under this role: what was recorded stays recorded.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_gateway') THEN
        CREATE ROLE holdfast_gateway NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;     -- another database of this cluster was faster
END $$;

GRANT holdfast_gateway TO CURRENT_USER;
GRANT SELECT, INSERT, UPDATE ON apps, app_keys, orders, attempts, cases, outbox, refunds TO holdfast_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON submissions TO holdfast_gateway;
GRANT SELECT, INSERT ON events, payments, notifications TO holdfast_gateway;
