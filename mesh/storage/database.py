"""Opens one SQLite database the way this room wants it, and puts SQLite's complaints into the words of an operator."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.storage.faults import LOOK_AT_THE_DISK, MAKE_ROOM, StoreDamaged, StoreRefused, in_words, is_full
from mesh.storage.write_ahead import lost_commits

SCHEMA = 2
"""Version of the tables, in `user_version`. Another one on disk is refused: another release wrote it."""

BUSY_TIMEOUT_S = 2.0
WAL_BYTES_KEPT_MAX = 64 << 20
"""A write-ahead log that grew while a snapshot was read is cut back to this."""
CACHE_KIB = 32_768

_TORN = (sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS)
"""What SQLite calls errors of the disk, and is a file without its end."""

_COPY = f"PRAGMA application_id = {SCHEMA};"
"""The version twice: one of them with a flipped bit is not taken for another release."""

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
        if getattr(error, "sqlite_errorcode", 0) in _TORN:
            raise StoreDamaged(f"{path} is damaged: it is shorter than it was.") from error
        what_to_do = MAKE_ROOM if is_full(error) else LOOK_AT_THE_DISK
        raise StoreRefused(f"{path} cannot be used: {in_words(error)}. {what_to_do}") from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # The latter: SQLite quoted what it could not read.
        raise StoreDamaged(f"{path} is damaged: {error}.") from error


def refuse_lost_commits(path: Path) -> None:
    """To be called before the database at `path` is opened. Raises StoreDamaged."""
    if lost_commits(path.with_name(path.name + "-wal")):
        raise StoreDamaged(f"{path}-wal is damaged before its end: commits that were durable can no longer be read.")


def ensure_tables(path: Path, connection: sqlite3.Connection, tables: str, *, may_be_new: bool) -> None:
    """Make sure that the tables are there exactly as the script `tables` makes them; make them if they may be new.

    Exactly: one flipped bit in `PRIMARY KEY` leaves a table that SQLite reads without complaint, and finds nothing in.

    Raises:
        StoreRefused: another release wrote them.
        StoreDamaged: there are none, or other ones.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if (version,) != connection.execute("PRAGMA application_id").fetchone():
        raise StoreDamaged(f"{path} is damaged: its header is not as it was written.")
    if version not in (0, SCHEMA):
        release = "a later" if version > SCHEMA else "an earlier"
        raise StoreRefused(
            f"{path} was written by {release} release (tables {version}, this one knows {SCHEMA}):"
            " start it with that release."
        )
    if version == 0:
        if not may_be_new:
            raise StoreDamaged(f"{path} is empty: what was promised is lost.")
        connection.executescript(f"BEGIN IMMEDIATE; {tables} PRAGMA user_version = {SCHEMA}; {_COPY} COMMIT;")
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
