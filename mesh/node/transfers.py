"""A follower too far behind for the log receives the task table in chunks, while the leader goes on.

The leader offers, the follower pulls one chunk after another, so the follower sets the pace. The leader's side is a
read transaction in its ledger store; the follower's side stages rows and swaps the table in one step (Raft 7).
"""

from collections.abc import Callable

import msgspec

from mesh.durable import LedgerMark
from mesh.effects import (
    Channel,
    CloseSnapshot,
    Effect,
    InstallSnapshot,
    OpenSnapshot,
    ReadSnapshot,
    Send,
    StageSnapshot,
)
from mesh.events import SnapshotOpened, SnapshotRead
from mesh.ids import LogIndex, NodeId, Term
from mesh.messages import SnapshotChunk, SnapshotOffer, SnapshotPull
from mesh.raft.progress import ProgressState
from mesh.raft.replica import Replica
from mesh.wire.codec import encode

CHUNK_BYTES = 256 << 10
IDLE_MS_MAX = 5_000
"""A transfer nobody pulled for this long is given up."""
INSTALL_MS_MAX = 60_000
"""A follower that has all of a table may take this long to put it in use."""
INSTALL_LOOK_MS = 1_000
"""How often to look whether it has."""
PULL_AGAIN_MS = 1_000
PULLS_MAX = 4
"""Pulls of one transfer waiting for the store; more are repeats and are dropped."""
SENDING_MAX = 2
"""Transfers one leader serves at once."""
AWAITING = ProgressState.SNAPSHOT.value
GONE = "!gone"
"""Cursor with which a store says that it has no such transfer any more."""


class Sending(msgspec.Struct):
    """The leader's side of one transfer. `asked` are the cursors of reads not yet answered; the store answers in
    order. `is_sent` once the last chunk has left: the follower is putting the table in use.
    """

    peer: NodeId
    touched_ms: int
    look_ms: int
    mark: LedgerMark | None = None
    asked: list[str] = []
    is_sent: bool = False

    def touch(self, now_ms: int) -> None:
        """The follower is there."""
        self.touched_ms = now_ms
        self.look_ms = now_ms + IDLE_MS_MAX


class Receiving(msgspec.Struct):
    """The follower's side. `after` is the cursor of the chunk that is awaited; `is_first` before any has come."""

    sender: NodeId
    transfer: int
    mark: LedgerMark
    pulled_ms: int
    touched_ms: int
    after: str = ""
    is_first: bool = True
    is_installing: bool = False


