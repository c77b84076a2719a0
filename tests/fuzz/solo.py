"""One real node, ana, alone on a stage: its disk and its good peers are played here, everything else is up to the fuzz.

Good peers (ben and eva) answer as they should: they grant votes, take appends, and where ana is to follow, ben leads.
Whatever a bad message makes of that, ana must not stop, and must stay sane.
"""

from collections import deque
from random import Random
from typing import Any

from mesh import effects, events
from mesh.config import DispatchConfig, NodeConfig, RaftConfig
from mesh.durable import Entry, EntryKind, LedgerMark, Recovered, TaskRow
from mesh.events import Event
from mesh.ids import ClientId, FencingToken, LogIndex, NodeId, PersistToken, TaskId, Term
from mesh.ledger.commands import AdmitNode, Batch, Command, GrantLease, SubmitTask
from mesh.messages import (
    Append,
    AppendReply,
    AttemptOutcome,
    PreVote,
    PreVoteReply,
    SubmitTasks,
    TaskSpec,
    Vote,
    VoteReply,
)
from mesh.node import Node
from mesh.raft.replica import Role
from mesh.wire.codec import decode_heartbeat, decode_peer, decode_reply, encode
from tests.fuzz.words import Known

ANA, BEN, EVA = NodeId("ana"), NodeId("ben"), NodeId("eva")
VOTERS = tuple((name, f"{name}:7000") for name in (ANA, BEN, EVA))
FRESH = Recovered(None, [], Term(0), None, [], [], 0)
INT64_MAX = (1 << 63) - 1
SANE_MAX = 1 << 60
"""Beyond this a term or an index is not one that a mesh could have come to."""
EFFECTS_MAX = 2_000


