"""One CRC-32 for each row, over everything in it, so that a flipped bit is noticed before it is believed.

SQLite checks the frames of its write-ahead log, but not the pages of the database itself.
"""

from struct import Struct
from zlib import crc32

from mesh.durable import Entry, TaskRow

_ENTRY = Struct(">QQQ")


def entry_crc(entry: Entry) -> int:
    """Over index, term, kind and data."""
    return crc32(entry.data, crc32(_ENTRY.pack(entry.index, entry.term, entry.kind)))


def task_crcs(row: TaskRow, changed: int) -> tuple[int, int]:
    """Two of them: the first over (id, finished, fingerprint), which a start reads from an index; the second over the
    row and the log index it may have changed at last.
    """
    key = crc32(f"{row.task_id}\0{row.finished}\0{row.fingerprint}".encode())
    return key, crc32(row.record, crc32(f"{row.state}\0{changed}\0{row.capability}".encode(), key))


def finished_crc(task_id: str, finished: int, fingerprint: int) -> int:
    """The first of `task_crcs`, of a row whose record was not read."""
    return crc32(f"{task_id}\0{finished}\0{fingerprint}".encode())


def values_crc(*values: object) -> int:
    """Over a few plain values: the rows of which there is one."""
    return crc32(repr(values).encode())
