"""The file of a SQLite store: found, looked at, opened, created.

A file that is not ours is recognised by its first hundred bytes, before
SQLite opens it: nothing of it, and nothing beside it, is touched.

Floor 2.  May import: store.base, floor 0.  Imported by: store.sqlite.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urlsplit

from everstep.errors import ConfigError, NotAStore, SchemaTooNew, StoreError, StoreUnavailable
from everstep.store.base import SCHEMA

APPLICATION = 0x45565354  # "EVST" in the header of our files
_MAGIC = b"SQLite format 3\x00"

# Errors of SQLite that say "not now", not "not so".
_UNAVAILABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
}
_FOREIGN = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}

_PRAGMAS = (
    "synchronous = FULL",
    "cache_size = -65536",
    "wal_autocheckpoint = 4000",
    "journal_size_limit = 67108864",
    "temp_store = MEMORY",
)


def path_of(url: str) -> str:
    """
    The file a ``sqlite://`` URL names, or ``":memory:"``.

    >>> path_of("sqlite:///data/runs.db"), path_of("sqlite:////var/runs.db"), path_of("sqlite://")
    ('data/runs.db', '/var/runs.db', ':memory:')
    """
    if url in (":memory:", "sqlite://", "sqlite:///:memory:"):
        return ":memory:"
    parts = urlsplit(url)
    if not url.startswith("sqlite:///") or not parts.path.strip("/") or parts.query:
        raise ConfigError(
            f"'{url}' names no SQLite file; write sqlite:///everstep.db (beside the program), "
            "sqlite:////var/lib/app/everstep.db (absolute) or sqlite:// (in memory)"
        )
    return unquote(parts.path[1:])


@contextmanager
def in_our_words(path: str) -> Iterator[None]:
    """Say errors of SQLite and of the system in our words."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _UNAVAILABLE:
            raise StoreUnavailable(f"{path}: {error}") from error
        if code in _FOREIGN:
            raise NotAStore(path, str(error)) from error
        raise
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror or error}") from error


def check(path: str) -> None:
    """
    Look at the file before SQLite does.

    Raises:
        NotAStore: Somebody else's, or no SQLite file at all.
        SchemaTooNew: Ours, by a newer release.
        StoreUnavailable: It cannot be read, or its folder does not exist.
    """
    file = Path(path)
    if file.is_dir():
        raise NotAStore(path, "it is a folder, and a SQLite store is one file")
    if not file.absolute().parent.is_dir():
        raise StoreUnavailable(f"{path}: the folder {file.absolute().parent} does not exist; create it first")
    if not file.exists() or Path(f"{path}-journal").exists():
        return  # a creation that was cut short has a journal: SQLite takes it back
    with file.open("rb") as opened:
        head = opened.read(100)
    if not head:
        return
    if head[:16] != _MAGIC:
        raise NotAStore(path, "it is no SQLite file")
    if int.from_bytes(head[68:72], "big") != APPLICATION:
        raise NotAStore(path, "it is a SQLite file of another program")
    _check_version(path, int.from_bytes(head[60:64], "big"))


def _check_version(path: str, version: int) -> None:
    if version > SCHEMA:
        raise SchemaTooNew(path, found=version, known=SCHEMA)


def connect(path: str) -> sqlite3.Connection:
    """A connection with our settings; every commit reaches the disk."""
    db = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, timeout=10, cached_statements=256
    )
    try:
        for pragma in _PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
    except BaseException:
        db.close()
        raise
    return db


def create(db: sqlite3.Connection, path: str) -> None:
    """
    Write the schema into an empty file; check that a file with something in it is ours.

    Raises:
        NotAStore: It has tables, but not ours.
        SchemaTooNew: A newer release wrote it.
    """
    if db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION:
        _check_version(path, db.execute("PRAGMA user_version").fetchone()[0])
    elif db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise NotAStore(path, "it is a SQLite file of another program")
    else:
        schema = files("everstep.store.schema").joinpath("sqlite.sql").read_text("utf-8")
        # Before WAL mode: so the header in the file itself says whose it is, from the
        # first moment, and a creation that is cut short leaves nothing.
        try:
            db.executescript(
                f"BEGIN IMMEDIATE;\n{schema}\nPRAGMA application_id = {APPLICATION};"
                f"PRAGMA user_version = {SCHEMA};\nCOMMIT;"
            )
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode not in ("wal", "memory"):
        raise StoreError(f"{path}: this file system cannot keep a SQLite WAL (journal mode is {mode})")
