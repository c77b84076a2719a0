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
from mesh.ids import NodeId, Term
from mesh.messages import SnapshotChunk, SnapshotOffer, SnapshotPull
from mesh.wire.codec import encode

CHUNK_BYTES = 256 << 10
IDLE_MS_MAX = 5_000
"""A transfer nobody pulled for this long is given up."""
PULL_AGAIN_MS = 1_000
PULLS_MAX = 4
"""Pulls of one transfer waiting for the store; more are repeats and are dropped."""
SENDING_MAX = 2
"""Transfers one leader serves at once."""
GONE = "!gone"
"""Cursor with which a store says that it has no such transfer any more."""


class Sending(msgspec.Struct):
    """The leader's side of one transfer. `asked` are the cursors of reads not yet answered; the store answers in
    order.
    """

    peer: NodeId
    touched_ms: int
    mark: LedgerMark | None = None
    asked: list[str] = []


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

    def __init__(
        self, incarnation: int, failed: Callable[[NodeId], None], may_install: Callable[[LedgerMark], bool]
    ) -> None:
        """`failed` hears of a follower whose table came to nothing; `may_install` is asked before ours is replaced."""
        self.sending: dict[int, Sending] = {}
        self.receiving: Receiving | None = None
        self._last = incarnation << 20
        self._failed = failed
        self._may_install = may_install

    # --- the leader's side ---

    def offer(self, peer: NodeId, now_ms: int) -> list[Effect]:
        """A follower needs a table."""
        if any(sending.peer == peer for sending in self.sending.values()):
            return []
        if len(self.sending) >= SENDING_MAX:
            self._failed(peer)
            return []
        self._last += 1
        self.sending[self._last] = Sending(peer, now_ms)
        return [OpenSnapshot(self._last)]

    def opened(self, event: SnapshotOpened, term: Term, now_ms: int) -> list[Effect]:
        """The read transaction stands: offer it."""
        sending = self.sending.get(event.transfer)
        if sending is None:
            return [CloseSnapshot(event.transfer)]
        sending.mark, sending.touched_ms = event.mark, now_ms
        return [Send(sending.peer, Channel.CTL, encode(SnapshotOffer(term, event.transfer, event.mark)))]

    def pulled(self, peer: NodeId, message: SnapshotPull, now_ms: int) -> list[Effect]:
        sending = self.sending.get(message.transfer)
        if sending is None or sending.peer != peer:
            return []
        if len(sending.asked) >= PULLS_MAX:
            return []
        sending.touched_ms = now_ms
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
        chunk = SnapshotChunk(event.transfer, after, event.rows, event.events, event.more)
        return [Send(sending.peer, Channel.BULK, encode(chunk))]

    def close_for(self, peer: NodeId) -> list[Effect]:
        """The follower has caught up, or we do not lead any more."""
        done = [transfer for transfer, sending in self.sending.items() if sending.peer == peer]
        return [effect for transfer in done for effect in self._close(transfer, failed=False)]

    def close_all(self) -> list[Effect]:
        return [effect for transfer in list(self.sending) for effect in self._close(transfer, failed=False)]

    def _close(self, transfer: int, *, failed: bool = True) -> list[Effect]:
        sending = self.sending.pop(transfer)
        if failed:
            self._failed(sending.peer)
        return [CloseSnapshot(transfer)]

    # --- the follower's side ---

    def offered(self, sender: NodeId, offer: SnapshotOffer, applied_index: int, now_ms: int) -> list[Effect]:
        """Begin to pull, unless this table is no news or another is being installed."""
        if offer.mark.applied_index <= applied_index:
            return []
        if self.receiving is not None and (self.receiving.is_installing or self.receiving.transfer == offer.transfer):
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
        deadlines = [sending.touched_ms + IDLE_MS_MAX for sending in self.sending.values()]
        if self.receiving is not None and not self.receiving.is_installing:
            deadlines.append(self.receiving.pulled_ms + PULL_AGAIN_MS)
        return min(deadlines, default=None)

    def tick(self, now_ms: int) -> list[Effect]:
        """Give up what stands still; pull again what was lost."""
        effects: list[Effect] = []
        for transfer, sending in list(self.sending.items()):
            if now_ms >= sending.touched_ms + IDLE_MS_MAX:
                effects += self._close(transfer)
        receiving = self.receiving
        if receiving is not None and not receiving.is_installing:
            if now_ms >= receiving.touched_ms + IDLE_MS_MAX:
                self.receiving = None
            elif now_ms >= receiving.pulled_ms + PULL_AGAIN_MS:
                effects += self._pull(now_ms)
        return effects
