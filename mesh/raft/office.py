"""What keeps a leader in office, and what ends it (check-quorum: thesis 6.2).

Only answers to appends count, and only the leader's own disk speaks for the leader: a leader that a majority no longer
hears, or whose disk hangs, makes room for another.
"""

from mesh.raft import reads, transfer
from mesh.raft.commit import quorum_value
from mesh.raft.election import become_follower
from mesh.raft.state import ReplicaState


def tick(s: ReplicaState, now_ms: int) -> None:
    """As leader: leave office if it is lost, else beat when it is time."""
    if is_contact_lost(s, now_ms) or s.journal.is_stalled(now_ms, s.config.disk_stall_ms_max):
        become_follower(s, s.term, None, now_ms)
        return
    transfer.tick(s, now_ms)
    if now_ms >= s.heartbeat_due_ms:
        s.heartbeat_due_ms = now_ms + s.config.heartbeat_ms
        s.start_round()


def is_contact_lost(s: ReplicaState, now_ms: int) -> bool:
    """Whether no majority of the voters has answered an append within an election timeout."""
    heard_ms = quorum_value(
        [now_ms if voter == s.node_id else s.peers[voter].replied_ms for voter in s.log.configurations.voter_ids]
    )
    return now_ms - heard_ms >= s.config.election_timeout_ms


def demand_renewal(s: ReplicaState, now_ms: int) -> None:
    """We slept so long that another may lead. Ask all; without a majority within a heartbeat, leave office.

    Answers that were waiting to be read prove nothing about now: only this round and later ones count.
    """
    s.start_round()
    s.heartbeat_due_ms = now_ms + s.config.heartbeat_ms
    s.renewal_round = s.round
    expiring_ms = s.heartbeat_due_ms - s.config.election_timeout_ms
    for progress in s.peers.values():
        progress.replied_ms = expiring_ms
    s.is_renewing = reads.answered_round(s) < s.renewal_round
