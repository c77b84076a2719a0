"""A follower too far behind for the log receives the task table in chunks, while the leader goes on.

The leader offers, the follower pulls one chunk after another, so the follower sets the pace. The leader's side is a
read transaction in its ledger store. The follower's side stages rows on disk and decodes them into a table of its own,
beside the one in use; both are swapped in one step at the end (Raft 7). When the sender dies half way, what has come in
is kept: the next one sends the rest, and what has changed.
"""

from collections.abc import Callable

import msgspec

from mesh.config import FINISHED_MAX
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
from mesh.events import SnapshotOpened, SnapshotRead, SnapshotStaged
from mesh.ids import LogIndex, NodeId, Term
from mesh.ledger.intake import Intake, Leftovers
from mesh.ledger.task import TaskState
from mesh.messages import SnapshotChunk, SnapshotOffer, SnapshotPull
from mesh.raft.configuration import decode
from mesh.raft.progress import ProgressState
from mesh.raft.replica import Replica
from mesh.wire.codec import Rubbish, decode_rows, decode_summary, encode

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
STAGING_MAX = 4
"""Chunks the follower's store has not yet taken in; no more are pulled before it has."""
KEPT_MS_MAX = 60_000
"""What has come in of a table is kept this long for the next sender."""
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
    """The follower's side. `after` is the cursor of the chunk that is awaited; `is_first` before any has come.

    Of a table that is gone on with, rows up to the cursor `upto` are there as of the log index `base` or later, when
    `base_finished` tasks had finished. `staging` counts chunks the store has not taken in.
    """

    sender: NodeId
    transfer: int
    mark: LedgerMark
    pulled_ms: int
    touched_ms: int
    intake: Intake
    after: str = ""
    is_first: bool = True
    is_installing: bool = False
    is_pull_due: bool = False
    staging: int = 0
    base: LogIndex = LogIndex(0)
    base_finished: int = 0
    upto: str = ""
    forget_to: int = 0


