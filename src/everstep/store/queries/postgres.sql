-- In all statements that take arrays each element finds its row by a unique index:
-- LATERAL (... OFFSET 0) leaves the planner no other order, whatever it believes
-- about tables it saw empty, and `ctid` takes an UPDATE to the row that was found.

-- light_group --
-- A group of nothing but entries, in one statement.  A run that is running for
-- this worker can change hands only under the lock of the worker's row, which
-- `fence` holds; so the runs need no locks of their own.
WITH fence AS (
    UPDATE worker SET commits = $3 WHERE id = $1 AND epoch = $2 AND commits = $3 - 1 RETURNING id
), kept AS (
    INSERT INTO entry (run, generation, lane, pos, kind, name, fp, seq, at, state, value)
    SELECT u.run, r.generation, u.lane, u.pos, u.kind, u.name, u.fp, u.seq, u.at, u.state, u.value
    FROM fence CROSS JOIN unnest(
        $5::bigint[], $6::int[], $7::text[], $8::int[], $9::text[], $10::text[], $11::bigint[],
        $12::bigint[], $13::bigint[], $14::smallint[], $15::bytea[]
    ) u (run, epoch, lane, pos, kind, name, fp, seq, at, state, value)
    CROSS JOIN LATERAL (SELECT epoch, generation, status, worker FROM run WHERE id = u.run OFFSET 0) r
    WHERE r.epoch = u.epoch AND r.status = 3 AND r.worker = fence.id
    ON CONFLICT (run, generation, lane, pos) DO UPDATE
    SET (kind, name, fp, seq, at, state, value)
      = (excluded.kind, excluded.name, excluded.fp, excluded.seq, excluded.at, excluded.state, excluded.value)
), ours AS (
    SELECT r.* FROM fence CROSS JOIN unnest($4::bigint[]) n
    CROSS JOIN LATERAL (SELECT id, epoch, status, worker, claims, ctid FROM run WHERE id = n OFFSET 0) r
    WHERE r.status = 3 AND r.worker = fence.id
), forgiven AS (
    UPDATE run SET claims = 1 FROM ours WHERE ours.claims > 1 AND run.ctid = ours.ctid
    AND EXISTS (SELECT 1 FROM unnest($5::bigint[], $6::int[]) u (run, epoch)
                WHERE u.run = ours.id AND u.epoch = ours.epoch)
)
SELECT ours.id, ours.epoch FROM fence LEFT JOIN ours ON true

-- look --
-- All that need not be locked, in one round trip: 1, runs that are running for this
-- worker and only add entries (see `light_group`); 2, what never changes of the runs
-- a group names; 3, ids for new runs; 4, runs that are due, longest overdue first,
-- for one worker at a time; 5, the version of the subscriptions.
SELECT 1 AS kind, r.id, r.epoch::bigint, r.claims::bigint, r.generation::bigint,
       NULL::text AS rid, NULL::text AS handler, NULL::text AS key
FROM unnest($1::bigint[]) n
CROSS JOIN LATERAL (SELECT id, epoch, claims, generation, status, worker FROM run WHERE id = n OFFSET 0) r
WHERE r.status = 3 AND r.worker = $2
UNION ALL
SELECT 2, id, parent, NULL, NULL, rid, handler, key FROM run WHERE id = ANY($3::bigint[])
UNION ALL
SELECT 2, id, parent, NULL, NULL, rid, handler, key FROM run WHERE rid = ANY($4::text[]) AND NOT id = ANY($3::bigint[])
UNION ALL
SELECT 3, nextval('run_id'), NULL, NULL, NULL, NULL, NULL, NULL FROM generate_series(1, $5::int)
UNION ALL
SELECT 4, due.id, NULL, NULL, NULL, NULL, NULL, NULL FROM (
    SELECT id FROM run
    WHERE (SELECT CASE WHEN $6::bigint IS NULL THEN false ELSE pg_try_advisory_xact_lock($7) END)
    AND due_at <= $6 ORDER BY due_at LIMIT 1000
) due
UNION ALL
SELECT 5, value, NULL, NULL, NULL, NULL, NULL, NULL FROM fact WHERE name = 'subscriptions'

-- hold_keys --
-- Lock the rows of these keys, in order, making those that are not there.
INSERT INTO key (handler, key) SELECT * FROM unnest($1::text[], $2::text[]) n (handler, key) ORDER BY 1, 2
ON CONFLICT (handler, key) DO UPDATE SET head = 0 WHERE false

