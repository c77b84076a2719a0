"""Everything a replica remembers. The conversations (election, replication, reads, transfer) work on this."""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from mesh.config import RaftConfig
from mesh.durable import Entry, HardState, Member
from mesh.effects import NOTHING
from mesh.ids import LogIndex, NodeId, PersistToken, Term
from mesh.messages import RaftMessage
from mesh.raft.journal import Journal
from mesh.raft.log import Log
from mesh.raft.output import Outgoing
from mesh.raft.progress import Progress


class Role(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(slots=True)
class ReadRound:
    """Reads that wait for a majority to answer `round`."""

    round: int
    index: LogIndex
    read_ids: list[int]


@dataclass(slots=True)
class ReplicaState:
    """One replica. Times are milliseconds on the node's monotonic clock."""

    node_id: NodeId
    config: RaftConfig
    rng: Random
    log: Log
    journal: Journal
    now_ms: int
    term: Term
    voted_for: NodeId | None
    commit_index: LogIndex
    handed_index: LogIndex
    """Last entry that left through RaftOutput.committed."""
    mark: str = ""
    """Names our log, see admission.py."""
    is_founder: bool = True
    """This log began with the founders' list, which knows its members by id alone."""

    role: Role = Role.FOLLOWER
    leader_id: NodeId | None = None
    leader_heard_ms: int | None = None
    """When the leader was last heard; None once the link to it broke."""
    election_due_ms: int = 0
    timeout_ms: int = 0
    """The timeout drawn last. Drawn anew with every change of role, not with every append."""
    retries_soon: int = 0
    """Elections in a row that nobody won and that were tried again soon."""
    links_lost: dict[NodeId, None] = field(default_factory=dict)
    """Peers whose link broke and does not stand again yet."""
    votes: dict[NodeId, bool] = field(default_factory=dict)
    """Who answered our (pre-)vote request, and how. By name, so an answer counts once."""
    ticked_ms: int = 0
    is_spared: bool = False
    """We overslept once since the leader was last heard, and gave it another timeout; it gets no third."""
    is_disk_failed: bool = False
    is_installing: bool = False
    is_barred: bool = False
    """The mesh knows our id with another log: what that one promised does not bind us, so our vote must not count."""
    dropped: int = 0
    """Messages that no correct member sends, or from nobody we know."""

    # As follower: the answer owed to the leader at the end of this turn.
    ack_match: LogIndex = LogIndex(0)
    ack_round: int = 0
    is_beat_ack_due: bool = False
    is_entries_ack_due: bool = False

    # As leader.
    peers: dict[NodeId, Progress] = field(default_factory=dict)
    """All other members, in the order of the configuration."""
    term_start: LogIndex = LogIndex(0)
    """Index of our no-op. Before it is applied we lead but do not serve."""
    uncommitted_bytes: int = 0
    round: int = 0
    """Grows with every heartbeat and read round; never falls, in any term."""
    heartbeat_due_ms: int = 0
    is_beat_due: bool = False
    is_append_due: bool = False
    renewal_round: int = 0
    """After an oversleep only answers to this round or later prove that we still lead."""
    is_renewing: bool = False
    transfer_target: NodeId | None = None
    transfer_until_ms: int = 0
    is_timeout_now_sent: bool = False
    reads_waiting: list[int] = field(default_factory=list)
    read_rounds: deque[ReadRound] = field(default_factory=deque)

    # Outputs since the last take.
    outgoing: list[Outgoing] = field(default_factory=list)
    reads_confirmed: list[tuple[int, LogIndex]] = field(default_factory=list)
    reads_failed: list[int] = field(default_factory=list)
    snapshots_needed: list[NodeId] = field(default_factory=list)

    @property
    def hard_state(self) -> HardState:
        return HardState(self.term, self.voted_for)

    @property
    def is_member(self) -> bool:
        """Whether the configuration in force has this very log. Who founded the mesh is known by id as well, until the
        logs have their names; who joined it is not, for the name may be meant for one who lost his disk.
        """
        return self._is_meant(self.log.configurations.latest.member(self.node_id))

    def _is_meant(self, member: Member | None) -> bool:
        return member is not None and (member.mark == self.mark or (self.is_founder and not member.mark))

    @property
    def is_voter(self) -> bool:
        """Whether it gives this log a vote."""
        return self.node_id in self.log.configurations.voter_ids and self.is_member

    @property
    def is_losing_vote(self) -> bool:
        """Whether it takes this log's vote, and may yet be cut: the configuration before it gives us one, and is the
        one that the others may still go by. Never while our id has a vote in it, for then that is another log's, and we
        would count our own as such.
        """
        configurations = self.log.configurations
        if self.node_id in configurations.voter_ids or configurations.index <= self.commit_index:
            return False
        before = configurations.before
        return self.node_id in before.voter_ids and self._is_meant(before.member(self.node_id))

    @property
    def may_promise(self) -> bool:
        """Whether our vote may be given to another: a member's, or a founder's whom no configuration has replaced.

        A log that was begun to join promises nothing before a configuration has it: whoever asks may take us for one
        who promised otherwise before his disk was lost (consensus A5).
        """
        if self.is_barred:
            return False
        known = self.log.configurations.latest.member(self.node_id)
        return self.is_member or (self.is_founder and known is None)

    def set_term_and_vote(self, term: Term, voted_for: NodeId | None) -> None:
        """The only way term and vote change. A term never falls, and a vote once given stays for its term."""
        assert term > self.term or (term == self.term and self.voted_for in (None, voted_for)), (
            f"({term}, {voted_for}) cannot follow ({self.term}, {self.voted_for})"
        )
        self.term = term
        self.voted_for = voted_for
        self.journal.hard_state_changed()

    def send(self, to: NodeId, message: RaftMessage, after: PersistToken = NOTHING) -> None:
        self.outgoing.append(Outgoing(to, message, after))

    def append_own(self, kind: int, data: bytes) -> LogIndex:
        """Add an entry of our own term at the end, as leader."""
        index = LogIndex(self.log.last_index + 1)
        self.log.append(Entry(index, self.term, kind, data))
        self.uncommitted_bytes += len(data)
        self.is_append_due = True
        return index

    def start_round(self) -> None:
        """Tell every member something at the end of this turn, if only that we lead."""
        self.round += 1
        self.is_beat_due = True
        self.is_append_due = True

    def sync_peers(self) -> None:
        """Keep one progress for each other member of the configuration in force."""
        old, self.peers = self.peers, {}
        for member in self.log.configurations.latest.members:
            if member.node_id == self.node_id:
                continue
            progress = old.get(member.node_id)
            if progress is None or (progress.mark and progress.mark != member.mark):
                progress = Progress(LogIndex(self.log.last_index + 1), self.now_ms)
            progress.mark = member.mark
            self.peers[member.node_id] = progress
