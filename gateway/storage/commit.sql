-- The sections of the one statement a flush sends. statement.py strings together those that its batch needs, in this order;
-- those with {column:type} take arrays. `applied` names the orders that were born or moved: everything else is inserted for
-- those alone. A create that names a buyer must first win its fingerprint (submissions), for which it must be new: one that
-- is refused as a conflict was never submitted. The `= ANY` in `moved` makes every plan an index scan that locks rows in key
-- order: two processes can not deadlock, and statistics of an empty table can not turn it into a scan of the whole table.

-- section: births
SELECT * FROM unnest(
    {order_id:text}, {app_id:text}, {out_order_no:text}, {amount:bigint}, {currency:text}, {subject:text}, {buyer:text},
    {items:text}, {metadata:text}, {webhook_url:text}, {return_url:text}, {late_payment:text}, {fingerprint:bytea},
    {created_at_ms:bigint}, {expires_at_ms:bigint}, {next_check_at_ms:bigint}, {op_id:bigint}, {window_ms:int})
    AS b (order_id, app_id, out_order_no, amount, currency, subject, buyer, items, metadata, webhook_url, return_url,
          late_payment, fingerprint, created_at_ms, expires_at_ms, next_check_at_ms, op_id, window_ms)

-- section: claimed
INSERT INTO submissions (app_id, fingerprint, out_order_no, expires_at)
SELECT b.app_id, b.fingerprint, b.out_order_no, clock_timestamp() + b.window_ms * interval '1 millisecond'
FROM births b
WHERE b.fingerprint IS NOT NULL
  AND (SELECT true FROM orders o WHERE o.app_id = b.app_id AND o.out_order_no = b.out_order_no) IS NULL
ORDER BY b.app_id, b.fingerprint
ON CONFLICT (app_id, fingerprint) DO UPDATE SET out_order_no = EXCLUDED.out_order_no, expires_at = EXCLUDED.expires_at
    WHERE submissions.expires_at <= clock_timestamp() OR submissions.out_order_no = EXCLUDED.out_order_no
RETURNING app_id, fingerprint

-- section: born
INSERT INTO orders (order_id, app_id, out_order_no, amount, currency, subject, buyer, items, metadata, webhook_url,
                    return_url, late_payment, fingerprint, state, version, created_at, expires_at, next_check_at)
SELECT b.order_id, b.app_id, b.out_order_no, b.amount, b.currency, b.subject, b.buyer, b.items::json, b.metadata::json,
       b.webhook_url, b.return_url, b.late_payment, b.fingerprint, 'created', 1,
       to_timestamp(b.created_at_ms::float8 / 1000), to_timestamp(b.expires_at_ms::float8 / 1000),
       to_timestamp(b.next_check_at_ms::float8 / 1000)
FROM births b
WHERE b.fingerprint IS NULL OR (b.app_id, b.fingerprint) IN (SELECT app_id, fingerprint FROM claimed)
ON CONFLICT (app_id, out_order_no) DO NOTHING
RETURNING order_id

-- section: born_events
INSERT INTO events (order_id, version, at, type, state, op_id)
SELECT b.order_id, 1, to_timestamp(b.created_at_ms::float8 / 1000), 'OrderCreated', 'created', b.op_id
FROM births b JOIN born USING (order_id)

-- section: moves
SELECT * FROM unnest(
    {order_id:text}, {version:int}, {state:text}, {reason:text}, {paid_amount:bigint}, {refunded_amount:bigint}, {late:bool},
    {paid_at_ms:bigint}, {closed_at_ms:bigint}, {step:int}, {next_check_at_ms:bigint}, {at_ms:bigint}, {type:text},
    {op_id:bigint}, {evidence:text})
    AS m (order_id, version, state, reason, paid_amount, refunded_amount, late, paid_at_ms, closed_at_ms, step,
          next_check_at_ms, at_ms, type, op_id, evidence)

-- section: moved
UPDATE orders o
SET state = m.state, reason = m.reason, version = m.version, paid_amount = m.paid_amount,
    refunded_amount = m.refunded_amount, late = m.late, paid_at = to_timestamp(m.paid_at_ms::float8 / 1000),
    closed_at = to_timestamp(m.closed_at_ms::float8 / 1000), step = m.step,
    next_check_at = to_timestamp(m.next_check_at_ms::float8 / 1000)