class Transfers:
    """Both sides. At most one table comes in, at most SENDING_MAX go out."""

    def __init__(self, incarnation: int, raft: Replica, may_install: Callable[[LedgerMark], bool]) -> None:
        """`raft` hears what becomes of a table sent; `may_install` is asked before ours is replaced."""
        self.sending: dict[int, Sending] = {}
        self.receiving: Receiving | None = None
        self._last = incarnation << 20
        self._raft = raft
        self._may_install = may_install

    # --- the leader's side ---

    def offer(self, peer: NodeId, now_ms: int) -> list[Effect]:
        """A follower needs a table."""
        effects: list[Effect] = []
        for transfer, sending in list(self.sending.items()):
            if sending.peer == peer and not sending.is_sent:
                return []
            if sending.peer == peer:
                effects += self._close(transfer, failed=False)  # It was too old when it came into use.
        if len(self.sending) >= SENDING_MAX:
            self._raft.snapshot_failed(peer)
            return effects
        self._last += 1
        self.sending[self._last] = Sending(peer, now_ms, now_ms + IDLE_MS_MAX)
        return [*effects, OpenSnapshot(self._last)]

    def needed_after(self) -> LogIndex | None:
        """The log after this index is needed by followers that are being sent a table; None if by nobody."""
        marks = [sending.mark.applied_index for sending in self.sending.values() if sending.mark is not None]
        return min(marks, default=None)

    def opened(self, event: SnapshotOpened, term: Term, now_ms: int) -> list[Effect]:
        """The read transaction stands: offer it."""
        sending = self.sending.get(event.transfer)
        if sending is None:
            return [CloseSnapshot(event.transfer)]
        sending.mark = event.mark
        sending.touch(now_ms)
        return [Send(sending.peer, Channel.CTL, encode(SnapshotOffer(term, event.transfer, event.mark)))]

    def pulled(self, peer: NodeId, message: SnapshotPull, now_ms: int) -> list[Effect]:
        sending = self.sending.get(message.transfer)
        if sending is None or sending.peer != peer:
            return []
        if len(sending.asked) >= PULLS_MAX:
            return []
        sending.touch(now_ms)
        sending.asked.append(message.after)
        return [ReadSnapshot(message.transfer, message.after, CHUNK_BYTES)]

    def read(self, event: SnapshotRead) -> list[Effect]:
        """Rows were read: send them on."""
        sending = self.sending.get(event.transfer)
        if sending is None or not sending.asked:
            return []
        after = sending.asked.pop(0)
        if event.more == GONE:
            return self._close(event.transfer)
        if not event.more and sending.mark is not None:
            sending.is_sent = True
            self._raft.snapshot_sent(sending.peer, sending.mark.applied_index)
        chunk = SnapshotChunk(event.transfer, after, event.rows, event.events, event.more)
        return [Send(sending.peer, Channel.BULK, encode(chunk))]

    def close_all(self) -> list[Effect]:
        return [effect for transfer in list(self.sending) for effect in self._close(transfer, failed=False)]

    def _close(self, transfer: int, *, failed: bool = True) -> list[Effect]:
        sending = self.sending.pop(transfer)
        if failed:
            self._raft.snapshot_failed(sending.peer)
        return [CloseSnapshot(transfer)]

    def _look_at(self, transfer: int, sending: Sending, now_ms: int) -> list[Effect]:
        """Close a transfer that stands still, or has done its work."""
        if not sending.is_sent or now_ms >= sending.touched_ms + INSTALL_MS_MAX:
            return self._close(transfer)
        if (sending.peer, AWAITING) in [(peer, state) for peer, _, state in self._raft.peers()]:
            sending.look_ms = now_ms + INSTALL_LOOK_MS
            return []
        return self._close(transfer, failed=False)

    # --- the follower's side ---

    def offered(self, sender: NodeId, offer: SnapshotOffer, applied_index: int, now_ms: int) -> list[Effect]:
        """Begin to pull, unless this table is no news or another is being installed."""
        if offer.mark.applied_index <= applied_index:
            return []
        receiving = self.receiving
        if receiving is not None and (
            receiving.is_installing or (receiving.sender, receiving.transfer) == (sender, offer.transfer)
        ):
            return []
        self.receiving = Receiving(sender, offer.transfer, offer.mark, now_ms, now_ms)
        return self._pull(now_ms)

    def chunk(self, sender: NodeId, chunk: SnapshotChunk, now_ms: int) -> list[Effect]:
        """Stage rows and ask for the next, or install after the last."""
        receiving = self.receiving
        if receiving is None or receiving.is_installing or receiving.transfer != chunk.transfer:
            return []
        if receiving.sender != sender or chunk.after != receiving.after:
            return []
        effects: list[Effect] = [StageSnapshot(chunk.transfer, chunk.rows, chunk.events, receiving.is_first)]
        receiving.is_first = False
        receiving.touched_ms = now_ms
        if chunk.more:
            receiving.after = chunk.more
            return effects + self._pull(now_ms)
        if not self._may_install(receiving.mark):
            self.receiving = None  # The log has overtaken the table while it came in.
            return effects
        receiving.is_installing = True
        return [*effects, InstallSnapshot(chunk.transfer, receiving.mark)]

    def _pull(self, now_ms: int) -> list[Effect]:
        receiving = self.receiving
        assert receiving is not None, "only a running transfer is pulled"
        receiving.pulled_ms = now_ms
        pull = SnapshotPull(receiving.transfer, receiving.after)
        return [Send(receiving.sender, Channel.BULK, encode(pull))]

    # --- both ---

    def next_deadline_ms(self) -> int | None:
        deadlines = [sending.look_ms for sending in self.sending.values()]
        if self.receiving is not None and not self.receiving.is_installing:
            deadlines.append(self.receiving.pulled_ms + PULL_AGAIN_MS)
        return min(deadlines, default=None)

    def tick(self, now_ms: int) -> list[Effect]:
        """Give up what stands still; pull again what was lost."""
        effects: list[Effect] = []
        for transfer, sending in list(self.sending.items()):
            if now_ms >= sending.look_ms:
                effects += self._look_at(transfer, sending, now_ms)
        receiving = self.receiving
        if receiving is not None and not receiving.is_installing:
            if now_ms >= receiving.touched_ms + IDLE_MS_MAX:
                self.receiving = None
            elif now_ms >= receiving.pulled_ms + PULL_AGAIN_MS:
                effects += self._pull(now_ms)
        return effects
