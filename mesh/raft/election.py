"""Who leads (Raft 5.2, 5.4.1; pre-vote and check-quorum: thesis 9.6, 6.2).

    FOLLOWER --silence, leader's link lost--> PRE_CANDIDATE --most would vote--> CANDIDATE --most voted--> LEADER

A pre-vote is a pure query: answering one changes nothing. A vote leaves once it is durable; so does a request for one,
and with it the candidate's vote for itself. Whoever has heard a live leader lately refuses both, unless that leader
asked for it.
"""

from mesh.durable import EntryKind
from mesh.ids import LogIndex, NodeId, Term
from mesh.messages import PreVote, PreVoteReply, Vote, VoteReply
from mesh.raft.state import ReplicaState, Role


def arm(s: ReplicaState, now_ms: int) -> None:
    """Wait a full timeout, drawn anew, before asking for votes."""
    timeout_ms = s.config.election_timeout_ms
    s.timeout_ms = s.rng.randint(timeout_ms, 2 * timeout_ms)
    s.election_due_ms = now_ms + s.timeout_ms


RETRIES_SOON_MAX = 3


def arm_retry(s: ReplicaState, now_ms: int) -> None:
    """Refused or split: nobody leads as far as we know, so try again soon, but not all at the same time.

    Those who lose their leader together collide in one election of seventeen. They try again within a few round trips;
    after a few times it is no collision that keeps them from winning.
    """
    soon_ms = s.config.link_down_campaign_ms
    if s.retries_soon < RETRIES_SOON_MAX:
        s.retries_soon += 1
        s.election_due_ms = now_ms + s.rng.randint(1, 3 * soon_ms)
    else:
        s.election_due_ms = now_ms + s.rng.randint(soon_ms, s.config.election_timeout_ms)


def has_live_leader(s: ReplicaState, now_ms: int) -> bool:
    """Whether a leader was heard within the shortest timeout. A leader in office hears itself."""
    if s.role is Role.LEADER:
        return True
    heard_ms = s.leader_heard_ms
    return s.leader_id is not None and heard_ms is not None and now_ms - heard_ms < s.config.election_timeout_ms


def may_campaign(s: ReplicaState, now_ms: int) -> bool:
    """Whether we could hold office: a voter in good health. So can one whose vote is being taken, by the votes of the
    others alone: it may be the only one that holds the entry, and its log too long for it to vote for any other. It
    leaves office once the entry is committed (thesis 4.2.2).
    """
    return (
        (s.is_voter or s.is_losing_vote)
        and not s.is_barred
        and not s.is_disk_failed
        and not s.is_installing
        and not s.journal.is_stalled(now_ms, s.config.disk_stall_ms_max)
    )


# --- changes of role --------------------------------------------------------------------------------------------------


def become_follower(s: ReplicaState, term: Term, leader_id: NodeId | None, now_ms: int) -> None:
    """Follow whoever leads `term`. Leaving office fails the reads that wait; a vote given in this term stays given."""
    if term > s.term:
        s.set_term_and_vote(term, None)
    s.role = Role.FOLLOWER
    s.leader_id = leader_id
    s.leader_heard_ms = now_ms if leader_id is not None else None
    if leader_id is not None:
        s.retries_soon = 0
    s.votes.clear()
    _owe_nothing(s)
    _leave_office(s)
    arm(s, now_ms)


def _owe_nothing(s: ReplicaState) -> None:
    s.ack_match = LogIndex(0)
    s.ack_round = 0
    s.is_beat_ack_due = False
    s.is_entries_ack_due = False


def _leave_office(s: ReplicaState) -> None:
    for waiting in s.read_rounds:
        s.reads_failed.extend(waiting.read_ids)
    s.reads_failed.extend(s.reads_waiting)
    s.read_rounds.clear()
    s.reads_waiting = []
    s.peers = {}
    s.snapshots_needed = []
    s.transfer_target = None
    s.is_beat_due = False
    s.is_append_due = False
    s.is_renewing = False
    s.uncommitted_bytes = 0


def start_pre_vote(s: ReplicaState, now_ms: int) -> None:
    """Ask whether an election could be won. The leader is forgotten, or we would refuse those who ask us."""
    _owe_nothing(s)
    s.role = Role.PRE_CANDIDATE
    s.leader_id = None
    s.leader_heard_ms = None
    s.votes = {s.node_id: True}
    arm(s, now_ms)
    request = PreVote(Term(s.term + 1), s.log.last_index, s.log.last_term)
    for voter in s.log.configurations.voter_ids:
        if voter != s.node_id:
            s.send(voter, request)
    _count(s, now_ms)