-- keys --
SELECT k.handler, k.key, k.head, k.tail, k.length FROM unnest($1::text[], $2::text[]) n (handler, key)
CROSS JOIN LATERAL (SELECT * FROM key WHERE handler = n.handler AND key = n.key OFFSET 0) k

-- hold_runs --
-- Lock runs, in order, and read them as they are then.
SELECT {run} FROM run WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE

-- hold_cells --
-- Lock values of state, in order, making those that are not there.
INSERT INTO kv (grp, key) SELECT * FROM unnest($1::text[], $2::text[]) n (grp, key) ORDER BY 1, 2
ON CONFLICT (grp, key) DO UPDATE SET version = 0 WHERE false

-- cells --
SELECT k.grp, k.key, k.value, k.version FROM unnest($1::text[], $2::text[]) n (grp, key)
CROSS JOIN LATERAL (SELECT * FROM kv WHERE grp = n.grp AND key = n.key OFFSET 0) k

-- group_keys --
SELECT grp, key FROM kv WHERE grp = ANY($1::text[])

-- settled --
SELECT p.run, p.name, p.state, p.value, p."by", p.at FROM unnest($1::bigint[], $2::text[]) n (run, name)
CROSS JOIN LATERAL (SELECT * FROM promise WHERE run = n.run AND name = n.name OFFSET 0) p

-- light_runs --
-- Of runs that only add entries; not locked, see `light_group`.
SELECT id, epoch FROM run WHERE id = ANY($1::bigint[]) AND worker = $2 AND status = 3

-- new_ids --
SELECT nextval('run_id') FROM generate_series(1, $1::int)

-- write --
-- New runs, changed runs and entries, in one round trip.
WITH born AS (
    INSERT INTO run ({run}) SELECT * FROM unnest({run_arrays})
), changed AS (
    UPDATE run SET {mutable} FROM (
        SELECT u.*, r.ctid AS place FROM unnest({mutable_arrays}) u ({mutable_names})
        CROSS JOIN LATERAL (SELECT ctid FROM run WHERE id = u.id OFFSET 0) r
    ) u WHERE run.ctid = u.place
), kept AS (
    INSERT INTO entry ({entry}) SELECT * FROM unnest({entry_arrays})
    ON CONFLICT (run, generation, lane, pos) DO UPDATE
    SET (kind, name, fp, seq, at, state, value)
      = (excluded.kind, excluded.name, excluded.fp, excluded.seq, excluded.at, excluded.state, excluded.value)
)
SELECT 1

-- insert_promises --
INSERT INTO promise (run, name, state, value, "by", at)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::smallint[], $4::bytea[], $5::text[], $6::bigint[])

-- insert_unrouted --
INSERT INTO unrouted (mid, topic, data, grp, delay, priority, hops, trace, at)
SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[], $5::bigint[], $6::int[], $7::int[],
                     $8::text[], $9::bigint[])

-- put_cells --
UPDATE kv SET value = u.value, version = u.version FROM (
    SELECT u.*, k.ctid AS place FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[])
         u (grp, key, value, version)
    CROSS JOIN LATERAL (SELECT ctid FROM kv WHERE grp = u.grp AND key = u.key OFFSET 0) k
) u WHERE kv.ctid = u.place

-- drop_cells --
DELETE FROM kv USING unnest($1::text[], $2::text[]) u (grp, key)
CROSS JOIN LATERAL (SELECT ctid FROM kv WHERE grp = u.grp AND key = u.key OFFSET 0) k WHERE kv.ctid = k.ctid

-- next_of_keys --
-- Who follows the freed head of each key is ready; its key is held.
UPDATE run SET status = 2 FROM unnest($1::text[], $2::text[]) n (handler, key) CROSS JOIN LATERAL (
    SELECT ctid FROM run WHERE status = 1 AND handler = n.handler AND key = n.key ORDER BY key_pos LIMIT 1
) q WHERE run.ctid = q.ctid RETURNING run.handler, run.key, run.id

-- put_keys --
UPDATE key SET head = u.head, tail = u.tail, length = u.length FROM (
    SELECT u.*, k.ctid AS place FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
         u (handler, key, head, tail, length)
    CROSS JOIN LATERAL (SELECT ctid FROM key WHERE handler = u.handler AND key = u.key OFFSET 0) k
) u WHERE key.ctid = u.place