FROM moves m
WHERE o.order_id = ANY (ARRAY(SELECT order_id FROM moves)) AND o.order_id = m.order_id AND o.version = m.version - 1
RETURNING o.order_id

-- section: moved_events
INSERT INTO events (order_id, version, at, type, state, op_id, evidence)
SELECT m.order_id, m.version, to_timestamp(m.at_ms::float8 / 1000), m.type, m.state, m.op_id, m.evidence::json
FROM moves m JOIN moved USING (order_id)

-- section: attempts
INSERT INTO attempts (attempt_id, order_id, number, channel, account, method, params, state, credential, failure_code,
                      failure_message, submits, started_at, submitted_at)
SELECT a.attempt_id, a.order_id, a.number, a.channel, a.account, a.method, a.params::json, a.state, a.credential::json,
       a.failure_code, a.failure_message, a.submits, to_timestamp(a.started_at_ms::float8 / 1000),
       to_timestamp(a.submitted_at_ms::float8 / 1000)
FROM unnest({attempt_id:text}, {order_id:text}, {number:int}, {channel:text}, {account:text}, {method:text}, {params:text},
            {state:text}, {credential:text}, {failure_code:text}, {failure_message:text}, {submits:int},
            {started_at_ms:bigint}, {submitted_at_ms:bigint})
     AS a (attempt_id, order_id, number, channel, account, method, params, state, credential, failure_code,
           failure_message, submits, started_at_ms, submitted_at_ms)
JOIN applied USING (order_id)
ON CONFLICT (attempt_id) DO UPDATE
SET state = EXCLUDED.state, credential = EXCLUDED.credential, failure_code = EXCLUDED.failure_code,
    failure_message = EXCLUDED.failure_message, submits = EXCLUDED.submits, submitted_at = EXCLUDED.submitted_at

-- section: payments
INSERT INTO payments (channel, account, channel_transaction, order_id, attempt_id, kind, amount, currency, success_at,
                      learned_at, learned_by)
SELECT p.channel, p.account, p.channel_transaction, p.order_id, p.attempt_id, p.kind, p.amount, p.currency,
       to_timestamp(p.success_at_ms::float8 / 1000), to_timestamp(p.learned_at_ms::float8 / 1000), p.learned_by
FROM unnest({channel:text}, {account:text}, {channel_transaction:text}, {order_id:text}, {attempt_id:text}, {kind:text},
            {amount:bigint}, {currency:text}, {success_at_ms:bigint}, {learned_at_ms:bigint}, {learned_by:text})
     AS p (channel, account, channel_transaction, order_id, attempt_id, kind, amount, currency, success_at_ms,
           learned_at_ms, learned_by)
JOIN applied USING (order_id)

-- section: accepted
UPDATE payments p
SET kind = 'credit'
FROM unnest({channel:text}, {account:text}, {channel_transaction:text}, {order_id:text})
     AS a (channel, account, channel_transaction, order_id)
JOIN applied USING (order_id)
WHERE p.channel = a.channel AND p.account = a.account AND p.channel_transaction = a.channel_transaction AND p.kind = 'held'

-- section: refunds
INSERT INTO refunds (refund_id, app_id, order_id, out_refund_no, cause, attempt_id, channel, account, channel_transaction,
                     amount, reason, state, channel_refund, failure_code, failure_message, submits, step, started_at,
                     submitted_at, succeeded_at, next_check_at)
SELECT r.refund_id, r.app_id, r.order_id, r.out_refund_no, r.cause, r.attempt_id, r.channel, r.account,
       r.channel_transaction, r.amount, r.reason, r.state, r.channel_refund, r.failure_code, r.failure_message, r.submits,
       r.step, to_timestamp(r.started_at_ms::float8 / 1000), to_timestamp(r.submitted_at_ms::float8 / 1000),
       to_timestamp(r.succeeded_at_ms::float8 / 1000), to_timestamp(r.next_check_at_ms::float8 / 1000)
