"""What can be wrong with a data directory, and what happens when a disk fails under a running node."""

from collections.abc import Callable
from threading import Lock

from mesh.events import DiskFailed, Event


class StoreRefused(Exception):
    """This data directory cannot be used by this node. The message is one sentence, fit for an operator."""


class StoreDamaged(StoreRefused):
    """What was durable is no longer there, or not as it was written.

    The node must not start from it: it would vote and answer as if it had never promised what is lost (consensus A6,
    D3, D4). Nothing is deleted. The way back is an empty directory and a new place in the mesh.
    """


class Fault:
    """The first failure of a store, shared by its threads. Once there is one, nothing more is written.

    A failed sync is never tried again: the kernel may have dropped the pages and would report success (Rebello et al.
    2020).
    """

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._lock = Lock()
        self.reason = ""
        """Empty while all is well."""

    def report(self, doing: str, error: BaseException) -> None:
        """Note the first failure and tell the core. Later ones add nothing and are dropped."""
        with self._lock:
            if self.reason:
                return
            self.reason = f"{doing}: {type(error).__name__}: {error}"
        self._post(DiskFailed(self.reason))
