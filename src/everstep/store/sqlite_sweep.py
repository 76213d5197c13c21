"""What the sweep of a SQLite store looks for, repairs and forgets.

Looking happens on the reading connection; the writer is asked only when there
is something to do, and looks again under its own lock.

Floor 2.  May import: store.queries, store.rows.  Imported by: store.sqlite.
"""

from __future__ import annotations

import sqlite3
from itertools import chain

from everstep.store.queries import load
from everstep.store.rows import messages_of

SQL = load("sqlite")
_WAIT = 86_400_000_000  # a day, in microseconds: how long a large value may wait for its commit


def torn(db: sqlite3.Connection) -> bool:
    """Whether something is as it must never be."""
    questions = ("lost_wakes", "orphaned_runs", "headless_keys")
    return any(db.execute(SQL[name]).fetchone() is not None for name in questions)


def repair(db: sqlite3.Connection) -> int:
    """Make ready what hangs, give a head to keys without one; how many there were."""
    repairs = 0
    for run in chain(db.execute(SQL["lost_wakes"]).fetchall(), db.execute(SQL["orphaned_runs"]).fetchall()):
        db.execute(SQL["make_ready"], run)
        repairs += 1
    for name in db.execute(SQL["headless_keys"]).fetchall():
        head = db.execute(SQL["next_of_key"], name).fetchone()
        db.execute(SQL["make_ready"], head)
        db.execute("UPDATE key SET head = ? WHERE handler = ? AND key = ?", (*head, *name))
        repairs += 1
    return repairs


def old(db: sqlite3.Connection, before: int) -> bool:
    """Whether there is something to forget."""
    return (
        db.execute(SQL["old_runs"], (before,)).fetchone() is not None
        or db.execute(SQL["gone_workers"]).fetchone() is not None
    )


def forget(db: sqlite3.Connection, before: int) -> tuple[int, list[int]]:
    """Delete old ended runs with all they had, and dead workers; how many runs, and which workers."""
    runs = db.execute(SQL["old_runs"], (before,)).fetchall()
    ids = [(run,) for run, _ in runs]
    for table, column in (("entry", "run"), ("promise", "run"), ("run", "id")):
        db.executemany(f"DELETE FROM {table} WHERE {column} = ?", ids)
    owners = [(f"run:{run}",) for run, _ in runs] + [(f"rid:{rid}",) for _, rid in runs]
    db.executemany("DELETE FROM blob WHERE owner = ?", owners)
    # Every Step of a topic shares the message's value: it goes with the last of them.
    db.executemany(SQL["drop_message_blob"], [(name,) for name in messages_of(rid for _, rid in runs)])
    workers = [row[0] for row in db.execute(SQL["gone_workers"]).fetchall()]
    db.executemany(SQL["forget_worker"], [(worker,) for worker in workers])
    return len(runs), workers


def unnamed_blobs(db: sqlite3.Connection, after: str, now: int) -> tuple[list[str], str]:
    """
    Large values whose commit never came, among the next few after that id.

    Returns their ids, and the id to go on after ("" at the end).
    """
    found = db.execute(SQL["blobs_after"], (after, now - _WAIT)).fetchall()
    return [blob for blob, owned in found if not owned], found[-1][0] if found else ""
