"""What can be wrong with a data directory, and what happens when a disk fails under a running node."""

import errno
import sqlite3
from collections.abc import Callable
from threading import Lock

from mesh.events import DiskFailed, Event

WHAT_TO_DO = (
    "Start the node again: unless it is the only voter, it sets this directory aside and recovers from its peers; "
    "otherwise restore the whole directory, never one file of it, as it was when the node was last stopped."
)
"""For whoever reads that a directory is damaged, at any hour of the night."""

MAKE_ROOM = "Make room on this disk, then start the node again."
LOOK_AT_THE_DISK = (
    "See whether this disk is full (df) and what the kernel says of it (dmesg), then start the node again."
)

REPORT_IT = "This is a mistake in the program, not in the disk: please report it, then start the node again."


class StoreRefused(Exception):
    """This data directory cannot be used by this node. The message is for an operator: what is wrong, in which file,
    what to do.
    """


class StoreDamaged(StoreRefused):
    """What was durable is no longer there, or not as it was written.

    The node must not start from it: it would vote and answer as if it had never promised what is lost (consensus A6,
    D3, D4). Nothing is deleted. The way back is an empty directory and a new place in the mesh: `set_aside`.

    Attributes:
        finding: what is wrong and in which file, without what to do about it.
    """

    def __init__(self, finding: str) -> None:
        super().__init__(f"{finding} {WHAT_TO_DO}")
        self.finding = finding


class DiskBehind(Exception):
    """More waits for the disk than is allowed to."""


def in_words(error: BaseException) -> str:
    """What a disk or SQLite complained of."""
    if isinstance(error, StoreDamaged):
        return error.finding
    if isinstance(error, DiskBehind):
        return str(error)
    if isinstance(error, sqlite3.Error):
        name = getattr(error, "sqlite_errorname", "")
        return f"{error} ({name})" if name else str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"


def advice(error: BaseException) -> str:
    """What to do about it."""
    if is_damage(error):
        return WHAT_TO_DO
    if is_full(error):
        return MAKE_ROOM
    if isinstance(error, sqlite3.OperationalError | OSError | DiskBehind):
        return LOOK_AT_THE_DISK
    return REPORT_IT


def is_damage(error: BaseException) -> bool:
    """Whether what is on disk is not as it was written; not so when the disk only refuses to do something."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return isinstance(error, StoreDamaged)


def is_full(error: BaseException) -> bool:
    """Whether there is no room for what was to be written."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Fault:
    """The first failure of a store, shared by its threads. Once there is one, nothing more is written.

    A failed sync is never tried again: the kernel may have dropped the pages and would report success (Rebello et al.
    2020).
    """

    def __init__(self, post: Callable[[Event], None], note_damage: Callable[[str], None]) -> None:
        """`note_damage` is told what is damaged, before the core hears of it, so that the next start knows."""
        self._post = post
        self._note_damage = note_damage
        self._lock = Lock()
        self.reason = ""
        """Empty while all is well."""

    def report(self, doing: str, error: BaseException) -> None:
        """Note the first failure and tell the core. Later ones add nothing and are dropped."""
        with self._lock:
            if self.reason:
                return
            self.reason = f"{doing} failed: {in_words(error).rstrip('.')}. {advice(error)}"
        if is_damage(error):
            finding = in_words(error)
            self._note_damage(finding if isinstance(error, StoreDamaged) else f"{doing} failed: {finding}")
        self._post(DiskFailed(self.reason))
