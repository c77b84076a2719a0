"""Linearizable reads without a log entry (Raft 8; thesis 6.4): note the commit index, then prove that we still lead.

A read joins the next round; rounds are numbered by one counter that never falls, and an answer to round r proves all
rounds up to r. No request id travels, so a late answer can never confirm a later question (etcd-io/raft issue 397).
"""

from mesh.raft.commit import quorum_value
from mesh.raft.state import ReadRound, ReplicaState, Role

READS_WAITING_MAX = 1 << 17
"""Reads not yet part of a round, at most; further ones are refused."""


def request(s: ReplicaState, read_id: int) -> bool:
    """Take a read in. False if we do not lead, or too many wait."""
    if s.role is not Role.LEADER or len(s.reads_waiting) >= READS_WAITING_MAX:
        return False
    s.reads_waiting.append(read_id)
    return True


def start_waiting(s: ReplicaState) -> None:
    """One round for all reads that wait, once an entry of our term is committed: before, commits are not all known."""
    if s.commit_index < s.term_start:
        return
    s.start_round()
    s.read_rounds.append(ReadRound(s.round, s.commit_index, s.reads_waiting))
    s.reads_waiting = []
    confirm(s)


def confirm(s: ReplicaState) -> None:
    """Release the rounds a majority has answered."""
    answered = answered_round(s)
    rounds = s.read_rounds
    while rounds and rounds[0].round <= answered:
        done = rounds.popleft()
        s.reads_confirmed.extend((read_id, done.index) for read_id in done.read_ids)


def answered_round(s: ReplicaState) -> int:
    """The latest round that a majority of the voters has answered. We answer our own at once."""
    return quorum_value(
        [s.round if voter == s.node_id else s.peers[voter].round for voter in s.log.configurations.voter_ids]
    )
