-- The shop's own truth. Times are unix seconds of this machine.
CREATE TABLE IF NOT EXISTS orders (
    out_order_no    TEXT PRIMARY KEY,
    subject         TEXT NOT NULL,
    amount          INTEGER NOT NULL CHECK (amount > 0),
    currency        TEXT NOT NULL,
    buyer           TEXT,
    channel         TEXT NOT NULL,                 -- what the customer chose to pay with
    method          TEXT NOT NULL,
    created_at      REAL NOT NULL,
    order_id        TEXT,                          -- null until the gateway has answered the create
    credential      TEXT,                          -- JSON: what the customer scans or opens; null until the gateway gave it
    state           TEXT NOT NULL DEFAULT 'new',   -- new, then the gateway's states
    seq             INTEGER NOT NULL DEFAULT 0,    -- the newest version of the order we know
    paid_amount     INTEGER NOT NULL DEFAULT 0,
    paid_at         REAL,                          -- when we learned it
    learned_by      TEXT,                          -- webhook, or answer: we asked ourselves
    fulfilled_count INTEGER NOT NULL DEFAULT 0,    -- goods sent: more than one is money lost
    ask_at          REAL,                          -- when to ask if nothing was heard; null when there is nothing to wait for
    asked_count     INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS orders_to_ask ON orders (ask_at) WHERE ask_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS inbox (
    webhook_id     TEXT PRIMARY KEY,
    out_order_no   TEXT NOT NULL,
    type           TEXT NOT NULL,
    seq            INTEGER NOT NULL,
    received_at    REAL NOT NULL,
    delivery_count INTEGER NOT NULL DEFAULT 1,     -- how often it came
    effective      INTEGER NOT NULL                -- 1: it told us something new
);