class Transfers:
    """Both sides. At most one table comes in, at most SENDING_MAX go out."""

    def __init__(
        self, incarnation: int, raft: Replica, may_install: Callable[[LedgerMark], bool], leftovers: Leftovers
    ) -> None:
        """`raft` hears what becomes of a table sent; `may_install` is asked before ours is replaced; `leftovers` gets
        what came to nothing.
        """
        self.sending: dict[int, Sending] = {}
        self.receiving: Receiving | None = None
        self.kept: Receiving | None = None
        """A transfer that broke off half way."""
        self._leftovers = leftovers
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
        return [ReadSnapshot(message.transfer, message.after, CHUNK_BYTES, message.base, message.upto)]

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
        before, self.kept = receiving or self.kept, None
        self.receiving = Receiving(sender, offer.transfer, offer.mark, now_ms, now_ms, Intake())
        if before is not None and not _go_on(before, self.receiving):
            self._discard(before)
        return self._pull(now_ms)

    def chunk(self, sender: NodeId, chunk: SnapshotChunk, now_ms: int) -> list[Effect]:
        """Stage rows and ask for the next, or install after the last. Raises Rubbish: it holds what is no row."""
        receiving = self.receiving
        if receiving is None or receiving.is_installing or receiving.transfer != chunk.transfer:
            return []
        if receiving.sender != sender or chunk.after != receiving.after:
            return []
        receiving.intake.add(decode_rows([row.record for row in chunk.rows if not row.finished]))
        for row in chunk.rows:
            if row.finished:
                receiving.intake.add_finished(row.finished, row.task_id, row.fingerprint)
        stage = StageSnapshot(
            chunk.transfer,
            chunk.rows,
            chunk.events,
            receiving.is_first,
            receiving.mark.applied_index,
            receiving.forget_to,
        )
        receiving.is_first = False
        receiving.forget_to = 0
        receiving.touched_ms = now_ms
        receiving.staging += 1
        if chunk.more:
            receiving.after = chunk.more
            receiving.is_pull_due = True
            return [stage, *self._pull_if_due(now_ms)]
        if not self._may_install(receiving.mark):
            self.receiving = None  # The log has overtaken the table while it came in.
            self._discard(receiving)
            return [stage]
        receiving.is_installing = True
        return [stage, InstallSnapshot(chunk.transfer, receiving.mark)]

    def staged(self, event: SnapshotStaged, now_ms: int) -> list[Effect]:
        """The store has taken a chunk in."""
        receiving = self.receiving
        if receiving is None or receiving.transfer != event.transfer or not receiving.staging:
            return []
        receiving.staging -= 1
        receiving.touched_ms = now_ms
        return self._pull_if_due(now_ms)

    def installed(self) -> Intake:
        """The table that has come in is in place on disk. Returns its rows."""
        receiving, self.receiving = self.receiving, None
        assert receiving is not None and receiving.is_installing, "what is installed has come in"
        return receiving.intake

    def _pull_if_due(self, now_ms: int) -> list[Effect]:
        receiving = self.receiving
        if receiving is None or not receiving.is_pull_due or receiving.staging >= STAGING_MAX:
            return []
        return self._pull(now_ms)

    def _pull(self, now_ms: int) -> list[Effect]:
        receiving = self.receiving
        assert receiving is not None, "only a running transfer is pulled"
        receiving.pulled_ms = now_ms
        receiving.is_pull_due = False
        pull = SnapshotPull(receiving.transfer, receiving.after, receiving.base, receiving.upto)
        return [Send(receiving.sender, Channel.BULK, encode(pull))]

    def _discard(self, receiving: Receiving) -> None:
        self._leftovers.add(*receiving.intake.containers())

    # --- both ---

    def next_deadline_ms(self) -> int | None:
        deadlines = [sending.look_ms for sending in self.sending.values()]
        if self.receiving is not None and not self.receiving.is_installing:
            idle_ms = self.receiving.touched_ms + IDLE_MS_MAX
            again_ms = self.receiving.pulled_ms + PULL_AGAIN_MS
            deadlines.append(idle_ms if self.receiving.is_pull_due else min(idle_ms, again_ms))
        if self.kept is not None:
            deadlines.append(self.kept.touched_ms + KEPT_MS_MAX)
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
                self.receiving, self.kept = None, receiving
            elif not receiving.is_pull_due and now_ms >= receiving.pulled_ms + PULL_AGAIN_MS:
                effects += self._pull(now_ms)
        if self.kept is not None and now_ms >= self.kept.touched_ms + KEPT_MS_MAX:
            self._discard(self.kept)
            self.kept = None
        return effects


def is_legible(mark: LedgerMark) -> bool:
    """Whether a table with this mark could be put in use."""
    try:
        summary = decode_summary(mark.summary)
    except Rubbish:
        return False
    return len(summary.counts) == len(TaskState) and decode(mark.configuration) is not None


def _go_on(before: Receiving, after: Receiving) -> bool:
    """Go on where another transfer broke off, if the new table is of the same log, later, and not so much later that
    tasks may be forgotten of which only the older one tells. False: begin anew.
    """
    stood, finished = _position(before.after), decode_summary(before.mark.summary).finished_count
    if stood is None or before.is_first or after.mark.applied_index < before.mark.applied_index:
        return False
    upto = _position(before.upto)
    is_older = upto is not None and stood < upto
    after.base = before.base if is_older else before.mark.applied_index
    after.upto = before.upto if is_older else before.after
    after.base_finished = before.base_finished if is_older else finished
    finished_last = decode_summary(after.mark.summary).finished_count
    if finished_last - after.base_finished >= FINISHED_MAX:
        after.base, after.upto = LogIndex(0), ""
        return False
    after.intake = before.intake
    after.is_first = False
    after.forget_to = max(0, finished_last - FINISHED_MAX)
    after.intake.forget(after.forget_to)
    return True


def _position(cursor: str) -> tuple[int, str, int] | None:
    """Where in a table a cursor stands, to be compared; None if that cannot be told, or all rows are there."""
    if cursor.startswith("t"):
        return 0, cursor[1:], 0
    if cursor.startswith("f") and cursor[1:].isdecimal():
        return 1, "", int(cursor[1:])
    return None
