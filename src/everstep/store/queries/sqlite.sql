-- fence_worker --
-- Number this worker's commit; no row: somebody declared it dead.
UPDATE worker SET commits = commits + 1 WHERE id = ? AND epoch = ?

-- worker_epoch --
SELECT epoch FROM worker WHERE id = ?

-- light_runs --
-- What a batch of entries alone must know of its runs.
SELECT id, epoch, status, claims, generation FROM run WHERE id IN (SELECT value FROM json_each(?))

-- runs_by_id --
SELECT {run} FROM run WHERE id IN (SELECT value FROM json_each(?))

-- key --
SELECT handler, key, head, tail, length FROM key WHERE handler = ? AND key = ?

-- cell --
SELECT value, version FROM kv WHERE grp = ? AND key = ?

-- group_keys --
SELECT key FROM kv WHERE grp = ?

-- promise --
SELECT run, name, state, value, "by", at FROM promise WHERE run = ? AND name = ?

-- due_runs --
-- Scheduled and parked runs whose time has come, longest overdue first.
SELECT id FROM run WHERE due_at <= ? ORDER BY due_at LIMIT 1000

-- next_due --
SELECT min(due_at) FROM run WHERE due_at IS NOT NULL

-- ready_runs --
-- The oldest ready runs of one handler, most urgent first; small numbers go first.
SELECT -priority, id FROM run WHERE status = 2 AND handler = ? ORDER BY priority DESC, id LIMIT ?

-- any_ready --
SELECT 1 FROM run WHERE status = 2 AND handler IN (SELECT value FROM json_each(?)) LIMIT 1

-- claim_run --
UPDATE run SET status = ?, worker = ?, epoch = ?, claims = ?, started_at = ?, error = ? WHERE id = ?

-- insert_run --
INSERT INTO run ({born}) VALUES ({born_marks})

-- update_run --
UPDATE run SET {mutable} WHERE id = ?

-- insert_entry --
INSERT OR REPLACE INTO entry (run, generation, lane, pos, kind, name, fp, seq, at, state, value)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- put_key --
INSERT OR REPLACE INTO key (handler, key, head, tail, length) VALUES (?, ?, ?, ?, ?)

-- drop_key --
DELETE FROM key WHERE handler = ? AND key = ?

-- next_of_key --
-- Who follows the freed head of a key.
SELECT id FROM run WHERE status = 1 AND handler = ? AND key = ? ORDER BY key_pos LIMIT 1

-- make_ready --
UPDATE run SET status = 2, worker = NULL, due_at = NULL WHERE id = ?

-- put_cell --
INSERT OR REPLACE INTO kv (grp, key, value, version) VALUES (?, ?, ?, ?)

-- drop_cell --
DELETE FROM kv WHERE grp = ? AND key = ?

-- insert_promise --
INSERT INTO promise (run, name, state, value, "by", at) VALUES (?, ?, ?, ?, ?, ?)

-- insert_unrouted --
INSERT INTO unrouted (mid, topic, data, grp, delay, priority, hops, trace, at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)

-- waiting --
-- Messages that waited for a subscriber of their topic, oldest first.
SELECT id, mid, topic, data, grp, delay, priority, hops, trace, at FROM unrouted
WHERE topic = ? AND id > ? ORDER BY id LIMIT ?

-- register --
INSERT INTO worker (name, address, handlers, started_at) VALUES (?, ?, ?, ?)

-- beat --
UPDATE worker SET beat = beat + 1 WHERE id = ? AND epoch = ?

-- workers --
SELECT id, name, epoch, beat, address, handlers, alive FROM worker ORDER BY id

-- bury --
-- Declare a worker dead: its commits are refused from now on.
UPDATE worker SET epoch = epoch + 1, alive = 0 WHERE id = ? AND epoch = ?

-- free_runs --
-- Make ready what a dead worker held; what it was asked to do is still asked.
UPDATE run SET status = 2, worker = NULL WHERE worker = ? AND status = 3

