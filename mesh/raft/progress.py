"""What a leader knows of one follower, and how much it may send it (Raft 5.3; the three states are etcd's).

    PROBE      the common prefix is not known: one append, then wait for its answer
    REPLICATE  it is known: appends follow each other unanswered, within a window of count and bytes
    SNAPSHOT   the follower needs entries we no longer have: nothing but heartbeats until it has caught up

In every state `match < next`, and `next` is never below the leader's first entry.
"""

from collections import deque
from enum import Enum

from mesh.config import RaftConfig
from mesh.ids import LogIndex


class ProgressState(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """One follower or learner, for one term of its leader."""

    __slots__ = (
        "_in_flight",
        "bytes_in_flight",
        "is_paused",
        "mark",
        "match",
        "next",
        "replied_ms",
        "round",
        "snapshot_index",
        "state",
    )

    def __init__(self, next_index: LogIndex, now_ms: int) -> None:
        self.state = ProgressState.PROBE
        self.mark = ""
        """Names the log that all this is about."""
        self.match = LogIndex(0)
        """Everything up to here is on the follower's disk and agrees with our log."""
        self.next = next_index
        """The next entry to send."""
        self.is_paused = False
        """In PROBE: one append is out, or the link is down. Heartbeats go on."""
        self.round = 0
        """The latest heartbeat or read round it answered."""
        self.replied_ms = now_ms
        self.snapshot_index = LogIndex(0)
        """In SNAPSHOT: where the table stood that was sent, 0 while it is not sent yet."""
        self._in_flight: deque[tuple[LogIndex, int]] = deque()
        self.bytes_in_flight = 0

    def probe(self, next_index: LogIndex, *, is_paused: bool = False) -> None:
        """Look for the common prefix from `next_index` on."""
        self._enter(ProgressState.PROBE, next_index)
        self.is_paused = is_paused

    def replicate(self, next_index: LogIndex) -> None:
        """The prefix before `next_index` is common: stream from there."""
        self._enter(ProgressState.REPLICATE, next_index)

    def await_snapshot(self, next_index: LogIndex) -> None:
        """It needs what we no longer have."""
        self._enter(ProgressState.SNAPSHOT, next_index)

    def may_send(self, config: RaftConfig) -> bool:
        """Whether another append may leave, the window's bytes aside."""
        if self.state is ProgressState.REPLICATE:
            return len(self._in_flight) < config.appends_in_flight_max
        return self.state is ProgressState.PROBE and not self.is_paused

    def has_room(self, size: int, config: RaftConfig) -> bool:
        """Whether `size` more bytes fit the window. The first append always does."""
        return not self._in_flight or self.bytes_in_flight + size <= config.bytes_in_flight_max

    def sent(self, last_index: LogIndex, size: int) -> None:
        """An append up to `last_index` left."""
        if self.state is ProgressState.REPLICATE:
            self.next = LogIndex(last_index + 1)
            self._in_flight.append((last_index, size))
            self.bytes_in_flight += size
        else:
            self.is_paused = True

    def acknowledge(self, match: LogIndex) -> bool:
        """The follower holds everything up to `match`. False if that is no news."""
        in_flight = self._in_flight
        while in_flight and in_flight[0][0] <= match:
            self.bytes_in_flight -= in_flight.popleft()[1]
        if match <= self.match:
            return False
        self.match = match
        if self.next <= match:
            self.next = LogIndex(match + 1)
        return True

    def _enter(self, state: ProgressState, next_index: LogIndex) -> None:
        assert next_index > self.match, f"next {next_index} must stay above match {self.match}"
        self.state = state
        self.next = next_index
        self.is_paused = False
        self.snapshot_index = LogIndex(0)
        self._in_flight.clear()
        self.bytes_in_flight = 0
