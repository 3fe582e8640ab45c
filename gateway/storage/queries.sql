-- Named queries; gateway/storage/queries.py hands them out by name.

-- query: orders_by_id
SELECT o.order_id, o.app_id, o.out_order_no, o.amount, o.currency, o.subject, o.buyer, o.items, o.metadata, o.webhook_url,
       o.return_url, o.late_payment, o.state, o.reason, o.version, o.paid_amount, o.refunded_amount, o.late, o.step,
       (extract(epoch FROM o.created_at) * 1000)::bigint AS created_at_ms,
       (extract(epoch FROM o.expires_at) * 1000)::bigint AS expires_at_ms,
       (extract(epoch FROM o.next_check_at) * 1000)::bigint AS next_check_at_ms,
       (extract(epoch FROM o.paid_at) * 1000)::bigint AS paid_at_ms,
       (extract(epoch FROM o.closed_at) * 1000)::bigint AS closed_at_ms,
       (SELECT json_agg(json_build_object(
                   'number', a.number, 'channel', a.channel, 'account', a.account, 'method', a.method, 'state', a.state,
                   'started_at_ms', (extract(epoch FROM coalesce(a.started_at, a.submitted_at)) * 1000)::bigint,
                   'submitted_at_ms', (extract(epoch FROM a.submitted_at) * 1000)::bigint, 'submits', a.submits,
                   'params', a.params, 'credential', a.credential, 'failure_code', a.failure_code,
                   'failure_message', a.failure_message) ORDER BY a.number)
        FROM attempts a WHERE a.order_id = o.order_id) AS attempts,
       (SELECT json_agg(json_build_object(
                   'number', right(p.attempt_id, 2)::int, 'channel', p.channel, 'account', p.account,
                   'transaction', p.channel_transaction, 'kind', p.kind, 'amount', p.amount, 'currency', p.currency,
                   'success_at_ms', (extract(epoch FROM p.success_at) * 1000)::bigint,
                   'learned_at_ms', (extract(epoch FROM p.learned_at) * 1000)::bigint,
                   'learned_by', p.learned_by) ORDER BY p.learned_at)
        FROM payments p WHERE p.order_id = o.order_id) AS payments,
       (SELECT json_agg(json_build_object(
                   'refund_id', r.refund_id, 'cause', r.cause, 'number', right(r.attempt_id, 2)::int, 'channel', r.channel,
                   'account', r.account, 'transaction', r.channel_transaction, 'amount', r.amount, 'state', r.state,
                   'started_at_ms', (extract(epoch FROM r.started_at) * 1000)::bigint,
                   'submitted_at_ms', (extract(epoch FROM r.submitted_at) * 1000)::bigint, 'submits', r.submits,
                   'step', r.step, 'next_check_at_ms', (extract(epoch FROM r.next_check_at) * 1000)::bigint,
                   'out_refund_no', r.out_refund_no, 'reason', r.reason, 'channel_refund', r.channel_refund,
                   'failure_code', r.failure_code, 'failure_message', r.failure_message,
                   'succeeded_at_ms', (extract(epoch FROM r.succeeded_at) * 1000)::bigint)
                   ORDER BY r.started_at, r.refund_id)
        FROM refunds r WHERE r.order_id = o.order_id) AS refunds
FROM orders o
WHERE o.order_id = ANY ($1::text[])

-- query: order_id_of
SELECT order_id FROM orders WHERE app_id = $1 AND out_order_no = $2

-- query: duplicate_of
SELECT o.order_id
FROM submissions s
JOIN orders o ON o.app_id = s.app_id AND o.out_order_no = s.out_order_no AND o.fingerprint = s.fingerprint
WHERE s.app_id = $1 AND s.fingerprint = $2 AND s.out_order_no <> $3 AND s.expires_at > clock_timestamp()

-- query: timeline
SELECT version, (extract(epoch FROM at) * 1000)::bigint AS at_ms, type, state, evidence
FROM events
WHERE order_id = $1
ORDER BY version

