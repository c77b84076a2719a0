"""What the disk was told, what it has confirmed, and what therefore may be promised.

Batches become durable in the order of their tokens. A batch is open until the next take: whatever changes meanwhile
joins it. A promise made now may rest on the open batch, whose token is already known.
"""

from collections import deque
from dataclasses import dataclass

from mesh.durable import HardState
from mesh.effects import NOTHING, Persist
from mesh.ids import LogIndex, PersistToken
from mesh.raft.log import Log


@dataclass(slots=True)
class _Batch:
    """One batch the disk has not confirmed. `upto_index` falls when the log is cut below it."""

    token: PersistToken
    upto_index: LogIndex
    since_ms: int


class Journal:
    """The line between memory and disk."""

    __slots__ = (
        "_hard_state_changed",
        "_hard_state_token",
        "_in_flight",
        "_next_index",
        "_truncate_from",
        "durable_index",
        "durable_token",
        "last_token",
    )

    def __init__(self, durable_index: LogIndex) -> None:
        self.durable_index = durable_index
        """Everything up to here, as it is in the log now, is on disk."""
        self.durable_token: PersistToken = NOTHING
        self.last_token: PersistToken = NOTHING
        self._next_index = durable_index + 1
        self._truncate_from = LogIndex(0)
        self._hard_state_changed = False
        self._hard_state_token: PersistToken = NOTHING
        self._in_flight: deque[_Batch] = deque()

    def hard_state_changed(self) -> None:
        """Term or vote is not what it was: it goes into the open batch."""
        self._hard_state_changed = True

    def truncated(self, from_index: LogIndex) -> None:
        """The log was cut in memory. A confirmation still to come speaks only of what was not cut."""
        if from_index < self._next_index:
            self._truncate_from = min(self._truncate_from or from_index, from_index)
            self._next_index = from_index
        kept = LogIndex(from_index - 1)
        self.durable_index = min(self.durable_index, kept)
        for batch in self._in_flight:
            batch.upto_index = min(batch.upto_index, kept)

    def replaced(self, log: Log) -> None:
        """Another log, all of it on disk, took the place of the old one."""
        self.durable_index = log.last_index
        self._next_index = log.last_index + 1
        self._truncate_from = LogIndex(0)
        for batch in self._in_flight:
            batch.upto_index = LogIndex(0)

    def after_hard_state(self) -> PersistToken:
        """What a message must wait for that promises our term and vote."""
        if self._hard_state_changed:
            return PersistToken(self.last_token + 1)
        return self._hard_state_token if self._hard_state_token > self.durable_token else NOTHING

    def after_entry(self, index: LogIndex, log: Log) -> PersistToken:
        """What a message must wait for that promises the log up to `index`, and our term."""
        if index <= self.durable_index:
            return self.after_hard_state()
        return PersistToken(self.last_token + 1) if self.is_open(log) else self.last_token

    def take(self, log: Log, hard_state: HardState, now_ms: int) -> Persist:
        """Close the open batch, in which there is something."""
        assert self.is_open(log), "an empty batch is not worth a sync"
        self.last_token = token = PersistToken(self.last_token + 1)
        if self._hard_state_changed:
            self._hard_state_token = token
        persist = Persist(
            token,
            hard_state if self._hard_state_changed else None,
            self._truncate_from,
            tuple(log.between(self._next_index - 1, log.last_index)),
        )
        self._hard_state_changed = False
        self._truncate_from = LogIndex(0)
        self._next_index = log.last_index + 1
        self._in_flight.append(_Batch(token, log.last_index, now_ms))
        return persist

    def durable(self, token: PersistToken) -> None:
        """Every batch up to `token` is on disk. Stale and doubled confirmations change nothing."""
        in_flight = self._in_flight
        while in_flight and in_flight[0].token <= token:
            batch = in_flight.popleft()
            self.durable_token = batch.token
            self.durable_index = max(self.durable_index, batch.upto_index)

    def is_stalled(self, now_ms: int, stall_ms_max: int) -> bool:
        """Whether the oldest unconfirmed batch has waited too long."""
        return bool(self._in_flight) and now_ms - self._in_flight[0].since_ms >= stall_ms_max

    def is_open(self, log: Log) -> bool:
        """Whether the open batch has anything in it."""
        return log.last_index >= self._next_index or self._hard_state_changed or self._truncate_from > 0
