"""Tells a write-ahead log that was cut off by a crash from one that was damaged later.

SQLite reads its write-ahead log up to the first frame whose checksum is wrong and silently forgets the rest. After a
crash that is right: the rest was never synced, hence never promised. But if a bit rots in the middle, everything
after it is gone, although each commit had been synced (the loss of NATS 7549, consensus D3). The two differ: a
transaction is begun only after the sync of the one before, so a good frame right behind a commit proves that this
commit, and all before it, were durable. What cannot be told apart is damage in the very last transaction; it counts
as cut off, and Raft's quorum covers it (unless the task table has seen it durable, see `witness`).

The header of the log, 32 bytes, is taken to be written whole or not at all, as disks write sectors. One that is torn
counts as damaged: that may cost a node its directory, never the mesh an entry.

Format: sqlite.org/fileformat2.html, section 4.
"""

from collections.abc import Iterator
from operator import mul
from pathlib import Path
from struct import Struct
from typing import BinaryIO, NamedTuple

_FILE_HEADER = Struct(">8I")
_FRAME_HEADER = Struct(">6I")
_MAGIC = 0x377F0682
"""The lowest bit says in which byte order the words are summed: 1 is big-endian."""
_WORD = 1 << 32
_SHIFT = 96
"""Both sums travel in one integer; neither reaches 2^96 before it is cut to a word."""

_Sum = tuple[int, int]


class _Frame(NamedTuple):
    commits: bool
    follows: bool
    """It belongs to this generation of the log, and its checksum continues that of the frame before it."""


class _Checksum:
    """SQLite's checksum (for each pair of words: s0 += x0 + s1; s1 += x1 + s0) as one dot product, which is far
    faster here.
    """

    def __init__(self, order: str, size: int) -> None:
        self._words = Struct(f"{order}{size // 4}I")
        a, b, c, d = 1, 0, 0, 1
        weights: list[int] = []
        for _ in range(size // 8):
            weights.append(b + (d << _SHIFT))
            weights.append((a + b) % _WORD + ((c + d) % _WORD << _SHIFT))
            a, b, c, d = (a + b) % _WORD, (a + 2 * b) % _WORD, (c + d) % _WORD, (c + 2 * d) % _WORD
        self._weights = weights[::-1]
        self._seed0, self._seed1 = a + (c << _SHIFT), b + (d << _SHIFT)

    def __call__(self, seed: _Sum, data: bytes) -> _Sum:
        total = sum(map(mul, self._weights, self._words.unpack(data)))
        total += seed[0] * self._seed0 + seed[1] * self._seed1
        return total % _WORD, (total >> _SHIFT) % _WORD


def lost_commits(path: Path) -> bool:
    """Whether this write-ahead log holds commits that were durable and that SQLite would silently forget.

    To be asked before SQLite opens the database: a clean close afterwards removes the evidence. About 0.1 ms per 4
    KiB page.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    if size <= _FILE_HEADER.size:
        return False
    with path.open("rb") as file:
        header = file.read(_FILE_HEADER.size)
        magic, _, page_bytes, _, salt0, salt1, sum0, sum1 = _FILE_HEADER.unpack(header)
        if magic & ~1 != _MAGIC or not 512 <= page_bytes <= 65_536 or page_bytes & (page_bytes - 1):
            return True
        order = ">" if magic & 1 else "<"
        if _Checksum(order, 24)((0, 0), header[:24]) != (sum0, sum1):
            return True
        return _commit_behind_a_gap(
            _frames(file, _Checksum(order, 8 + page_bytes), page_bytes, (salt0, salt1), (sum0, sum1))
        )


def _frames(file: BinaryIO, checksum: _Checksum, page_bytes: int, salts: _Sum, seed: _Sum) -> Iterator[_Frame]:
    """A frame may follow what the one before it states as its checksum, or what that should have been."""
    seeds = (seed, seed)
    while len(data := file.read(_FRAME_HEADER.size + page_bytes)) == _FRAME_HEADER.size + page_bytes:
        page, commit_pages, salt0, salt1, sum0, sum1 = _FRAME_HEADER.unpack_from(data)
        stated = (sum0, sum1)
        if (salt0, salt1) != salts or page == 0:
            yield _Frame(commits=commit_pages != 0, follows=False)
            seeds = (stated, stated)
            continue
        content = data[:8] + data[_FRAME_HEADER.size :]
        computed = checksum(seeds[0], content)
        follows = computed == stated or (seeds[1] != seeds[0] and checksum(seeds[1], content) == stated)
        yield _Frame(commits=commit_pages != 0, follows=follows)
        seeds = (stated, computed)


def _commit_behind_a_gap(frames: Iterator[_Frame]) -> bool:
    """SQLite stops at the first frame that does not follow. Is there a commit from there on with a good frame behind
    it?
    """
    last = next((frame for frame in frames if not frame.follows), None)
    for frame in frames:
        if last is not None and last.commits and frame.follows:
            return True
        last = frame
    return False