-- query: claim_due
-- The lease is next_check_at itself, pushed ahead: whoever dies holding it is followed by the next claim. An order is told
-- that it is due at at_ms: by the clock that found it due, or one that runs behind would find it due again and again.
WITH due AS (
    SELECT order_id FROM orders
    WHERE next_check_at <= now() - $1::float8 * interval '1 second'
    ORDER BY next_check_at
    LIMIT $2
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE orders o SET next_check_at = clock_timestamp() + $3::float8 * interval '1 second'
FROM due
WHERE o.order_id = due.order_id
RETURNING o.order_id, o.version, (extract(epoch FROM now()) * 1000)::bigint AS at_ms

-- query: claim_due_refunds
WITH due AS (
    SELECT refund_id FROM refunds
    WHERE next_check_at <= now() - $1::float8 * interval '1 second'
    ORDER BY next_check_at
    LIMIT $2
    FOR NO KEY UPDATE SKIP LOCKED
), claimed AS (
    UPDATE refunds r SET next_check_at = clock_timestamp() + $3::float8 * interval '1 second'
    FROM due
    WHERE r.refund_id = due.refund_id
    RETURNING r.order_id, r.refund_id
)
SELECT c.order_id, o.version, array_agg(c.refund_id) AS refund_ids, (extract(epoch FROM now()) * 1000)::bigint AS at_ms
FROM claimed c JOIN orders o ON o.order_id = c.order_id
GROUP BY c.order_id, o.version

-- query: order_of_refund
SELECT order_id FROM refunds WHERE app_id = $1 AND refund_id = $2

-- query: order_of_out_refund_no
SELECT order_id FROM refunds WHERE app_id = $1 AND out_refund_no = $2

-- query: forget_submissions
WITH old AS (
    SELECT app_id, fingerprint FROM submissions WHERE expires_at < now() - interval '1 minute' LIMIT 10000
    FOR UPDATE SKIP LOCKED
)
DELETE FROM submissions s USING old WHERE s.app_id = old.app_id AND s.fingerprint = old.fingerprint

-- query: endpoints
SELECT app_id, webhook_url FROM apps

-- query: writable
SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'

-- query: case
SELECT order_id, version, app_id, reason, evidence AS evidence_json, (extract(epoch FROM opened_at) * 1000)::bigint AS opened_at_ms,
       (extract(epoch FROM resolved_at) * 1000)::bigint AS resolved_at_ms, resolution, resolved_by, resolution_note AS note
FROM cases
WHERE order_id = $1 AND version = $2

-- query: cases_of_all
SELECT order_id, version, app_id, reason, evidence AS evidence_json, (extract(epoch FROM opened_at) * 1000)::bigint AS opened_at_ms,
       (extract(epoch FROM resolved_at) * 1000)::bigint AS resolved_at_ms, resolution, resolved_by, resolution_note AS note
FROM cases
WHERE (resolved_at IS NULL) = $1
  AND (opened_at, order_id, version) > ($2::timestamptz, $3, $4::int)
ORDER BY opened_at, order_id, version
LIMIT $5

-- query: cases_open
SELECT order_id, version, app_id, reason, evidence AS evidence_json, (extract(epoch FROM opened_at) * 1000)::bigint AS opened_at_ms,
       (extract(epoch FROM resolved_at) * 1000)::bigint AS resolved_at_ms, resolution, resolved_by, resolution_note AS note
FROM cases
WHERE app_id = $1 AND resolved_at IS NULL AND (opened_at, order_id, version) > ($2::timestamptz, $3, $4::int)
ORDER BY opened_at, order_id, version
LIMIT $5

-- query: cases_resolved
SELECT order_id, version, app_id, reason, evidence AS evidence_json, (extract(epoch FROM opened_at) * 1000)::bigint AS opened_at_ms,
       (extract(epoch FROM resolved_at) * 1000)::bigint AS resolved_at_ms, resolution, resolved_by, resolution_note AS note
FROM cases
WHERE app_id = $1 AND resolved_at IS NOT NULL AND (opened_at, order_id, version) > ($2::timestamptz, $3, $4::int)
ORDER BY opened_at, order_id, version
LIMIT $5

-- query: case_opened_at
SELECT opened_at FROM cases WHERE order_id = $1 AND version = $2

-- query: close_orphan
UPDATE cases SET resolved_at = clock_timestamp(), resolution = 'close', resolved_by = $2, resolution_note = $3
WHERE order_id = $1 AND version = 0 AND resolved_at IS NULL
RETURNING order_id

-- query: open_cases
SELECT reason, count(*) AS count, extract(epoch FROM clock_timestamp() - min(opened_at))::float8 AS oldest_s
FROM cases
WHERE resolved_at IS NULL
GROUP BY reason

-- query: park
-- Once a transaction: its channel repeats itself, and our ladder does not begin anew.
INSERT INTO parked (notification_id, order_id, channel, account, channel_transaction, said, next_try_at)
VALUES ($1, $2, $3, $4, $5, $6::json, clock_timestamp() + $7::float8 * interval '1 second')
ON CONFLICT DO NOTHING

-- query: claim_parked
WITH due AS (
    SELECT notification_id FROM parked
    WHERE next_try_at <= now()
    ORDER BY next_try_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
UPDATE parked p SET next_try_at = clock_timestamp() + $2::float8 * interval '1 second'
FROM due
WHERE p.notification_id = due.notification_id
RETURNING p.notification_id, p.order_id, p.said, p.tries

-- query: postpone_parked
UPDATE parked SET tries = $2, next_try_at = clock_timestamp() + $3::float8 * interval '1 second'
WHERE notification_id = $1 AND tries < $2 AND next_try_at IS NOT NULL

-- query: unpark
-- Its order has it. If it was a case, and the last of that order's that nobody had, the case is settled.
WITH known AS (
    DELETE FROM parked WHERE notification_id = $1 RETURNING notification_id, order_id
)
UPDATE cases c SET resolved_at = clock_timestamp(), resolution = 'told', resolved_by = 'holdfast'
FROM known k
WHERE c.order_id = k.order_id AND c.version = 0 AND c.resolved_at IS NULL
  AND NOT EXISTS (SELECT FROM parked p WHERE p.order_id = k.order_id AND p.notification_id <> k.notification_id)

-- query: orphan
-- All that is said of one unknown order is one case. Money that comes up when it was resolved opens it again; what was
-- decided before stays readable.
WITH given_up AS (
    UPDATE parked SET tries = tries + 1, next_try_at = NULL
    WHERE notification_id = $1 AND next_try_at IS NOT NULL
    RETURNING notification_id, order_id, said
)
INSERT INTO cases AS c (order_id, version, reason, evidence, opened_at)
SELECT order_id, 0, 'orphan_notification',
       json_build_object('notifications',
                         json_build_array(json_build_object('notification_id', notification_id, 'said', said))),
       clock_timestamp()
FROM given_up
ON CONFLICT (order_id, version) DO UPDATE
SET evidence = json_build_object('notifications', (c.evidence::jsonb -> 'notifications')
                                                  || (EXCLUDED.evidence::jsonb -> 'notifications')),
    resolved_at = NULL

-- query: forget_notifications
-- The array is sorted and so are the row locks: two processes that forget the same page can not deadlock. What is still
-- parked is somebody's money.
DELETE FROM notifications WHERE notification_id = ANY (ARRAY(
    SELECT n.notification_id FROM notifications n
    WHERE n.notification_id < $1
      AND NOT EXISTS (SELECT FROM parked p WHERE p.notification_id = n.notification_id AND p.next_try_at IS NOT NULL)
    ORDER BY n.notification_id
    LIMIT $2))

-- query: forget_unverified_notifications
DELETE FROM notifications WHERE notification_id = ANY (ARRAY(
    SELECT notification_id FROM notifications
    WHERE notification_id < $1
      AND verdict IN ('malformed', 'bad_signature', 'signature_probe', 'unknown_key', 'stale', 'unreadable', 'too_large')
    ORDER BY notification_id
    LIMIT $2))

-- query: forget_orphans
DELETE FROM parked WHERE notification_id = ANY (ARRAY(
    SELECT notification_id FROM parked WHERE next_try_at IS NULL AND notification_id < $1
    ORDER BY notification_id
    LIMIT $2))

-- query: inbox_newest
SELECT n.notification_id, n.channel, n.order_id, n.attempt, n.verdict,
       (extract(epoch FROM n.received_at) * 1000)::bigint AS received_at_ms, length(n.body) AS bytes,
       CASE WHEN p.notification_id IS NULL THEN NULL WHEN p.next_try_at IS NULL THEN 'orphan' ELSE 'parked' END AS waits
FROM notifications n LEFT JOIN parked p USING (notification_id)
WHERE n.notification_id >= $1 AND ($2::text IS NULL OR n.verdict = $2) AND ($3::text IS NULL OR n.order_id = $3)
ORDER BY n.notification_id DESC
LIMIT $4

-- query: inbox_after
SELECT notification_id, channel, order_id, attempt, verdict, headers, body,
       (extract(epoch FROM received_at) * 1000)::bigint AS received_at_ms
FROM notifications
WHERE notification_id >= $1 AND ($2::text IS NULL OR verdict = $2)
ORDER BY notification_id
LIMIT $3

-- query: inbox_one
SELECT notification_id, channel, order_id, attempt, verdict, headers, body,
       (extract(epoch FROM received_at) * 1000)::bigint AS received_at_ms
FROM notifications
WHERE notification_id = $1