def campaign(s: ReplicaState, now_ms: int, *, is_transfer: bool) -> None:
    """Stand for the next term. The requests wait for our own vote to be durable, so it may be counted at once."""
    _owe_nothing(s)
    s.set_term_and_vote(Term(s.term + 1), s.node_id)
    s.role = Role.CANDIDATE
    s.leader_id = None
    s.leader_heard_ms = None
    s.votes = {s.node_id: True}
    arm(s, now_ms)
    request = Vote(s.term, s.log.last_index, s.log.last_term, is_transfer)
    after = s.journal.after_hard_state()
    for voter in s.log.configurations.voter_ids:
        if voter != s.node_id:
            s.send(voter, request, after)
    _count(s, now_ms)


def become_leader(s: ReplicaState, now_ms: int) -> None:
    """Take office: a no-op of our term first, for only what follows it can be counted (Raft 8)."""
    s.role = Role.LEADER
    s.leader_id = s.node_id
    s.leader_heard_ms = None
    s.retries_soon = 0
    s.votes.clear()
    s.peers = {}
    s.sync_peers()
    s.uncommitted_bytes = sum(len(entry.data) for entry in s.log.between(s.commit_index, s.log.last_index))
    s.term_start = s.append_own(EntryKind.NOOP, b"")
    s.renewal_round = 0
    s.heartbeat_due_ms = now_ms + s.config.heartbeat_ms
    s.start_round()


def _count(s: ReplicaState, now_ms: int) -> None:
    """Go on when a majority of the voters said yes; give up for now when it no longer can. Once one has refused, those
    to whom our link is lost, as to a leader that just died, are not waited for; before that they may still reach us.
    """
    voters = s.log.configurations.voter_ids
    needed = len(voters) // 2 + 1
    granted = sum(1 for voter in voters if s.votes.get(voter) is True)
    refused = sum(1 for voter in voters if s.votes.get(voter) is False)
    if refused:
        refused += sum(1 for voter in voters if voter not in s.votes and voter in s.links_lost)
    if granted >= needed:
        if s.role is Role.PRE_CANDIDATE:
            campaign(s, now_ms, is_transfer=False)
        else:
            become_leader(s, now_ms)
    elif len(voters) - refused < needed:
        become_follower(s, s.term, None, now_ms)
        arm_retry(s, now_ms)


# --- the conversation -------------------------------------------------------------------------------------------------


def on_pre_vote(s: ReplicaState, sender: NodeId, message: PreVote, now_ms: int) -> None:
    """Would we vote for it? Nothing changes here but the answer queued."""
    is_free = message.term > s.term or (message.term == s.term and s.voted_for in (None, sender))
    is_free = is_free and s.may_promise and not has_live_leader(s, now_ms)
    granted = is_free and s.log.is_up_to_date(message.last_index, message.last_term)
    s.send(sender, PreVoteReply(message.term if granted else s.term, granted))


def on_pre_vote_reply(s: ReplicaState, sender: NodeId, message: PreVoteReply, now_ms: int) -> None:
    """Count it, if it answers what we ask now. A refusal from a later term moves us there."""
    if not message.granted and message.term > s.term:
        become_follower(s, message.term, None, now_ms)
        return
    if s.role is not Role.PRE_CANDIDATE or (message.granted and message.term != s.term + 1):
        return
    s.votes.setdefault(sender, message.granted)
    _count(s, now_ms)


def on_vote(s: ReplicaState, sender: NodeId, message: Vote, now_ms: int) -> None:
    """Grant at most one vote a term, to a log no worse than ours, durable before the answer leaves."""
    if message.term > s.term:
        if has_live_leader(s, now_ms) and not message.transfer:
            return
        become_follower(s, message.term, None, now_ms)
    granted = (
        message.term == s.term
        and s.may_promise
        and (s.voted_for == sender or (s.voted_for is None and s.leader_id is None))
        and s.log.is_up_to_date(message.last_index, message.last_term)
    )
    if granted:
        if s.voted_for is None:
            s.set_term_and_vote(s.term, sender)
        arm(s, now_ms)
    s.send(sender, VoteReply(s.term, granted), s.journal.after_hard_state())


def on_vote_reply(s: ReplicaState, sender: NodeId, message: VoteReply, now_ms: int) -> None:
    """Count it, if it is for this candidacy."""
    if message.term > s.term:
        become_follower(s, message.term, None, now_ms)
    elif message.term == s.term and s.role is Role.CANDIDATE:
        s.votes.setdefault(sender, message.granted)
        _count(s, now_ms)


# --- time and links ---------------------------------------------------------------------------------------------------


def tick(s: ReplicaState, now_ms: int) -> None:
    """The timeout has come: campaign if we may, else wait another."""
    if now_ms < s.election_due_ms:
        return
    if may_campaign(s, now_ms):
        start_pre_vote(s, now_ms)
    else:
        arm(s, now_ms)


def on_leader_link_down(s: ReplicaState, now_ms: int) -> None:
    """Silence is now certain, not only likely: no longer vouch for the leader, and ask soon whether others heard it."""
    s.leader_heard_ms = None
    soon_ms = now_ms + s.rng.randint(0, s.config.link_down_campaign_ms)
    s.election_due_ms = min(s.election_due_ms, soon_ms)
