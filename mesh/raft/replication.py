"""How entries reach the others (Raft 5.3): both ends of that conversation.

Appends leave at the end of a turn, all that is due in one go. A heartbeat is an append without entries; it goes out
even when the window is full, so a window whose every message was lost is noticed. A follower answers once a turn.
"""

from mesh.durable import Entry, EntryKind
from mesh.ids import LogIndex, NodeId, PersistToken, Term
from mesh.messages import Append, AppendReply
from mesh.raft import commit, reads, transfer
from mesh.raft.configuration import decode
from mesh.raft.election import become_follower
from mesh.raft.progress import Progress, ProgressState
from mesh.raft.state import ReplicaState, Role

# --- the leader speaks ------------------------------------------------------------------------------------------------


def send_appends(s: ReplicaState) -> None:
    """Everything due to every member. Who is told the same gets the same object.

    An append may leave before our own disk has its entries, but not before it has our term: a leader that forgot its
    term could lead it twice.
    """
    after = s.journal.after_hard_state()
    is_beat = s.is_beat_due
    s.is_beat_due = False
    s.is_append_due = False
    last_index = s.log.last_index
    filled: dict[LogIndex, tuple[Append, int]] = {}
    empty: dict[LogIndex, Append] = {}
    for peer, progress in s.peers.items():
        is_told = False
        while progress.next <= last_index and progress.may_send(s.config):
            if not _send_entries(s, peer, progress, filled, after):
                break
            is_told = True
        if is_beat and not is_told:
            message = empty.get(progress.next)
            if message is None:
                message = empty[progress.next] = _append(s, progress.next, ())
            s.send(peer, message, after)


def _send_entries(
    s: ReplicaState,
    peer: NodeId,
    progress: Progress,
    filled: dict[LogIndex, tuple[Append, int]],
    after: PersistToken,
) -> bool:
    """One append from the peer's next index on. False if its window has no room for it."""
    made = filled.get(progress.next)
    if made is None:
        entries, size = s.log.batch(progress.next, s.config.append_entries_max, s.config.append_bytes_max)
        made = filled[progress.next] = (_append(s, progress.next, entries), size)
    message, size = made
    if not progress.has_room(size, s.config):
        return False
    progress.sent(message.entries[-1].index, size)
    s.send(peer, message, after)
    return True


def _append(s: ReplicaState, next_index: LogIndex, entries: tuple[Entry, ...]) -> Append:
    prev_index = LogIndex(next_index - 1)
    prev_term = s.log.term_at(prev_index)
    assert prev_term is not None, f"next {next_index} lies below our first entry, {s.log.first_index}"
    return Append(s.term, prev_index, prev_term, s.commit_index, s.round, entries)


def on_append_reply(s: ReplicaState, sender: NodeId, message: AppendReply, now_ms: int) -> None:
    """A member answered: it is alive, it answered a round, and it holds this much of the log or refused that."""
    if message.term != s.term or s.role is not Role.LEADER:
        if message.term > s.term:
            become_follower(s, message.term, None, now_ms)
        return
    progress = s.peers[sender]
    if message.round > s.round or (message.ok and message.match > s.log.last_index):
        s.dropped += 1
        return
    _renew(s, progress, message.round, now_ms)
    if message.ok:
        _on_accepted(s, sender, progress, message.match)
    else:
        _on_rejected(s, sender, progress, message)
    if s.read_rounds:
        reads.confirm(s)


def _renew(s: ReplicaState, progress: Progress, round_: int, now_ms: int) -> None:
    progress.round = max(progress.round, round_)
    if round_ >= s.renewal_round:
        progress.replied_ms = now_ms
        if s.is_renewing and reads.answered_round(s) >= s.renewal_round:
            s.is_renewing = False


def _on_accepted(s: ReplicaState, peer: NodeId, progress: Progress, match: LogIndex) -> None:
    is_news = progress.acknowledge(match)
    first_index = s.log.first_index
    if progress.state is ProgressState.PROBE:
        progress.replicate(max(LogIndex(progress.match + 1), first_index))
    elif progress.state is ProgressState.SNAPSHOT:
        if progress.match + 1 >= first_index:
            progress.replicate(LogIndex(progress.match + 1))
        elif progress.match >= progress.snapshot_index > 0:
            _need_snapshot(s, peer, progress)
    if is_news:
        if match > s.commit_index:
            commit.advance(s)
        transfer.push(s)
    if progress.next <= s.log.last_index:
        s.is_append_due = True


def _on_rejected(s: ReplicaState, peer: NodeId, progress: Progress, message: AppendReply) -> None:
    """Back up, as far as both logs' terms allow in one step; stale refusals are ignored."""
    first_index = s.log.first_index
    rejected = message.rejected
    if progress.state is ProgressState.SNAPSHOT:
        if 0 < progress.snapshot_index < s.log.before_index and message.hint_index >= progress.snapshot_index:
            _need_snapshot(s, peer, progress)
    elif rejected <= progress.match:
        return
    elif progress.state is ProgressState.REPLICATE:
        progress.probe(max(LogIndex(progress.match + 1), first_index))
        s.is_append_due = True
    elif rejected == progress.next - 1:
        hint_index = message.hint_index
        if hint_index >= first_index:
            hint_index, _ = s.log.find_at_or_below(hint_index, message.hint_term)
        next_index = max(LogIndex(min(rejected, hint_index + 1)), LogIndex(progress.match + 1))
        if next_index < first_index:
            _need_snapshot(s, peer, progress)
        else:
            progress.probe(next_index)
            s.is_append_due = True