-- drop_keys --
DELETE FROM key USING unnest($1::text[], $2::text[]) u (handler, key)
CROSS JOIN LATERAL (SELECT ctid FROM key WHERE handler = u.handler AND key = u.key OFFSET 0) k
WHERE key.ctid = k.ctid

-- ready_runs --
-- Lock the most urgent, then oldest ready runs of handlers with room, past those
-- another worker is claiming; answered as they are under the lock.
SELECT {found} FROM unnest($1::text[], $2::int[]) w (handler, room) CROSS JOIN LATERAL (
    SELECT {run} FROM run r WHERE r.status = 2 AND r.handler = w.handler
    ORDER BY priority DESC, id LIMIT w.room FOR UPDATE SKIP LOCKED
) found ORDER BY found.priority DESC, found.id LIMIT $3

-- claim_runs --
UPDATE run SET (status, worker, epoch, claims, started_at, error)
  = (u.status, u.worker, u.epoch, u.claims, u.started_at, u.error)
FROM (
    SELECT u.*, r.ctid AS place
    FROM unnest($1::smallint[], $2::bigint[], $3::int[], $4::int[], $5::bigint[], $6::bytea[], $7::bigint[])
         u (status, worker, epoch, claims, started_at, error, id)
    CROSS JOIN LATERAL (SELECT ctid FROM run WHERE id = u.id OFFSET 0) r
) u WHERE run.ctid = u.place

-- end_backend --
-- Make the server give up a connection that we have lost.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2

-- any_work --
-- Whether there is anything to claim or to promote.
SELECT EXISTS (SELECT 1 FROM run WHERE due_at <= $2)
    OR EXISTS (SELECT 1 FROM unnest($1::text[]) n WHERE EXISTS (SELECT 1 FROM run WHERE status = 2 AND handler = n))

-- waiting --
-- Messages that waited for a subscriber of their topic, oldest first.
SELECT id, mid, topic, data, grp, delay, priority, hops, trace, at FROM unrouted
WHERE topic = ANY($1::text[]) AND id > $2 ORDER BY id LIMIT $3

-- new_worker --
SELECT nextval(pg_get_serial_sequence('worker', 'id'))