class Solo:
    """`role` is what ana is brought to: leader, follower, candidate, learner (joins a running mesh) or fresh."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.now_ms = 1_000
        self.is_answered = role == "leader"
        """Whether ben and eva answer ana."""
        self.mark: LedgerMark | None = None
        self.staged: list[TaskRow] = []
        self.orders: list[tuple[TaskId, FencingToken]] = []
        self.transfers: list[int] = []
        self._inbox: deque[Event] = deque()
        config = NodeConfig(
            node_id=ANA,
            cluster="c",
            incarnation=1,
            address="ana:7000",
            voters=() if role == "learner" else VOTERS,
            slots=4,
            raft=RaftConfig(election_timeout_ms=300),
            dispatch=DispatchConfig(ledger_flush_ms=50, log_tail_entries_max=8),
            mark="a" * 16,
        )
        self.node = Node(config, FRESH, Random(7), self.now_ms)
        self.term = self.commit = 0
        for peer in (BEN, EVA):
            self.feed(events.LinkUp(peer, 1, peer * 3))
        self.feed(events.AgentsReady(("code",)))
        self._begin()

    def _begin(self) -> None:
        if self.role == "leader":
            self.run(1_500)
            assert self.node.raft.role is Role.LEADER
            self.client(SubmitTasks(True, [TaskSpec(TaskId(f"t{n}"), "code", b"\x01") for n in range(1, 7)]))
            self.run(200)
        elif self.role == "candidate":
            self.run(1_000)
            self.feed(events.PeerMessage(BEN, encode(PreVoteReply(Term(self.node.raft.term + 1), True))))
        elif self.role in ("follower", "learner"):
            self.follow()

    def follow(self) -> None:
        """Ben leads and sends what a leader sends: a no-op, ana admitted, tasks granted to her."""
        spec = TaskSpec(TaskId("t1"), "code", b"\x01")
        founding = self.node.raft.log.between(0, 1) if self.role == "follower" else []
        first = 2 if founding else 1
        commands: list[Command] = [AdmitNode(ANA, 1), SubmitTask(spec), GrantLease(TaskId("t1"), ANA)]
        entries = (
            Entry(LogIndex(first), Term(2), EntryKind.NOOP, b""),
            Entry(LogIndex(first + 1), Term(2), EntryKind.COMMANDS, encode(Batch(5, commands))),
        )
        prev = LogIndex(first - 1)
        append = Append(Term(2), prev, Term(prev), LogIndex(first + 1), 1, entries)
        self.feed(events.PeerMessage(BEN, encode(append)))
        self.run(60)

    # --- events -------------------------------------------------------------------------------------------------------

    def known(self) -> Known:
        raft, ledger = self.node.raft, self.node.ledger
        return Known(
            term=raft.term,
            commit=raft.commit_index,
            last=raft.last_index,
            last_term=raft.log.last_term,
            tokens=[task.token for task in ledger.tasks.values()][:20],
            task_ids=[*ledger.tasks][:20],
            transfers=self.transfers[-3:],
            now_ms=self.now_ms,
        )

    def client(self, request: Any, number: int = 1) -> None:
        self.feed(events.ClientMessage(ClientId(number), encode(request)))

    def feed(self, event: Event) -> None:
        """Hand in one event, and the end of the turn; do what is asked; look whether all is sane."""
        self._handle(event)
        self._handle(events.TurnEnded())
        for _ in range(EFFECTS_MAX):
            if not self._inbox:
                return
            self._handle(self._inbox.popleft())
            self._handle(events.TurnEnded())
        raise AssertionError("ana talks to herself without end")

    def run(self, for_ms: int) -> None:
        """Let time pass."""
        until_ms, rings = self.now_ms + for_ms, 0
        while (due_ms := self.node.next_deadline_ms()) <= until_ms:
            rings = rings + 1 if due_ms <= self.now_ms else 0
            assert rings < 50, "ana asks for a deadline in the past for ever"
            self.now_ms = max(self.now_ms, due_ms)
            self.feed(events.DeadlineReached())
        self.now_ms = until_ms

    def _handle(self, event: Event) -> None:
        wanted = self.node.handle(event, self.now_ms)
        assert len(wanted) < EFFECTS_MAX, f"{len(wanted)} effects of one event"
        for effect in wanted:
            self._perform(effect)
        self._look()

    def _look(self) -> None:
        raft = self.node.raft
        assert self.term <= raft.term < SANE_MAX, f"term {raft.term} after {self.term}"
        assert self.commit <= raft.commit_index <= raft.last_index < SANE_MAX, "commit and end of the log in order"
        assert self.node.ledger.applied_index <= raft.commit_index, "nothing applied that is not committed"
        self.term, self.commit = raft.term, raft.commit_index

    # --- effects ------------------------------------------------------------------------------------------------------

    def _perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.Send():
                self._sent(effect.to, decode_peer(effect.data))
            case effects.Reply():
                decode_reply(effect.data)
            case effects.Publish():
                decode_heartbeat(effect.data)
            case effects.Persist():
                for entry in effect.entries:
                    assert 0 < entry.index <= INT64_MAX and 0 <= entry.term <= INT64_MAX, "it fits the store"
                    assert -INT64_MAX <= entry.kind <= INT64_MAX, "it fits the store"
                self._later(events.Durable(PersistToken(effect.token)))
            case effects.WriteLedger():
                self.mark = effect.write.mark
                self._later(events.LedgerWritten(effect.write.mark.applied_index))
            case effects.LoadRows():
                assert 0 <= effect.limit <= 1_001 and all(-INT64_MAX <= state <= INT64_MAX for state in effect.states)
                self._later(events.RowsLoaded(effect.read_id, [], ""))
            case effects.LoadHistory():
                assert 0 <= effect.after <= INT64_MAX, "it fits the store"
                self._later(events.HistoryLoaded(effect.read_id, []))
            case effects.OpenSnapshot():
                self.transfers.append(effect.transfer)
                if self.mark is not None:
                    self._later(events.SnapshotOpened(effect.transfer, self.mark))
            case effects.ReadSnapshot():
                self._later(events.SnapshotRead(effect.transfer, [], [], ""))
            case effects.StageSnapshot() | effects.InstallSnapshot():
                self._stage(effect)
            case effects.StartAttempts():
                self.orders += [(order.task_id, order.token) for order in effect.orders]
                self._later(events.AttemptsStarted([(order.task_id, order.token) for order in effect.orders]))
            case _:
                pass

    def _stage(self, effect: effects.StageSnapshot | effects.InstallSnapshot) -> None:
        """A store keeps whatever rows it is given, and gives them back; what does not fit it breaks it."""
        if isinstance(effect, effects.StageSnapshot):
            self.staged = [*([] if effect.first else self.staged), *effect.rows]
            return
        mark = effect.mark
        numbers = [mark.applied_index, mark.applied_term, *(row.finished for row in self.staged)]
        if not all(-INT64_MAX <= number <= INT64_MAX for number in numbers):
            self._later(events.DiskFailed("a number does not fit"))
            return
        rows = {row.task_id: row for row in self.staged}
        live = [row for row in rows.values() if not row.finished]
        finished = sorted((row.finished, row.task_id, row.fingerprint) for row in rows.values() if row.finished > 0)
        known = [(task_id, fingerprint) for _, task_id, fingerprint in finished]
        recovered = Recovered(None, [], mark.applied_term, mark, live, known, finished[-1][0] if finished else 0)
        self._later(events.SnapshotInstalled(effect.transfer, recovered))

    def _later(self, event: Event) -> None:
        self._inbox.append(event)

    def _sent(self, to: NodeId, message: Any) -> None:
        if not self.is_answered:
            return
        answer: Any = None
        match message:
            case PreVote():
                answer = PreVoteReply(message.term, True)
            case Vote():
                answer = VoteReply(message.term, True)
            case Append():
                match = LogIndex(message.prev_index + len(message.entries))
                answer = AppendReply(message.term, message.round, True, match, LogIndex(0), LogIndex(0), Term(0))
        if answer is not None:
            self._later(events.PeerMessage(to, encode(answer)))

    def work(self) -> None:
        """User code of something that runs here comes to its end."""
        if self.orders:
            task_id, token = self.orders.pop(0)
            self.feed(events.AttemptsEnded([AttemptOutcome(task_id, token, b"\x01")]))
