"""A disk that fails on command, under SQLite itself: real files, and between them and SQLite a layer that may refuse,
stall or write down what passes.

SQLite reaches files through a VFS (sqlite.org/vfs.html). Here the one of the system is copied; its `xOpen` hands out
files whose read, write, truncate and sync ask a rule first. While `beneath` lasts, every database that is opened lies
on it.
"""

import _sqlite3
import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, Structure, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

IOERR_READ, IOERR_WRITE, IOERR_FSYNC, FULL, BUSY, CANTOPEN = 266, 778, 1034, 13, 5, 14
"""What a system's error becomes: EIO on each of the three calls, ENOSPC, a lock, no descriptor left."""

_OPEN: Any = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_DELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_READ = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)
_METHODS = 19
"""Version and 18 functions; the first ones are close, read, write, truncate, sync."""
_AT_READ, _AT_WRITE, _AT_TRUNCATE, _AT_SYNC = 2, 3, 4, 5


class _Vfs(Structure):
    _fields_ = (
        ("version", c_int),
        ("file_bytes", c_int),
        ("path_bytes_max", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", c_void_p),
        ("delete", c_void_p),
        ("others", c_void_p * 13),
    )


@dataclass(frozen=True, slots=True)
class Call:
    """One call of SQLite into its files. `number` counts those of the same kind on the same file name, from 1."""

    kind: str
    """read, write, truncate, sync, delete or open."""
    name: str
    number: int
    offset: int = 0
    data: bytes = b""


Rule = Callable[[Call], int]
"""Returns 0 to let it pass, or the SQLite error that it comes to. Called in the thread that asks; may block."""


class _Layer:
    """The one layer of this process: SQLite is given functions that live as long as it does."""

    def __init__(self) -> None:
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_vfs_find.restype = c_void_p
        library.sqlite3_vfs_find.argtypes = [c_char_p]
        library.sqlite3_vfs_register.argtypes = [c_void_p, c_int]
        self._register = library.sqlite3_vfs_register
        self._system = library.sqlite3_vfs_find(None)
        system = _Vfs.from_address(self._system)
        self._real_open, self._real_delete = _OPEN(system.open), _DELETE(system.delete)
        self._vfs = _Vfs()
        ctypes.memmove(ctypes.byref(self._vfs), self._system, ctypes.sizeof(_Vfs))
        self._kept: list[Any] = [_OPEN(self._open), _DELETE(self._delete)]
        # A NULL comes as None: temporary files have no path, and nobody may want the flags.
        self._vfs.name, self._vfs.next = b"faulty", None
        self._vfs.open, self._vfs.delete = (ctypes.cast(each, c_void_p) for each in self._kept)
        self._tables: dict[int, Any] = {}
        self._names: dict[int, str] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._lock = Lock()
        self._rule: Rule | None = None

    def install(self, rule: Rule) -> None:
        self._numbers = {}
        self._rule = rule
        self._register(ctypes.byref(self._vfs), 1)

    def remove(self) -> None:
        self._rule = None
        self._register(self._system, 1)

    def _ask(self, kind: str, name: str, offset: int = 0, data: bytes = b"") -> int:
        rule = self._rule
        if rule is None or not name:
            return 0
        with self._lock:
            number = self._numbers[kind, name] = self._numbers.get((kind, name), 0) + 1
        return rule(Call(kind, name, number, offset, data))

    def _open(self, _: int, path: int, file: int, flags: int, out_flags: int) -> int:
        name = Path(ctypes.string_at(path).decode()).name if path else ""
        code = self._ask("open", name) or self._real_open(self._system, path, file, flags, out_flags)
        if code == 0:
            self._names[file] = name
            methods = c_void_p.from_address(file)
            assert methods.value is not None
            if methods.value not in self._tables:
                self._tables[methods.value] = self._table(methods.value)
            methods.value = ctypes.addressof(self._tables[methods.value])
        return int(code)

    def _delete(self, _: int, path: bytes, sync_directory: int) -> int:
        return self._ask("delete", Path(path.decode()).name) or int(
            self._real_delete(self._system, path, sync_directory)
        )

    def _table(self, address: int) -> Any:
        real = (c_void_p * _METHODS).from_address(address)
        table = (c_void_p * _METHODS)(*real)
        read, write = _READ(real[_AT_READ] or 0), _READ(real[_AT_WRITE] or 0)
        truncate, sync = _TRUNCATE(real[_AT_TRUNCATE] or 0), _SYNC(real[_AT_SYNC] or 0)
        names, ask = self._names, self._ask

        def on_read(file: int, to: int, size: int, offset: int) -> int:
            return ask("read", names[file], offset) or int(read(file, to, size, offset))

        def on_write(file: int, data: int, size: int, offset: int) -> int:
            return ask("write", names[file], offset, ctypes.string_at(data, size)) or int(
                write(file, data, size, offset)
            )

        def on_truncate(file: int, size: int) -> int:
            return ask("truncate", names[file], size) or int(truncate(file, size))

        def on_sync(file: int, flags: int) -> int:
            return ask("sync", names[file]) or int(sync(file, flags))

        for at, made in (
            (_AT_READ, _READ(on_read)),
            (_AT_WRITE, _READ(on_write)),
            (_AT_TRUNCATE, _TRUNCATE(on_truncate)),
            (_AT_SYNC, _SYNC(on_sync)),
        ):
            self._kept.append(made)
            table[at] = ctypes.cast(made, c_void_p)
        return table


_layers: list[_Layer] = []


@contextmanager
def beneath(rule: Rule) -> Iterator[None]:
    """Every database opened meanwhile lies on a disk with this rule. Close them before the end."""
    try:
        if not _layers:
            _layers.append(_Layer())
    except (AttributeError, OSError) as error:
        pytest.skip(f"SQLite of this interpreter cannot be reached: {error}")
    _layers[0].install(rule)
    try:
        yield
    finally:
        _layers[0].remove()


def fail(kind: str, name: str, number: int, code: int) -> Rule:
    """The n-th call of this kind on this file fails, and all after it: a disk does not get well."""

    def rule(call: Call) -> int:
        return code if (call.kind, call.name) == (kind, name) and call.number >= number else 0

    return rule
