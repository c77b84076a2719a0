"""Invariants 1 to 16: the log. One function each; each raises Violation and costs what has changed."""

from typing import Any
from zlib import crc32

from mesh.durable import Configuration, Entry, EntryKind
from mesh.effects import Persist
from mesh.ids import LogIndex
from mesh.messages import AppendReply, Vote, VoteReply
from mesh.raft.replica import Role
from mesh.raft.state import ReplicaState
from mesh.sim.disk import Disk, mark_of
from mesh.sim.record import Committed, Record, Seen
from mesh.sim.violation import Violation

FOUNDING_INDEX = 1
"""Committed by convention: the same on every founding node."""


def checksum(entry: Entry) -> int:
    """Of what an entry says; its place is not part of it."""
    return crc32(entry.data, entry.kind)


def one_leader_per_term(record: Record, node_id: str, s: ReplicaState) -> None:
    """1: a term has one leader at most."""
    first = record.leaders.setdefault(s.term, node_id)
    if first != node_id:
        raise Violation("1 one leader per term", f"{first} and {node_id} both lead term {s.term}")


def elected_by_a_majority(record: Record, node_id: str, mark: str, s: ReplicaState) -> None:
    """1: whoever leads was voted for by a majority of the voters it goes by, by the votes that left them, each counted
    once. A vote is that of a log: one that left the same node with another log is no voter's, nor is a learner's.

    It is a voter itself, or was one by the configuration before, while this one is not committed (thesis 4.2.2).
    """
    configurations = s.log.configurations
    voters = configurations.latest.voters
    before = configurations.before.voters if configurations.index > s.commit_index else ()
    if not any((voter.node_id, mark_of(voter)) == (node_id, mark) for voter in voters + before):
        raise Violation(
            "1 one leader per term", f"{node_id} with log {mark} leads term {s.term}, and is none of {voters}"
        )
    given = []
    for voter in voters:
        log = mark_of(voter)
        is_own = (voter.node_id, log) == (node_id, mark)
        if is_own or record.votes.get((voter.node_id, log, s.term)) == node_id:
            given.append(voter.node_id)
    if len(given) <= len(voters) // 2:
        raise Violation("1 one leader per term", f"{node_id} leads term {s.term} by the votes of {given} of {voters}")


def log_matching(record: Record, node_id: str, s: ReplicaState, persist: Persist) -> None:
    """2: entries with the same index and term are the same, and so is all before them.

    Not asked of a mesh of one, without learners: it may lead a term, lose it with its entries before either is synced,
    and lead it anew. Nobody has heard of it the first time.
    """
    entries = persist.entries
    if not entries or len(s.log.configurations.latest.members) == 1:
        return
    before_term: int = s.log.term_at(LogIndex(entries[0].index - 1)) or 0
    for entry in entries:
        mine = (checksum(entry), before_term)
        known = record.entries.setdefault((entry.index, entry.term), mine)
        if known != mine:
            raise Violation(
                "2 log matching",
                f"{node_id} holds another entry at index {entry.index}, term {entry.term}, than others",
            )
        before_term = entry.term


def leader_completeness(record: Record, node_id: str, s: ReplicaState) -> None:
    """3: a new leader's log holds everything committed in earlier terms."""
    for index in range(s.log.before_index, record.committed_max + 1):
        known = record.committed.get(index)
        if known is not None and known.seen_in_term < s.term and s.log.term_at(index) != known.entry.term:
            raise Violation(
                "3 leader completeness",
                f"{node_id} leads term {s.term} without entry {index} of term {known.entry.term}, "
                f"committed in term {known.seen_in_term}",
            )


def same_state_at_same_index(record: Record, node_id: str, index: int, digest: bytes) -> None:
    """4: two tables that applied the same entries are the same, by the digest chained over all of them."""
    known = record.applied.get(index)
    if known is not None and known.digest != digest:
        raise Violation(
            "4 state-machine safety", f"{node_id} has another digest after entry {index} than who was first"
        )


def committed_on_a_durable_quorum(
    record: Record, node_id: str, s: ReplicaState, seen: Seen, disks: dict[str, Disk]
) -> None:
    """5: when an entry is first seen committed, a majority of the voters has it on disk. Asked of the disks.

    The voters are those of the configuration in force at that node: now, or before this event, in which the commit may
    have made room for another. And a leader commits an entry of its own term only; what came before is committed by
    that (Raft 5.4.2, figure 8).
    """
    index = s.commit_index
    if index <= max(record.committed_max, FOUNDING_INDEX):
        return
    term = s.log.term_at(index)
    assert term is not None, "the last committed entry is in the log"
    if is_leader(s) and term != s.term:
        raise Violation(
            "5 committed on a durable quorum", f"{node_id}, leading term {s.term}, commits entry {index} of term {term}"
        )
    latest = s.log.configurations.latest
    if _is_held(latest, index, term, disks) or _is_held(seen.configuration or latest, index, term, disks):
        return
    holders = [voter.node_id for voter in latest.voters if disks[voter.node_id].held(voter, index, term)]
    raise Violation(
        "5 committed on a durable quorum",
        f"{node_id} commits entry {index} of term {term}, which only {holders} of {latest.voters} have on disk",
    )


def _is_held(configuration: Configuration, index: int, term: int, disks: dict[str, Disk]) -> bool:
    """Whether a majority of its voters has the entry on disk."""
    holders = sum(1 for voter in configuration.voters if disks[voter.node_id].held(voter, index, term))
    return 2 * holders > len(configuration.voters)


