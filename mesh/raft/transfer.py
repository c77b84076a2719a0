"""Handing office over on purpose (thesis 3.10): stop proposals, bring the target level, tell it to campaign at once.

If nothing came of it within one election timeout the leader goes on as if nobody had asked.
"""

from mesh.ids import NodeId
from mesh.messages import TimeoutNow
from mesh.raft.election import campaign, may_campaign
from mesh.raft.state import ReplicaState, Role


def start(s: ReplicaState, target: NodeId, now_ms: int) -> bool:
    """Begin to hand over to `target`. False if we do not lead, it cannot, or another transfer is under way."""
    if s.role is not Role.LEADER or target not in s.peers or target not in s.log.configurations.voter_ids:
        return False
    if s.transfer_target is not None:
        return s.transfer_target == target
    s.transfer_target = target
    s.transfer_until_ms = now_ms + s.config.election_timeout_ms
    s.is_timeout_now_sent = False
    s.is_append_due = True
    push(s)
    return True


def push(s: ReplicaState) -> None:
    """Tell the target, once its log is as long as ours."""
    target = s.transfer_target
    if target is None or s.is_timeout_now_sent or s.peers[target].match < s.log.last_index:
        return
    s.is_timeout_now_sent = True
    s.send(target, TimeoutNow(s.term))


def tick(s: ReplicaState, now_ms: int) -> None:
    """Give up when time is over, or the target left the voters."""
    target = s.transfer_target
    if target is not None and (now_ms >= s.transfer_until_ms or target not in s.log.configurations.voter_ids):
        s.transfer_target = None


def on_timeout_now(s: ReplicaState, sender: NodeId, message: TimeoutNow, now_ms: int) -> None:
    """Campaign without asking first, if the leader of our own term says so."""
    if message.term != s.term or s.role not in (Role.FOLLOWER, Role.PRE_CANDIDATE):
        return
    if s.leader_id in (None, sender) and may_campaign(s, now_ms):
        campaign(s, now_ms, is_transfer=True)