-- forget_worker --
DELETE FROM worker WHERE id = ?

-- asked --
SELECT {run} FROM run WHERE worker = ? AND asked <> 0

-- lost_wakes --
-- Parked runs that somebody woke: never, by the rule of wakes.
SELECT id FROM run WHERE status = 4 AND wakes <> parked_wakes

-- headless_keys --
-- Keys with runs but no run that holds them: never, by the rule of heads.
SELECT k.handler, k.key FROM key k LEFT JOIN run r ON r.id = k.head
WHERE k.length > 0 AND (r.id IS NULL OR r.status IN (1, 7, 8, 9, 10))
AND EXISTS (SELECT 1 FROM run q WHERE q.status = 1 AND q.handler = k.handler AND q.key = k.key)

-- orphaned_runs --
-- Running runs whose worker is gone from the table.
SELECT r.id FROM run r LEFT JOIN worker w ON w.id = r.worker WHERE r.worker IS NOT NULL AND r.status = 3 AND w.id IS NULL

-- old_runs --
-- Ended runs to forget; never the newest of all, whose number would be given again.
SELECT id, rid FROM run WHERE finished_at IS NOT NULL AND status <> 8 AND finished_at < ?
AND id < (SELECT max(id) FROM run) ORDER BY finished_at LIMIT 500

-- gone_workers --
-- Dead workers that hold nothing any more.
SELECT id FROM worker WHERE alive = 0 AND NOT EXISTS (SELECT 1 FROM run WHERE run.worker = worker.id)

-- drop_message_blob --
-- The large value of a message, once none of its runs is left: r_x, r_x-1, r_x-2.
DELETE FROM blob WHERE owner = 'mid:m_' || ?1
AND NOT EXISTS (SELECT 1 FROM run WHERE rid = 'r_' || ?1 OR (rid > 'r_' || ?1 || '-' AND rid < 'r_' || ?1 || '.'))

-- blobs_after --
-- The next large values that are old enough, each with whether its owner is there.
SELECT b.id, CASE substr(b.owner, 1, 4)
    WHEN 'rid:' THEN EXISTS (SELECT 1 FROM run WHERE rid = substr(b.owner, 5))
    WHEN 'run:' THEN EXISTS (SELECT 1 FROM run WHERE id = CAST(substr(b.owner, 5) AS INTEGER))
    ELSE EXISTS (SELECT 1 FROM unrouted WHERE mid = substr(b.owner, 5))
        OR EXISTS (SELECT 1 FROM run WHERE rid >= 'r_' || substr(b.owner, 7)
                   AND rid < 'r_' || substr(b.owner, 7) || '.')
    END
FROM blob b WHERE b.id > ? AND b.at < ? ORDER BY b.id LIMIT 200

-- run_by_rid --
SELECT {run} FROM run WHERE rid = ?

-- counts --
SELECT handler, status, count(*) FROM run GROUP BY handler, status

-- entries --
SELECT lane, pos, kind, name, fp, seq, at, state, value FROM entry
WHERE run = ? AND generation = ? ORDER BY seq IS NULL, seq

-- promises --
SELECT name, state, value, "by", at FROM promise WHERE run = ? ORDER BY at, name

-- kv_get --
SELECT grp, key, value, version FROM kv WHERE grp = ? AND key = ?

-- kv_list --
SELECT grp, key, value, version FROM kv WHERE grp = ? ORDER BY key

-- kv_groups --
SELECT grp, count(*) FROM kv GROUP BY grp ORDER BY grp

-- subscriptions --
SELECT topic, handler, fifo, delay FROM subscription ORDER BY topic, handler

-- subscriptions_version --
SELECT value FROM fact WHERE name = 'subscriptions'

-- unrouted --
SELECT mid, topic, data, at FROM unrouted ORDER BY id DESC LIMIT ?

-- put_blob --
INSERT OR REPLACE INTO blob (id, owner, at, data) VALUES (?, ?, ?, ?)

-- get_blob --
SELECT data FROM blob WHERE id = ?
