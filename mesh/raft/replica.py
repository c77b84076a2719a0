"""One replica of the log: what the node tells it, what it answers. The conversations are in the modules beside it.

    receive(sender, message)  what a peer said          durable(token)     the disk has a batch
    tick(), was_late()        time                      link_up/down(peer) the transport
    propose, read, transfer   what the node wants       compact, restored, snapshot_*  the ledger store

Everything they cause is gathered until `take()`. No method raises on what a peer said.
"""

from random import Random

from mesh.config import RaftConfig
from mesh.durable import Configuration, EntryKind, LedgerMark, Recovered
from mesh.ids import LogIndex, NodeId, PersistToken, Term
from mesh.messages import (
    Append,
    AppendReply,
    PreVote,
    PreVoteReply,
    RaftMessage,
    TimeoutNow,
    Vote,
    VoteReply,
)
from mesh.raft import commit, election, office, reads, recovery, replication, transfer
from mesh.raft.configuration import decode, is_single_change
from mesh.raft.journal import Journal
from mesh.raft.log import Log
from mesh.raft.output import NO_OUTPUT, Outgoing, RaftOutput
from mesh.raft.state import ReplicaState, Role

__all__ = ["NEVER_MS", "NO_OUTPUT", "Outgoing", "RaftOutput", "Replica", "Role"]

NEVER_MS = 1 << 62
"""A deadline that does not come."""

TERMS_AHEAD_MAX = 1 << 32
"""A message from a term further than this beyond ours is nonsense: no mesh holds so many elections in a node's absence.
To take it over would use up the terms there are.
"""
_OF_STRANGERS = frozenset({Append, Vote, PreVote})


