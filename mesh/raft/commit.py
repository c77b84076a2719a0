"""When an entry is committed (Raft 5.3, 5.4.2).

The rule in one line: the largest index that a majority holds on disk, if its entry is of the leader's own term.
An earlier term's entry is never committed by counting (figure 8); it is committed by one of ours that follows it.
"""

from mesh.ids import LogIndex
from mesh.raft.election import become_follower
from mesh.raft.state import ReplicaState


def quorum_value(values: list[int]) -> int:
    """The largest value that a majority of `values` reaches. Sorts them; a plain sort, for there are 3 to 7."""
    values.sort()
    return values[(len(values) - 1) >> 1]


def advance(s: ReplicaState) -> None:
    """As leader: commit what a majority of the voters holds. We count ourselves for what our own disk has confirmed."""
    match = quorum_value(
        [
            s.journal.durable_index if voter == s.node_id else s.peers[voter].match
            for voter in s.log.configurations.voter_ids
        ]
    )
    if match <= s.commit_index or s.log.term_at(match) != s.term:
        return
    s.uncommitted_bytes -= sum(len(entry.data) for entry in s.log.between(s.commit_index, match))
    s.commit_index = LogIndex(match)
    if not s.is_voter and match >= s.log.configurations.index:
        become_follower(s, s.term, None, s.now_ms)


def learn(s: ReplicaState, leader_commit: LogIndex, validated: LogIndex) -> None:
    """As follower: what the leader has committed is committed here as far as this one message proved our log equal."""
    upto = min(leader_commit, validated)
    s.commit_index = max(s.commit_index, upto)