def _need_snapshot(s: ReplicaState, peer: NodeId, progress: Progress) -> None:
    progress.await_snapshot(s.log.first_index)
    s.snapshots_needed.append(peer)


def snapshot_sent(s: ReplicaState, peer: NodeId, index: LogIndex) -> None:
    """All of a table at `index` is with the peer. From now on heartbeats ask whether it is in use there."""
    progress = s.peers.get(peer)
    if progress is not None and progress.state is ProgressState.SNAPSHOT:
        progress.snapshot_index = index
        if s.log.first_index <= index + 1 <= s.log.last_index + 1:
            progress.next = LogIndex(index + 1)


def restart_peer(s: ReplicaState, peer: NodeId, *, is_paused: bool) -> None:
    """Forget what is under way to the peer; look anew for what it has. Paused: only heartbeats until it answers one."""
    progress = s.peers.get(peer)
    if progress is not None:
        progress.probe(max(LogIndex(progress.match + 1), s.log.first_index), is_paused=is_paused)
        s.is_append_due = True


def compact(s: ReplicaState, first_index: LogIndex) -> None:
    """Entries before `first_index` leave memory, as far as they were handed out. Whoever lags is probed there."""
    s.log.compact(min(first_index, LogIndex(s.handed_index + 1)))
    for progress in s.peers.values():
        if progress.next < s.log.first_index:
            if progress.state is ProgressState.SNAPSHOT:
                progress.next = s.log.first_index
            else:
                progress.probe(s.log.first_index)
                s.is_append_due = True


# --- the follower answers ---------------------------------------------------------------------------------------------


def on_append(s: ReplicaState, sender: NodeId, message: Append, now_ms: int) -> None:
    """Take over what the leader of our term, or of a later one, has."""
    if message.term < s.term:
        _reject(s, sender, message, LogIndex(0), Term(0))
        return
    if not _is_plausible(message) or (message.term == s.term and s.role is Role.LEADER):
        s.dropped += 1
        return
    if message.term > s.term or s.leader_id != sender or s.role is not Role.FOLLOWER:
        become_follower(s, message.term, sender, now_ms)
    else:
        s.leader_heard_ms = now_ms
        s.election_due_ms = now_ms + s.timeout_ms
    s.is_spared = False
    s.ack_round = max(s.ack_round, message.round)
    if s.is_installing:
        if not message.entries:
            _reject(s, sender, message, s.log.last_index, s.log.last_term)
        return
    _accept(s, sender, message)


def _is_plausible(message: Append) -> bool:
    """Entries follow each other and `prev`, terms never fall, configurations can be read."""
    index = message.prev_index
    term = message.prev_term
    if index < 0:
        return False
    for entry in message.entries:
        index = LogIndex(index + 1)
        if entry.index != index or not term <= entry.term:
            return False
        term = entry.term
        if entry.kind == EntryKind.CONFIGURATION and decode(entry.data) is None:
            return False
    return term <= message.term


def _accept(s: ReplicaState, sender: NodeId, message: Append) -> None:
    log = s.log
    prev_index = message.prev_index
    if prev_index == log.last_index and message.prev_term == log.last_term:
        for entry in message.entries:
            log.append(entry)
    elif prev_index >= log.before_index and log.term_at(prev_index) != message.prev_term:
        hint_index, hint_term = log.find_at_or_below(prev_index, message.prev_term)
        _reject(s, sender, message, hint_index, hint_term)
        return
    else:
        _merge(s, message.entries)
    # What lies before our first entry is committed, and so is in the log of every leader there can be.
    validated = max(LogIndex(prev_index + len(message.entries)), log.before_index)
    commit.learn(s, message.commit, validated)
    if message.entries:
        s.is_entries_ack_due = True
    else:
        s.is_beat_ack_due = True
    s.ack_match = max(s.ack_match, validated)


def _merge(s: ReplicaState, entries: tuple[Entry, ...]) -> None:
    """Keep what agrees, cut at the first proven conflict, add what is new. A late, shorter append cuts nothing."""
    log = s.log
    for entry in entries:
        if entry.index <= log.before_index:
            continue
        if entry.index <= log.last_index:
            if log.term_at(entry.index) == entry.term:
                continue
            assert entry.index > s.commit_index, f"entry {entry.index} is committed and cannot be replaced"
            log.truncate(entry.index)
            s.journal.truncated(entry.index)
        log.append(entry)


def _reject(s: ReplicaState, sender: NodeId, message: Append, hint_index: LogIndex, hint_term: Term) -> None:
    reply = AppendReply(s.term, message.round, False, LogIndex(0), message.prev_index, hint_index, hint_term)
    s.send(sender, reply, s.journal.after_hard_state())


def send_ack(s: ReplicaState) -> None:
    """The answer to all appends of this turn. What the disk does not have yet is promised for when it has.

    A heartbeat is answered at once, for what the disk has now: a slow disk must not look like a dead node.
    """
    leader_id = s.leader_id
    assert leader_id is not None, "an answer is owed only to a leader we follow"
    match = s.ack_match
    durable_index = s.journal.durable_index
    if match > durable_index and s.is_beat_ack_due:
        s.send(leader_id, _ok(s, durable_index), s.journal.after_hard_state())
    if match <= durable_index or s.is_entries_ack_due:
        s.send(leader_id, _ok(s, match), s.journal.after_entry(match, s.log))
    s.ack_match = LogIndex(0)
    s.is_beat_ack_due = False
    s.is_entries_ack_due = False


def _ok(s: ReplicaState, match: LogIndex) -> AppendReply:
    return AppendReply(s.term, s.ack_round, True, match, LogIndex(0), LogIndex(0), Term(0))
