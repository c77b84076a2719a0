"""One replica and its disk, in whatever state a test wants them, for showing bad histories to the checker."""

from random import Random

import msgspec

from mesh.config import RaftConfig
from mesh.durable import Configuration, Entry, EntryKind, HardState, LedgerMark, Member, Recovered
from mesh.effects import Persist
from mesh.ids import LogIndex, NodeId, PersistToken, Term
from mesh.raft.replica import Replica
from mesh.raft.state import ReplicaState
from mesh.sim.disk import Disk

VOTERS = Configuration(tuple(Member(NodeId(name), f"{name}:7000") for name in ("n1", "n2", "n3")))
FOUNDING = Entry(LogIndex(1), Term(1), EntryKind.CONFIGURATION, msgspec.msgpack.encode(VOTERS))


def entry(index: int, term: int, data: bytes = b"x") -> Entry:
    return Entry(LogIndex(index), Term(term), EntryKind.COMMANDS, data)


def entries(*terms: int) -> list[Entry]:
    """The founding entry, then one of each of these terms."""
    return [FOUNDING, *(entry(position + 2, term) for position, term in enumerate(terms))]


def replica(node_id: str, *terms: int, term: int, voted_for: str | None = None) -> ReplicaState:
    """A replica with a log of such terms after the founding entry."""
    hard_state = HardState(Term(term), None if voted_for is None else NodeId(voted_for))
    node = Replica(
        node_id=NodeId(node_id),
        config=RaftConfig(),
        recovered=Recovered(hard_state, entries(*terms), Term(0), None, [], [], 0),
        founding=VOTERS,
        configuration_data=FOUNDING.data,
        rng=Random(1),
        now_ms=0,
    )
    return node._s


def disk(node_id: str, *terms: int, term: int = 0, voted_for: str | None = None) -> Disk:
    """A disk on which a log of such terms is synced."""
    written = Disk(node_id)
    hard_state = HardState(Term(term), None if voted_for is None else NodeId(voted_for)) if term else None
    written.perform(Persist(PersistToken(1), hard_state, LogIndex(0), tuple(entries(*terms))))
    return written


def mark(index: int, term: int) -> LedgerMark:
    return LedgerMark(LogIndex(index), Term(term), b"digest", b"", b"")