def committed_never_changes(record: Record, node_id: str, s: ReplicaState, seen: Seen) -> list[Entry]:
    """6: what one node has committed, every node commits, byte for byte. Returns the configurations that are new."""
    configurations = []
    log = s.log
    start = max(seen.commit, log.before_index)
    for entry in log.between(start, s.commit_index):
        known = record.committed.get(entry.index)
        mark = checksum(entry)
        if known is None:
            record.committed[entry.index] = Committed(entry, mark, s.term)
            if entry.kind == EntryKind.CONFIGURATION:
                configurations.append(entry)
        elif known.entry.term != entry.term or known.checksum != mark:
            raise Violation(
                "6 committed never changes",
                f"{node_id} commits at {entry.index} an entry of term {entry.term}; "
                f"committed there before: one of term {known.entry.term}",
            )
    record.committed_max = max(record.committed_max, s.commit_index)
    return configurations


def never_backwards(node_id: str, seen: Seen, s: ReplicaState, applied: int) -> None:
    """7, 9, 10: term, commit and applied only grow while a process runs (the disks watch them across restarts)."""
    if s.term < seen.term:
        raise Violation("7 term never goes back", f"{node_id} was in term {seen.term} and is in {s.term}")
    if s.commit_index < seen.commit:
        raise Violation("9 commit never goes back", f"{node_id} had committed {seen.commit}, now {s.commit_index}")
    if applied < seen.applied:
        raise Violation("10 applied never goes back", f"{node_id} had applied {seen.applied}, now {applied}")


def pointers_in_order(node_id: str, s: ReplicaState, disk: Disk, applied: int) -> None:
    """11: trimmed <= written table <= applied <= commit <= last. A table just installed may not be known of yet."""
    written = disk.ledger.applied_index
    log = s.log
    is_written_ahead = written > applied and written != disk.ledger.installed_index
    if not log.before_index <= applied <= s.commit_index <= log.last_index or is_written_ahead:
        raise Violation(
            "11 pointer order",
            f"{node_id}: log after {log.before_index}, table written {written}, applied {applied}, "
            f"commit {s.commit_index}, last {log.last_index}",
        )


def acked_is_durable(node_id: str, disk: Disk, s: ReplicaState, reply: AppendReply) -> None:
    """12: an acknowledgement leaves once the disk holds the term and all it acknowledges. Asked of the disk."""
    log = disk.log
    if log.term > reply.term:
        return  # It has moved on since; what it promised then was on disk before.
    if log.term < reply.term:
        raise Violation(
            "12 nothing acked before durable", f"{node_id} acks in term {reply.term} with term {log.term} on disk"
        )
    if reply.match <= disk.ledger.applied_index:
        return
    on_disk = log.term_at(reply.match)
    # Of a node that went on to another term while the ack waited, the log in memory may be another one by now.
    term = s.log.term_at(reply.match) if s.term == reply.term else on_disk
    if log.last_index < reply.match or on_disk is None or on_disk != term or on_disk > reply.term:
        raise Violation(
            "12 nothing acked before durable",
            f"{node_id} acks in term {reply.term} up to {reply.match} (term {term}) with its log on disk ending at "
            f"{log.last_index}, and there of term {on_disk}",
        )


def vote_is_durable(node_id: str, disk: Disk, to: str, message: Vote | VoteReply) -> None:
    """12: a vote leaves once it is on disk, and so does a candidate's request, which is its vote for itself."""
    state = disk.log.hard_state
    candidate = node_id if isinstance(message, Vote) else to
    if state is not None and state.term > message.term:
        return
    if state is None or state.term < message.term or state.voted_for != candidate:
        raise Violation(
            "12 nothing acked before durable",
            f"{node_id} votes for {candidate} in term {message.term} with {state} on disk",
        )


def one_vote_per_term(record: Record, node_id: str, mark: str, to: str, message: Vote | VoteReply) -> None:
    """13: of the votes that left a node with this log, in any of its lives, no two are for the same term and different
    candidates.
    """
    candidate = node_id if isinstance(message, Vote) else to
    first = record.votes.setdefault((node_id, mark, message.term), candidate)
    if first != candidate:
        raise Violation("13 one vote per term", f"{node_id} voted for {first} and {candidate} in term {message.term}")


def flow_is_bounded(node_id: str, s: ReplicaState) -> None:
    """14: a leader knows less of a follower than it sends it, and no more is on its way than the window allows."""
    for peer, progress in s.peers.items():
        if progress.match >= progress.next:
            raise Violation("14 match < next", f"{node_id} about {peer}: match {progress.match}, next {progress.next}")
        if len(progress._in_flight) > s.config.appends_in_flight_max:
            raise Violation(
                "14 match < next", f"{node_id} has {len(progress._in_flight)} appends on their way to {peer}"
            )


def pre_vote_changes_nothing(node_id: str, seen: Seen, s: ReplicaState, effects: list[Any]) -> None:
    """16: a pre-vote request is a question. Nothing is written, and role and term are as before."""
    if s.term != seen.term or s.role is not seen.role or any(type(effect) is Persist for effect in effects):
        raise Violation("16 pre-vote changes nothing", f"{node_id} changed when it was asked for a pre-vote")


def is_leader(s: ReplicaState) -> bool:
    return s.role is Role.LEADER
