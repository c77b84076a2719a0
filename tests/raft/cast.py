"""Several replicas in memory, with a wire between them and a disk under each. Nothing happens unless a test says so.

Every step is checked: one leader a term, one vote a term, the same entry at the same index wherever it is committed,
and no message that promises more than the sender's disk holds.
"""

from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

import msgspec

from mesh.config import RaftConfig
from mesh.durable import Configuration, Entry, EntryKind, HardState, LedgerMark, Member, Recovered
from mesh.effects import NOTHING, Persist
from mesh.ids import LogIndex, NodeId, PersistToken, Term
from mesh.messages import Append, AppendReply, RaftMessage, Vote, VoteReply
from mesh.raft.output import Outgoing, RaftOutput
from mesh.raft.replica import Replica, Role

Said = TypeVar("Said", bound=RaftMessage)

ANA, BEN, EVA, KAI, LEO = (NodeId(name) for name in ("ana", "ben", "eva", "kai", "leo"))
CONFIG = RaftConfig(heartbeat_ms=50, election_timeout_ms=300, link_down_campaign_ms=20, disk_stall_ms_max=1_000)
NOOP, COMMANDS, CONFIGURATION = EntryKind.NOOP, EntryKind.COMMANDS, EntryKind.CONFIGURATION


def founding(*names: NodeId, learners: tuple[NodeId, ...] = ()) -> Configuration:
    return Configuration(
        tuple(Member(name, f"{name}:7000") for name in names), tuple(Member(name, f"{name}:7000") for name in learners)
    )


def encoded(configuration: Configuration) -> bytes:
    return msgspec.msgpack.encode(configuration)


def entry(index: int, term: int, data: bytes = b"", kind: int = COMMANDS) -> Entry:
    return Entry(LogIndex(index), Term(term), kind, data)


def founding_entry(configuration: Configuration) -> Entry:
    return entry(1, 1, encoded(configuration), CONFIGURATION)


def mark(index: int, term: int, configuration: Configuration) -> LedgerMark:
    return LedgerMark(LogIndex(index), Term(term), b"", b"", encoded(configuration))


def recovered(
    hard_state: tuple[int, NodeId | None] | None = None,
    entries: list[Entry] | None = None,
    ledger: LedgerMark | None = None,
    before_term: int = 0,
) -> Recovered:
    state = None if hard_state is None else HardState(Term(hard_state[0]), hard_state[1])
    return Recovered(state, entries or [], Term(before_term), ledger, [], [], 0)


def replica(
    node_id: NodeId,
    configuration: Configuration,
    disk: Recovered | None = None,
    *,
    config: RaftConfig = CONFIG,
    now_ms: int = 0,
    seed: int = 1,
) -> Replica:
    return Replica(
        node_id=node_id,
        config=config,
        recovered=disk or recovered(),
        founding=configuration,
        configuration_data=encoded(configuration),
        rng=Random(f"{seed}/{node_id}"),
        now_ms=now_ms,
    )


def follower(
    configuration: Configuration, *terms: int, term: int = 0, node_id: NodeId = BEN, config: RaftConfig = CONFIG
) -> Replica:
    """A replica whose log is the founding entry and then one entry for each of `terms`; all on disk."""
    entries = [founding_entry(configuration)] + [
        entry(index, its, f"{index}/{its}".encode()) for index, its in enumerate(terms, start=2)
    ]
    return replica(node_id, configuration, recovered((max(term, entries[-1].term), None), entries), config=config)


def role(replica: Replica) -> Role:
    """Its role now. A call, for a type checker takes an attribute to be what it was the last time."""
    return replica.role


def terms_of(replica: Replica) -> list[int]:
    """Term by term, the log after the founding entry."""
    log = replica.log
    return [e.term for e in log.between(log.before_index, log.last_index) if e.index > 1]


@dataclass
class Disk:
    """What a crash leaves, and what it takes."""

    hard_state: HardState | None = None
    entries: list[Entry] = field(default_factory=list)
    before_term: Term = Term(0)
    ledger: LedgerMark | None = None
    unsynced: list[Persist] = field(default_factory=list)
    synced: PersistToken = NOTHING

    def sync(self) -> PersistToken:
        for batch in self.unsynced:
            assert batch.token == self.synced + 1, "batches come in the order of their tokens"
            self.synced = batch.token
            self.hard_state = batch.hard_state or self.hard_state
            if batch.truncate_from:
                self.entries = [e for e in self.entries if e.index < batch.truncate_from]
            for new in batch.entries:
                assert not self.entries or new.index == self.entries[-1].index + 1, "entries follow each other"
                self.entries.append(new)
        self.unsynced = []
        return self.synced

    def recovered(self) -> Recovered:
        return Recovered(self.hard_state, list(self.entries), self.before_term, self.ledger, [], [], 0)

    @property
    def last_index(self) -> int:
        return self.entries[-1].index if self.entries else self.ledger.applied_index if self.ledger else 0