class Replica:
    """One member's part in the log. See the module for who calls what."""

    __slots__ = ("_s",)

    def __init__(
        self,
        *,
        node_id: NodeId,
        config: RaftConfig,
        recovered: Recovered,
        founding: Configuration,
        configuration_data: bytes,
        rng: Random,
        now_ms: int,
        mark: str = "",
    ) -> None:
        """`configuration_data` is `founding`, encoded; a fresh disk's log begins with it. If `founding` has no voters,
        the log begins empty, and everything in it comes from whoever leads. `mark` names this log.
        """
        fresh = recovery.is_fresh(recovered)
        if fresh:
            log = recovery.founding_log(founding, configuration_data)
            term, voted_for = recovery.FOUNDING_TERM, None
        else:
            log = recovery.recovered_log(recovered, founding)
            hard_state = recovery.recovered_hard_state(recovered)
            term, voted_for = hard_state.term, hard_state.voted_for
        applied = LogIndex(0) if recovered.mark is None else recovered.mark.applied_index
        self._s = s = ReplicaState(
            node_id=node_id,
            config=config,
            rng=rng,
            log=log,
            journal=Journal(LogIndex(0) if fresh else log.last_index),
            now_ms=now_ms,
            term=term,
            voted_for=voted_for,
            commit_index=max(applied, min(log.last_index, recovery.FOUNDING_INDEX)),
            handed_index=applied,
            mark=mark,
            is_founder=node_id in founding.voter_ids,
        )
        if fresh:
            s.journal.hard_state_changed()
        election.arm(s, now_ms)
        if log.configurations.voter_ids == (node_id,):
            s.election_due_ms = now_ms

    # --- what the world says ------------------------------------------------------------------------------------------

    def receive(self, sender: NodeId, message: RaftMessage, now_ms: int) -> None:
        """A peer said `message`. Doubled, late and reordered ones are harmless; strangers are dropped and counted, but
        for appends and requests for votes: our configuration may be the one that is out of date (thesis 4.1, 4.2.2).
        """
        s = self._s
        s.now_ms = now_ms
        if s.is_disk_failed:
            return
        kind = type(message)
        is_unheard = sender not in s.log.configurations.members and kind not in _OF_STRANGERS
        if sender == s.node_id or is_unheard or getattr(message, "term", 0) > s.term + TERMS_AHEAD_MAX:
            s.dropped += 1
            return
        if s.links_lost:
            s.links_lost.pop(sender, None)  # Whatever became of our link to it, there is a way.
        if kind is AppendReply:
            replication.on_append_reply(s, sender, message, now_ms)  # type: ignore[arg-type]
        elif kind is Append:
            replication.on_append(s, sender, message, now_ms)  # type: ignore[arg-type]
        else:
            _receive_rare(s, sender, message, now_ms)

    def tick(self, now_ms: int) -> None:
        """Time has passed. Call it when next_deadline_ms has come; at other times it does nothing."""
        s = self._s
        s.now_ms = now_ms
        if s.is_disk_failed:
            return
        if s.role is Role.LEADER:
            office.tick(s, now_ms)
        else:
            election.tick(s, now_ms)
        s.ticked_ms = now_ms

    def next_deadline_ms(self) -> int:
        """When `tick` has something to do."""
        s = self._s
        if s.is_disk_failed:
            return NEVER_MS
        if s.role is not Role.LEADER:
            return s.election_due_ms
        return s.heartbeat_due_ms if s.transfer_target is None else min(s.heartbeat_due_ms, s.transfer_until_ms)

    def was_late(self, now_ms: int) -> None:
        """The node overslept: what it did not hear may be waiting to be read, so it judges nobody yet.

        Once: a node that is late again and again must still notice that nobody leads.
        """
        s = self._s
        s.now_ms = now_ms
        if s.role is not Role.LEADER:
            if not s.is_spared:
                s.is_spared = True
                election.arm(s, now_ms)
        elif now_ms - s.ticked_ms > s.config.election_timeout_ms:
            office.demand_renewal(s, now_ms)
        s.ticked_ms = now_ms

    def durable(self, token: PersistToken, now_ms: int) -> None:
        """Every Persist up to `token` is on disk. Only now does a leader count itself."""
        s = self._s
        s.now_ms = now_ms
        s.journal.durable(token)
        if s.role is Role.LEADER and s.journal.durable_index > s.commit_index:
            commit.advance(s)

    def disk_failed(self) -> None:
        """A write failed: what is on disk is not known any more. Never vote, lead or acknowledge again."""
        s = self._s
        election.become_follower(s, s.term, None, s.now_ms)
        s.outgoing = []
        s.is_disk_failed = True

    def bar(self) -> None:
        """The mesh knows our id with another log. Neither vote nor campaign until it has taken this one in."""
        s = self._s
        if not s.is_barred:
            election.become_follower(s, s.term, None, s.now_ms)
            s.is_barred = True

    def unbar(self) -> None:
        """The configuration in force has this very log."""
        self._s.is_barred = False

    @property
    def is_barred(self) -> bool:
        return self._s.is_barred

    def link_down(self, peer: NodeId, now_ms: int) -> None:
        """The link to `peer` broke, and what was under way on it is lost."""
        s = self._s
        s.now_ms = now_ms
        s.links_lost[peer] = None
        if s.role is Role.LEADER:
            replication.restart_peer(s, peer, is_paused=True)
            if s.transfer_target == peer:
                s.transfer_target = None
        elif peer == s.leader_id:
            election.on_leader_link_down(s, now_ms)

    def link_up(self, peer: NodeId, now_ms: int) -> None:
        """The link to `peer` stands."""
        s = self._s
        s.now_ms = now_ms
        s.links_lost.pop(peer, None)
        if s.role is Role.LEADER:
            replication.restart_peer(s, peer, is_paused=False)

    # --- what the node wants ------------------------------------------------------------------------------------------

    def propose(self, kind: int, data: bytes, now_ms: int) -> LogIndex | None:
        """Append an entry; it is committed when it appears in `committed` with the term of now. None: refused."""
        s = self._s
        s.now_ms = now_ms
        if not self.serving or s.transfer_target is not None or s.is_renewing:
            return None
        if s.uncommitted_bytes and s.uncommitted_bytes + len(data) > s.config.uncommitted_bytes_max:
            return None
        if kind != EntryKind.CONFIGURATION:
            return s.append_own(kind, data)
        configuration = decode(data)
        history = s.log.configurations
        if configuration is None or history.index > s.commit_index:
            return None
        if not is_single_change(history.latest, configuration):
            return None
        index = s.append_own(kind, data)
        s.sync_peers()
        return index

    def read(self, read_id: int, now_ms: int) -> bool:
        """Ask for an index that makes a read linearizable; answered in `reads` or `failed_reads`. False: refused."""
        self._s.now_ms = now_ms
        return reads.request(self._s, read_id)

    def transfer(self, target: NodeId, now_ms: int) -> bool:
        """Hand office over to `target`; proposals are refused meanwhile. False: not possible."""
        self._s.now_ms = now_ms
        return transfer.start(self._s, target, now_ms)

    def compact(self, first_index: LogIndex) -> None:
        """Entries before `first_index` may leave memory. Never reaches beyond what was handed out."""
        replication.compact(self._s, first_index)

    def begin_install(self, mark: LedgerMark) -> bool:
        """Whether a table at `mark` would bring us on. If so, no entries are taken until `restored`.

        False if the log reaches there already and agrees: to install all the same would take back acknowledged entries.
        """
        s = self._s
        if mark.applied_index <= s.commit_index or s.log.term_at(mark.applied_index) == mark.applied_term:
            return False
        s.is_installing = True
        return True

    def restored(self, recovered: Recovered, now_ms: int) -> None:
        """A snapshot was installed. The log is what `recovered` says; the leader is told."""
        s = self._s
        s.now_ms = now_ms
        assert s.is_installing and recovered.mark is not None, "begin_install comes first, and a snapshot has a mark"
        s.is_installing = False
        log = recovery.recovered_log(recovered, s.log.configurations.latest)
        applied = recovered.mark.applied_index
        assert applied > s.commit_index, f"a snapshot at {applied} is no news: {s.commit_index} is committed"
        s.log = log
        s.journal.replaced(log)
        s.commit_index = applied
        s.handed_index = applied
        if s.role is Role.FOLLOWER and s.leader_id is not None:
            s.ack_match = applied
            s.is_beat_ack_due = True

    def snapshot_sent(self, peer: NodeId, index: LogIndex) -> None:
        """All of a snapshot at `index` was sent to `peer`, which may still be installing it."""
        replication.snapshot_sent(self._s, peer, index)

    def snapshot_failed(self, peer: NodeId) -> None:
        """The snapshot for `peer` came to nothing. Asked for again once the peer answers a heartbeat."""
        replication.restart_peer(self._s, peer, is_paused=True)

    def take(self) -> RaftOutput:
        """Everything since the last take, once."""
        s = self._s
        if s.role is Role.LEADER:
            if s.reads_waiting:
                reads.start_waiting(s)
            if s.is_append_due:
                replication.send_appends(s)
        elif s.is_entries_ack_due or s.is_beat_ack_due:
            replication.send_ack(s)
        is_open = s.journal.is_open(s.log) and not s.is_disk_failed
        persist = s.journal.take(s.log, s.hard_state, s.now_ms) if is_open else None
        upto = min(s.commit_index, s.journal.durable_index)
        if not (
            persist or s.outgoing or upto > s.handed_index or s.reads_confirmed or s.reads_failed or s.snapshots_needed
        ):
            return NO_OUTPUT
        committed = s.log.between(s.handed_index, upto) if upto > s.handed_index else []
        s.handed_index = LogIndex(s.handed_index + len(committed))
        output = RaftOutput(
            [persist] if persist else [],
            s.outgoing,
            committed,
            s.reads_confirmed,
            s.reads_failed,
            s.snapshots_needed,
        )
        s.outgoing = []
        s.reads_confirmed = []
        s.reads_failed = []
        s.snapshots_needed = []
        return output

    # --- what can be seen ---------------------------------------------------------------------------------------------

    @property
    def term(self) -> Term:
        return self._s.term

    @property
    def voted_for(self) -> NodeId | None:
        return self._s.voted_for

    @property
    def role(self) -> Role:
        return self._s.role

    @property
    def leader_id(self) -> NodeId | None:
        return self._s.leader_id

    @property
    def serving(self) -> bool:
        """Elected, and the no-op of our term was handed out: everything committed before is applied here."""
        s = self._s
        return s.role is Role.LEADER and s.handed_index >= s.term_start

    @property
    def commit_index(self) -> LogIndex:
        return self._s.commit_index

    @property
    def last_index(self) -> LogIndex:
        return self._s.log.last_index

    @property
    def first_index(self) -> LogIndex:
        return self._s.log.first_index

    def term_at(self, index: LogIndex) -> Term:
        """Term of an entry still in memory, or of the one just before those."""
        term = self._s.log.term_at(index)
        assert term is not None, f"entry {index} is not in memory"
        return term

    @property
    def log(self) -> Log:
        """The entries themselves, to look at."""
        return self._s.log

    @property
    def configuration(self) -> Configuration:
        """The one in force, committed or not."""
        return self._s.log.configurations.latest

    @property
    def configuration_index(self) -> LogIndex:
        """Where in the log it stands."""
        return self._s.log.configurations.index

    @property
    def is_configuring(self) -> bool:
        """Whether it is not committed yet, and so no other may follow."""
        return self._s.log.configurations.index > self._s.commit_index

    def configuration_at(self, index: LogIndex) -> Configuration:
        """The one in force as of the entry at `index`: committed, if the entry is."""
        return self._s.log.configurations.at(index)

    @property
    def is_quorum_live(self) -> bool:
        """A leader that a majority answers, or a follower that heard its leader lately."""
        s = self._s
        if s.role is Role.LEADER:
            return not s.is_renewing and not office.is_contact_lost(s, s.now_ms)
        return election.has_live_leader(s, s.now_ms)

    @property
    def dropped(self) -> int:
        return self._s.dropped

    def peers(self) -> list[tuple[NodeId, LogIndex, str]]:
        """As leader: each other member, the last index it is known to hold, and how it is being replicated to."""
        return [(peer, progress.match, progress.state.value) for peer, progress in self._s.peers.items()]


def _receive_rare(s: ReplicaState, sender: NodeId, message: RaftMessage, now_ms: int) -> None:
    """Everything but appends and their answers."""
    match message:
        case PreVote():
            election.on_pre_vote(s, sender, message, now_ms)
        case PreVoteReply():
            election.on_pre_vote_reply(s, sender, message, now_ms)
        case Vote():
            election.on_vote(s, sender, message, now_ms)
        case VoteReply():
            election.on_vote_reply(s, sender, message, now_ms)
        case TimeoutNow():
            transfer.on_timeout_now(s, sender, message, now_ms)
        case _:
            s.dropped += 1
