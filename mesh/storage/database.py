"""Opens one SQLite database the way this room wants it, and puts SQLite's complaints into the words of an operator."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.storage.faults import StoreDamaged, StoreRefused
from mesh.storage.write_ahead import lost_commits

SCHEMA = 1
"""Version of the tables, in `user_version`. A higher one on disk is refused: it was written by a later release."""

BUSY_TIMEOUT_S = 2.0
WAL_BYTES_KEPT_MAX = 64 << 20
"""A write-ahead log that grew while a snapshot was read is cut back to this."""
CACHE_KIB = 32_768

_DEFINITIONS = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
_SETTINGS = """
    PRAGMA fullfsync = 1; PRAGMA checkpoint_fullfsync = 1; PRAGMA secure_delete = 0; PRAGMA temp_store = MEMORY;
    PRAGMA trusted_schema = 0;
"""


def connect(path: Path, *, exclusive: bool = False, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode, WAL, synchronous=FULL, to be used by one thread at a time.

    Args:
        exclusive: nobody else opens this file, in this process or another; saves a fifth of a commit.
        read_only: refuses every change; the file must exist and be in WAL mode already.
    """
    target = f"{path.resolve().as_uri()}?mode={'rw' if read_only else 'rwc'}"
    connection = sqlite3.connect(
        target, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        if exclusive:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        if read_only:
            connection.execute("PRAGMA query_only = 1")
        else:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT_MAX}")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.executescript(_SETTINGS)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Around everything done with a database before the node runs.

    Raises:
        StoreDamaged: SQLite found the file malformed.
        StoreRefused: it cannot be read or written, or somebody else holds it.
    """
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        raise StoreRefused(f"{path} cannot be used: {error}.") from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # The latter: SQLite quoted what it could not read.
        raise StoreDamaged(f"{path} is damaged ({error}): this node must not take part with what is left.") from error


def refuse_lost_commits(path: Path) -> None:
    """To be called before the database at `path` is opened. Raises StoreDamaged."""
    if lost_commits(path.with_name(path.name + "-wal")):
        raise StoreDamaged(f"{path}-wal is damaged before its end: commits that were durable can no longer be read.")


def ensure_tables(path: Path, connection: sqlite3.Connection, tables: str, *, may_be_new: bool) -> None:
    """Make sure that the tables are there exactly as the script `tables` makes them; make them if they may be new.

    Exactly: one flipped bit in `PRIMARY KEY` leaves a table that SQLite reads without complaint, and finds nothing in.

    Raises:
        StoreRefused: a later release wrote them.
        StoreDamaged: there are none, or other ones.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA:
        raise StoreRefused(f"{path} was written by a later release (tables {version}, this one knows {SCHEMA}).")
    if version == 0:
        if not may_be_new:
            raise StoreDamaged(f"{path} is empty: what was promised is lost.")
        connection.executescript(f"BEGIN IMMEDIATE; {tables} PRAGMA user_version = {SCHEMA}; COMMIT;")
    model = sqlite3.connect(":memory:", isolation_level=None)
    try:
        model.executescript(tables)
        if connection.execute(_DEFINITIONS).fetchall() != model.execute(_DEFINITIONS).fetchall():
            raise StoreDamaged(f"{path} is damaged: its tables are not as they were made.")
    finally:
        model.close()


def refuse_malformed(path: Path, connection: sqlite3.Connection) -> None:
    """Reads all of it. Raises StoreDamaged."""
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreDamaged(f"{path} is damaged: {verdict}.")


def sync_directory(path: Path) -> None:
    """Makes names of files durable, as fsync of a file does its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
