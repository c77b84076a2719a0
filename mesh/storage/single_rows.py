"""Tables with one row: each is written as a whole, with a checksum over all of it."""

import sqlite3
from pathlib import Path
from typing import Any

from mesh.storage.checksums import values_crc
from mesh.storage.faults import StoreDamaged


def put_row(db: sqlite3.Connection, table: str, *values: str | int | None) -> None:
    """Replace the row of a table (id, ..., crc)."""
    marks = ", ?" * (len(values) + 1)
    db.execute(f"INSERT OR REPLACE INTO {table} VALUES (1{marks})", (*values, values_crc(table, *values)))


def checked_row(path: Path, db: sqlite3.Connection, table: str, columns: str) -> tuple[Any, ...]:
    """The row of a table of the database in `path`: all its columns but id and crc. Raises StoreDamaged."""
    row = db.execute(f"SELECT {columns}, crc FROM {table} WHERE id = 1").fetchone()
    if row is None or values_crc(table, *row[:-1]) != row[-1]:
        raise StoreDamaged(f"{path} is damaged: its {table} is not as it was written.")
    return tuple(row[:-1])