FROM unnest({refund_id:text}, {app_id:text}, {order_id:text}, {out_refund_no:text}, {cause:text}, {attempt_id:text},
            {channel:text}, {account:text}, {channel_transaction:text}, {amount:bigint}, {reason:text}, {state:text},
            {channel_refund:text}, {failure_code:text}, {failure_message:text}, {submits:int}, {step:int},
            {started_at_ms:bigint}, {submitted_at_ms:bigint}, {succeeded_at_ms:bigint}, {next_check_at_ms:bigint})
     AS r (refund_id, app_id, order_id, out_refund_no, cause, attempt_id, channel, account, channel_transaction, amount,
           reason, state, channel_refund, failure_code, failure_message, submits, step, started_at_ms, submitted_at_ms,
           succeeded_at_ms, next_check_at_ms)
JOIN applied USING (order_id)
ON CONFLICT (refund_id) DO UPDATE
SET state = EXCLUDED.state, channel_refund = EXCLUDED.channel_refund, failure_code = EXCLUDED.failure_code,
    failure_message = EXCLUDED.failure_message, submits = EXCLUDED.submits, step = EXCLUDED.step,
    submitted_at = EXCLUDED.submitted_at, succeeded_at = EXCLUDED.succeeded_at, next_check_at = EXCLUDED.next_check_at

-- section: settled
UPDATE cases c
SET resolved_at = to_timestamp(s.at_ms::float8 / 1000), resolution = s.resolution, resolved_by = s.resolved_by,
    resolution_note = s.note, resolved_version = s.resolved_version
FROM unnest({order_id:text}, {reasons:text}, {version:int}, {resolution:text}, {resolved_by:text}, {note:text},
            {resolved_version:int}, {at_ms:bigint})
     AS s (order_id, reasons, version, resolution, resolved_by, note, resolved_version, at_ms)
JOIN applied USING (order_id)
WHERE c.order_id = s.order_id AND c.resolved_at IS NULL AND c.reason = ANY (string_to_array(s.reasons, ' '))
  AND (s.version IS NULL OR c.version = s.version)

-- section: cases
INSERT INTO cases (order_id, version, app_id, reason, evidence, opened_at)
SELECT c.order_id, c.version, c.app_id, c.reason, c.evidence::json, to_timestamp(c.opened_at_ms::float8 / 1000)
FROM unnest({order_id:text}, {version:int}, {app_id:text}, {reason:text}, {evidence:text}, {opened_at_ms:bigint})
     AS c (order_id, version, app_id, reason, evidence, opened_at_ms)
JOIN applied USING (order_id)

-- section: outbox
INSERT INTO outbox (event_id, app_id, order_id, seq, type, url, body, next_try_at, created_at)
SELECT w.event_id, w.app_id, w.order_id, w.seq, w.type, coalesce(nullif(w.url, ''), apps.webhook_url), w.body,
       clock_timestamp() + w.lease_ms * interval '1 millisecond', to_timestamp(w.created_at_ms::float8 / 1000)
FROM unnest({event_id:text}, {app_id:text}, {order_id:text}, {seq:int}, {type:text}, {url:text}, {body:bytea},
            {lease_ms:int}, {created_at_ms:bigint})
     AS w (event_id, app_id, order_id, seq, type, url, body, lease_ms, created_at_ms)
JOIN applied USING (order_id)
LEFT JOIN apps ON w.url = '' AND apps.app_id = w.app_id
WHERE coalesce(nullif(w.url, ''), apps.webhook_url) IS NOT NULL

-- section: arrivals
INSERT INTO notifications (notification_id, channel, order_id, attempt, verdict, headers, body, received_at)
SELECT n.notification_id, n.channel, n.order_id, n.attempt, n.verdict, n.headers::json, n.body,
       to_timestamp(n.received_at_ms::float8 / 1000)
FROM unnest({notification_id:bigint}, {channel:text}, {order_id:text}, {attempt:text}, {verdict:text}, {headers:text},
            {body:bytea}, {received_at_ms:bigint})
     AS n (notification_id, channel, order_id, attempt, verdict, headers, body, received_at_ms)
ON CONFLICT (notification_id) DO NOTHING