class Cast:
    """The replicas by name. `lazy_disks` sync only when told; `wire` holds what is under way, in order."""

    def __init__(self, configuration: Configuration, *, config: RaftConfig = CONFIG, seed: int = 1) -> None:
        self.configuration = configuration
        self.config = config
        self.seed = seed
        self.now_ms = 0
        self.wire: list[tuple[NodeId, NodeId, RaftMessage]] = []
        self.lazy_disks: list[NodeId] = []
        self.cuts: list[tuple[NodeId, NodeId]] = []
        self.disks: dict[NodeId, Disk] = {}
        self.replicas: dict[NodeId, Replica] = {}
        self.held: dict[NodeId, list[Outgoing]] = {}
        self.committed: dict[NodeId, list[Entry]] = {}
        self.reads: dict[NodeId, list[tuple[int, LogIndex]]] = {}
        self.failed_reads: dict[NodeId, list[int]] = {}
        self.snapshots_needed: dict[NodeId, list[NodeId]] = {}
        self.leaders: dict[int, NodeId] = {}
        self.votes: dict[tuple[NodeId, int], NodeId] = {}
        self.agreed: dict[int, Entry] = {}
        self.spoken: list[tuple[NodeId, RaftMessage]] = []
        self.asked: dict[int, int] = {}
        self.truncations = 0
        self.installs = 0
        for member in configuration.voters + configuration.learners:
            self.disks[member.node_id] = Disk()
            self.start(member.node_id)

    # --- life and death ---

    def start(self, name: NodeId) -> Replica:
        disk = self.disks[name]
        disk.synced = NOTHING
        self.replicas[name] = replica(
            name,
            self.configuration,
            disk.recovered(),
            config=self.config,
            now_ms=self.now_ms,
            seed=self.seed + self.now_ms,
        )
        self.held[name] = []
        applied = disk.ledger.applied_index if disk.ledger else 0
        self.committed[name] = [self.agreed[index] for index in range(1, applied + 1)]
        self.reads[name] = []
        self.failed_reads[name] = []
        self.snapshots_needed[name] = []
        self.turn(name)
        return self.replicas[name]

    def crash(self, name: NodeId) -> None:
        """What was not synced is lost, and so is what was under way from and to the node."""
        self.disks[name].unsynced = []
        del self.replicas[name]
        self.wire = [w for w in self.wire if name not in w[:2]]

    # --- snapshots ---

    def compact(self, name: NodeId, applied_index: int) -> None:
        """The ledger store covers `applied_index`; no entry up to there is kept, in memory or on disk."""
        disk = self.disks[name]
        covered = [e for e in disk.entries if e.index <= applied_index]
        if covered and not disk.unsynced:
            disk.before_term = covered[-1].term
            disk.entries = disk.entries[len(covered) :]
            disk.ledger = mark(applied_index, disk.before_term, self.configuration)
            self.replicas[name].compact(LogIndex(applied_index + 1))

    def install(self, sender: NodeId, name: NodeId) -> bool:
        """Copy the sender's table to `name`. False if it would bring nothing new."""
        ledger, target = self.disks[sender].ledger, self.replicas[name]
        assert ledger is not None
        if not target.begin_install(ledger):
            return False
        self.turn(name)
        disk = self.disks[name]
        disk.sync()
        self.installs += 1
        disk.entries, disk.before_term, disk.ledger = [], ledger.applied_term, ledger
        target.durable(disk.synced, self.now_ms)
        target.restored(disk.recovered(), self.now_ms)
        self.committed[name] = [self.agreed[index] for index in range(1, ledger.applied_index + 1)]
        self.turn(name)
        return True

    # --- one turn ---

    def turn(self, name: NodeId) -> RaftOutput:
        """Take what the replica has to say and do it."""
        output = self.replicas[name].take()
        self.disks[name].unsynced.extend(output.persists)
        self.truncations += sum(1 for batch in output.persists if batch.truncate_from)
        self.spoken += [(name, o.message) for o in output.outgoing]
        self.held[name].extend(output.outgoing)
        for e in output.committed:
            assert e.index == len(self.committed[name]) + 1, "committed entries come in order, each once"
            assert self.agreed.setdefault(e.index, e) == e, f"two entries are committed at {e.index}"
            assert e.index <= self.disks[name].last_index, "what is applied is on our own disk"
            self.committed[name].append(e)
        for read_id, index in output.reads:
            assert index >= self.asked.get(read_id, 0), "a read sees all that was committed anywhere when it was asked"
        self.reads[name].extend(output.reads)
        self.failed_reads[name].extend(output.failed_reads)
        self.snapshots_needed[name].extend(output.snapshots_needed)
        leads = self.replicas[name]
        if leads.role is Role.LEADER:
            assert self.leaders.setdefault(leads.term, name) == name, f"two leaders in term {leads.term}"
        if name not in self.lazy_disks and self.disks[name].unsynced:
            self.sync(name)
        self._release(name)
        return output

    def sync(self, name: NodeId) -> None:
        """The disk catches up, says so, and what waited for it leaves."""
        token = self.disks[name].sync()
        self.replicas[name].durable(token, self.now_ms)
        self.turn(name)

    def _release(self, name: NodeId) -> None:
        disk = self.disks[name]
        for outgoing in [o for o in self.held[name] if o.after <= disk.synced]:
            self._check_promise(name, outgoing, disk)
            self.wire.append((name, outgoing.to, outgoing.message))
        self.held[name] = [o for o in self.held[name] if o.after > disk.synced]

    def _check_promise(self, name: NodeId, outgoing: Outgoing, disk: Disk) -> None:
        message = outgoing.message
        term = disk.hard_state.term if disk.hard_state else 0
        if isinstance(message, AppendReply) and message.ok:
            assert message.match <= disk.last_index or term > message.term, "an ack promises what is on disk"
            assert term >= message.term
        if isinstance(message, Append):
            assert term >= message.term, "a leader's term is on its disk before it speaks"
        if isinstance(message, Vote) or (isinstance(message, VoteReply) and message.granted):
            assert term >= message.term, "a vote is on disk before it leaves"
            voted = name if isinstance(message, Vote) else outgoing.to
            assert self.votes.setdefault((name, message.term), voted) == voted, "one vote a term"

    # --- the wire ---

    def deliver_one(self, position: int = 0) -> bool:
        """Deliver one message, unless its way is cut or its receiver is dead."""
        sender, to, message = self.wire.pop(position)
        if (sender, to) in self.cuts or to not in self.replicas:
            return False
        self.replicas[to].receive(sender, message, self.now_ms)
        self.turn(to)
        return True

    def deliver(self, messages_max: int = 10_000) -> None:
        """Deliver until nothing is under way."""
        for name in list(self.replicas):
            self.turn(name)
        for _ in range(messages_max):
            if not self.wire:
                return
            self.deliver_one()
        raise AssertionError("the replicas talk without end")

    def cut(self, name: NodeId, *others: NodeId) -> None:
        """Nothing passes between `name` and `others` (all, if none are named), either way."""
        for other in others or tuple(self.disks):
            if other != name:
                self.cuts += [(name, other), (other, name)]

    def heal(self) -> None:
        self.cuts = []

    def lose(self, kind: type, to: NodeId | None = None) -> int:
        """Messages of a kind under way are lost. How many there were."""
        before = len(self.wire)
        self.wire = [w for w in self.wire if not (isinstance(w[2], kind) and to in (None, w[1]))]
        return before - len(self.wire)

    # --- time ---

    def tick(self, name: NodeId) -> None:
        self.replicas[name].tick(self.now_ms)
        self.turn(name)

    def advance(self, for_ms: int) -> None:
        """Let time pass, from deadline to deadline, with every message delivered at once."""
        until_ms = self.now_ms + for_ms
        self.deliver()
        while True:
            due = sorted((r.next_deadline_ms(), name) for name, r in self.replicas.items())
            if not due or due[0][0] > until_ms:
                break
            self.now_ms = max(self.now_ms, due[0][0])
            self.tick(due[0][1])
            self.deliver()
        self.now_ms = until_ms

    def elect(self, name: NodeId) -> Replica:
        """Make `name` leader by letting its timeout come first; everyone agrees."""
        chosen = self.replicas[name]
        self.deliver()
        for _ in range(10):
            if chosen.role is Role.LEADER:
                break
            self.now_ms = max(self.now_ms + self.config.election_timeout_ms, chosen.next_deadline_ms())
            self.tick(name)
            self.deliver()
        assert chosen.role is Role.LEADER
        self.deliver()
        return chosen

    def leader(self) -> Replica | None:
        """Whoever leads the latest term."""
        leading = [r for r in self.replicas.values() if r.role is Role.LEADER]
        return max(leading, key=lambda r: r.term, default=None)

    def propose(self, name: NodeId, data: bytes, kind: int = COMMANDS) -> LogIndex | None:
        return self.replicas[name].propose(kind, data, self.now_ms)

    def read(self, name: NodeId, read_id: int) -> bool:
        """Ask for a read; it must not be answered with less than is committed now, whoever knows of it."""
        self.asked[read_id] = max(self.agreed, default=0)
        return self.replicas[name].read(read_id, self.now_ms)

    def said(self, name: NodeId, kind: type[Said]) -> list[Said]:
        """All messages of a kind that a node has said so far."""
        return [message for sender, message in self.spoken if sender == name and isinstance(message, kind)]

    def data(self, name: NodeId) -> list[bytes]:
        """The commands committed at a node, in order."""
        return [e.data for e in self.committed[name] if e.kind == COMMANDS]
