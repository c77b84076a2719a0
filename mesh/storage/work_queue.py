"""What waits for a thread of the store: bounded in number and in bytes, without a lock of its own."""

from queue import SimpleQueue
from typing import Generic, TypeVar

QUEUED_MAX = 65_536
"""Effects one thread has not come to. A disk that far behind counts as failed."""

QUEUED_BYTES_MAX = 512 << 20
"""The bytes they carry. One that is larger still passes when nothing else waits."""

_T = TypeVar("_T")


class WorkQueue(Generic[_T]):
    """From one thread to one other. `None` says that it is over."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[_T | None, int]] = SimpleQueue()
        self._bytes_put = 0
        """Written by the one side only, as `_bytes_taken` is by the other: so neither needs a lock."""
        self._bytes_taken = 0

    def put(self, work: _T | None, size: int = 0) -> str:
        """Add something that carries `size` bytes. Returns what is wrong if too much waits; it is added all the same,
        and whoever asks must give up the disk.
        """
        waiting = self._bytes_put - self._bytes_taken
        self._bytes_put += size
        self._queue.put((work, size))
        if size and waiting and waiting + size > QUEUED_BYTES_MAX:
            return f"{waiting + size} bytes wait for the disk"
        if (queued := self._queue.qsize()) > QUEUED_MAX:
            return f"{queued} effects wait for the disk"
        return ""

    def get(self, *, block: bool = True, timeout_s: float | None = None) -> _T | None:
        """The oldest. Raises queue.Empty if there is none (in time)."""
        work, size = self._queue.get(block, timeout_s)
        self._bytes_taken += size
        return work

    def qsize(self) -> int:
        return self._queue.qsize()

    @property
    def bytes_waiting(self) -> int:
        return self._bytes_put - self._bytes_taken