-- register --
INSERT INTO worker (id, name, address, handlers, started_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (id) DO NOTHING

-- beat --
UPDATE worker SET beat = beat + 1 WHERE id = $1 AND epoch = $2 RETURNING id

-- workers --
SELECT id, name, epoch, beat, address, handlers, alive FROM worker ORDER BY id

-- bury --
-- Declare a worker dead: its commits are refused from now on.
UPDATE worker SET epoch = epoch + 1, alive = false WHERE id = $1 AND epoch = $2 RETURNING id

-- free_runs --
-- Make ready what a dead worker held; what it was asked to do is still asked.
UPDATE run SET status = 2, worker = NULL
WHERE id IN (SELECT id FROM run WHERE worker = $1 AND status = 3 ORDER BY id FOR UPDATE) RETURNING id

-- asked --
SELECT {run} FROM run WHERE worker = $1 AND asked <> 0 ORDER BY id

-- next_due --
SELECT min(due_at) FROM run WHERE due_at IS NOT NULL

-- torn --
-- How much is as it must never be.
SELECT (SELECT count(*) FROM run WHERE status = 4 AND wakes <> parked_wakes)
    + (SELECT count(*) FROM run r WHERE r.worker IS NOT NULL AND r.status = 3
       AND NOT EXISTS (SELECT 1 FROM worker w WHERE w.id = r.worker))
    + (SELECT count(*) FROM key k LEFT JOIN run r ON r.id = k.head
       WHERE k.length > 0 AND (r.id IS NULL OR r.status IN (1, 7, 8, 9, 10))
       AND EXISTS (SELECT 1 FROM run q WHERE q.status = 1 AND q.handler = k.handler AND q.key = k.key))

-- lost_wakes --
-- Parked runs that somebody woke: never, by the rule of wakes.
UPDATE run SET status = 2, due_at = NULL WHERE status = 4 AND wakes <> parked_wakes RETURNING id

-- orphaned_runs --
-- Running runs whose worker is gone from the table.
UPDATE run SET status = 2, worker = NULL WHERE worker IS NOT NULL AND status = 3
AND NOT EXISTS (SELECT 1 FROM worker w WHERE w.id = run.worker) RETURNING id

-- headless_keys --
-- Keys with runs but no run that holds them: never, by the rule of heads.
SELECT k.handler, k.key FROM key k LEFT JOIN run r ON r.id = k.head
WHERE k.length > 0 AND (r.id IS NULL OR r.status IN (1, 7, 8, 9, 10))
AND EXISTS (SELECT 1 FROM run q WHERE q.status = 1 AND q.handler = k.handler AND q.key = k.key)
ORDER BY k.handler, k.key FOR UPDATE OF k

-- name_heads --
UPDATE key SET head = u.head FROM unnest($1::text[], $2::text[], $3::bigint[]) u (handler, key, head)
WHERE key.handler = u.handler AND key.key = u.key

-- old_runs --
-- Forget ended runs; those somebody is just redriving are left for the next time.
DELETE FROM run WHERE id IN (
    SELECT id FROM run WHERE finished_at IS NOT NULL AND status <> 8 AND finished_at < $1
    ORDER BY finished_at LIMIT 500 FOR UPDATE SKIP LOCKED
) RETURNING id, rid

-- drop_entries --
DELETE FROM entry WHERE run = ANY($1::bigint[])

-- drop_promises --
DELETE FROM promise WHERE run = ANY($1::bigint[])

-- drop_blobs --
DELETE FROM blob WHERE owner = ANY($1::text[])

-- drop_message_blobs --
-- The large values of messages of which no run is left: r_x, r_x-1, r_x-2.
DELETE FROM blob USING unnest($1::text[]) m WHERE owner = 'mid:m_' || m
AND NOT EXISTS (SELECT 1 FROM run WHERE rid = 'r_' || m OR (rid > 'r_' || m || '-' AND rid < 'r_' || m || '.'))

-- unnamed_blobs --
-- The next large values that are old enough, each with whether its owner is there.
SELECT b.id, CASE substr(b.owner, 1, 4)
    WHEN 'rid:' THEN EXISTS (SELECT 1 FROM run WHERE rid = substr(b.owner, 5))
    WHEN 'run:' THEN EXISTS (SELECT 1 FROM run WHERE id = substr(b.owner, 5)::bigint)
    ELSE EXISTS (SELECT 1 FROM unrouted WHERE mid = substr(b.owner, 5))
        OR EXISTS (SELECT 1 FROM run WHERE rid >= 'r_' || substr(b.owner, 7)
                   AND rid < 'r_' || substr(b.owner, 7) || '.')
    END
FROM blob b WHERE b.id > $1 AND b.at < $2 ORDER BY b.id LIMIT 200

-- drop_lost_blobs --
DELETE FROM blob WHERE id = ANY($1::text[])

-- forget_workers --
-- Dead workers that hold nothing any more.
DELETE FROM worker WHERE NOT alive AND NOT EXISTS (SELECT 1 FROM run WHERE run.worker = worker.id)

-- forget_worker --
DELETE FROM worker WHERE id = $1

-- run_by_rid --
SELECT {run} FROM run WHERE rid = $1

-- counts --
SELECT handler, status, count(*) FROM run GROUP BY handler, status

-- entries --
SELECT lane, pos, kind, name, fp, seq, at, state, value FROM entry
WHERE run = $1 AND generation = $2 ORDER BY seq NULLS LAST

-- promises --
SELECT name, state, value, "by", at FROM promise WHERE run = $1 ORDER BY at, name

-- kv_get --
SELECT grp, key, value, version FROM kv WHERE grp = $1 AND key = $2

-- kv_list --
SELECT grp, key, value, version FROM kv WHERE grp = $1 ORDER BY key

-- kv_groups --
SELECT grp, count(*) FROM kv GROUP BY grp ORDER BY grp

-- subscriptions --
SELECT topic, handler, fifo, delay FROM subscription ORDER BY topic, handler

-- subscribe --
INSERT INTO subscription SELECT * FROM unnest($1::text[], $2::text[], $3::boolean[], $4::bigint[])

-- unrouted --
SELECT mid, topic, data, at FROM unrouted ORDER BY id DESC LIMIT $1

-- put_blob --
INSERT INTO blob (id, owner, at, data) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING

-- get_blobs --
SELECT id, data FROM blob WHERE id = ANY($1::text[])
