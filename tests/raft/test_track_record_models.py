"""What went wrong elsewhere in few steps, looked for in every order of those steps (TRACK_RECORD.md: D14, D29).

The states of a small mesh, or of one follower and its disk, are walked until there is no new one. Each model also finds
the mistake it is about when the safeguard against it is taken away: else it would prove nothing.
"""

from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from itertools import combinations

import pytest

from mesh.durable import Configuration, Entry
from mesh.effects import NOTHING, Persist
from mesh.ids import LogIndex, NodeId, Term
from mesh.messages import Append, AppendReply
from mesh.raft import commit, election, replication
from mesh.raft.configuration import with_voter, without, without_vote
from mesh.raft.journal import Journal
from mesh.raft.output import Outgoing
from mesh.raft.replica import Replica, Role
from mesh.raft.state import ReplicaState
from tests.raft.cast import (
    ANA,
    BEN,
    EVA,
    KAI,
    NOOP,
    Disk,
    entry,
    founding,
    founding_entry,
    recovered,
    replica,
)
from tests.raft.small_mesh import SmallMesh, Step, cloned, explored

TRIO = founding(ANA, BEN, EVA)
NOW_MS = 1_000

# --- D29: concurrent changes under two leaders ------------------------------------------------------------------------


def led_by_the_first(configuration: Configuration) -> SmallMesh:
    """The first voter leads, has committed its no-op, and everybody knows."""
    mesh = SmallMesh(configuration)
    first, *others = configuration.voter_ids
    assert mesh.stand(first, tuple(others))
    for member in configuration.members[1:]:
        assert mesh.level(first, member.node_id)
    return mesh


def steps(mesh: SmallMesh) -> Iterator[Step]:
    """Anybody stands before one or two others; any leader brings anybody level, removes it, or gives it a vote."""
    for name, one in mesh.replicas.items():
        others = [other for other in mesh.replicas if other != name]
        if one.role is not Role.LEADER:
            for before in (*combinations(others, 1), *combinations(others, 2)):
                yield f"{name} stands before {before}", _stand(name, before)
            continue
        for peer in others:
            yield f"{name} levels {peer}", _level(name, peer)
            for words, changed in (
                ("removes", without(one.configuration, peer)),
                ("gives a vote to", with_voter(one.configuration, peer)),
            ):
                if changed is not one.configuration:
                    yield f"{name} {words} {peer}", _change(name, changed)


def _stand(name: NodeId, before: tuple[NodeId, ...]) -> Callable[[SmallMesh], bool]:
    return lambda mesh: mesh.stand(name, before)


def _level(name: NodeId, peer: NodeId) -> Callable[[SmallMesh], bool]:
    return lambda mesh: mesh.level(name, peer)


def _change(name: NodeId, changed: Configuration) -> Callable[[SmallMesh], bool]:
    return lambda mesh: mesh.change(name, changed)


@pytest.mark.parametrize(
    ("configuration", "steps_max", "states_min"),
    [
        (founding(ANA, BEN, EVA), 9, 500),
        (founding(ANA, BEN, EVA, KAI), 6, 3_000),
        (founding(ANA, BEN, learners=(EVA, KAI)), 6, 2_000),
        (founding(ANA, BEN, EVA, learners=(KAI,)), 5, 1_000),
    ],
    ids=["three voters", "four voters", "two voters and two learners", "three voters and a learner"],
)
def test_d29_no_sequence_of_changes_under_two_leaders_forks_the_log(
    configuration: Configuration, steps_max: int, states_min: int
) -> None:
    """hydro 3192, the single-server flaw of 2015, NATS 7632: every sequence of steps, up to so many."""
    states, way = explored(led_by_the_first(configuration), steps, steps_max)
    assert way == []
    assert states >= states_min


def test_d29_the_model_finds_the_fork_of_2015(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that changes the configuration before an entry of its own term is committed: six steps to a fork."""
    monkeypatch.setattr(Replica, "serving", property(lambda self: self.role is Role.LEADER))
    _, way = explored(led_by_the_first(founding(ANA, BEN, EVA, KAI)), steps, 6)
    assert way[:2] == ["ana removes ben", "ben stands before ('eva', 'kai')"]
    assert len(way) == 6


# --- thesis 4.2.2: whoever loses its vote may lead until that is committed --------------------------------------------


def steps_with_votes_taken(mesh: SmallMesh) -> Iterator[Step]:
    """The same, and any leader takes the vote of anybody, itself too."""
    yield from steps(mesh)
    for name, one in mesh.replicas.items():
        for peer in mesh.replicas if one.role is Role.LEADER else ():
            changed = without_vote(one.configuration, peer, held_back=False)
            if changed is not one.configuration:
                yield f"{name} takes the vote of {peer}", _change(name, changed)


@pytest.mark.parametrize(("configuration", "steps_max", "states_min"), [(founding(ANA, BEN), 9, 60), (TRIO, 7, 3_000)])
def test_no_leader_whose_vote_is_being_taken_forks_the_log(
    configuration: Configuration, steps_max: int, states_min: int
) -> None:
    states, way = explored(led_by_the_first(configuration), steps_with_votes_taken, steps_max)
    assert way == []
    assert states >= states_min


def test_the_model_finds_the_fork_of_one_who_counts_the_vote_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ben holds the entry that takes his vote, not the one after it; by his own vote and eva's he leads without it."""
    count = election._count

    def counting_itself(s: ReplicaState, now_ms: int) -> None:
        voters = s.log.configurations.voter_ids
        if s.is_losing_vote and 2 * sum(s.votes.get(name, False) for name in {*voters, s.node_id}) > len(voters):
            if s.role is Role.PRE_CANDIDATE:
                election.campaign(s, now_ms, is_transfer=False)
            else:
                election.become_leader(s, now_ms)
        else:
            count(s, now_ms)

    monkeypatch.setattr(election, "_count", counting_itself)
    _, way = explored(led_by_the_first(TRIO), steps_with_votes_taken, 5)
    assert way[0] == "ana takes the vote of ben"
    assert way[-1].startswith("ben stands before")


# --- D14: an ex-leader with an uncommitted tail -----------------------------------------------------------------------

COMMON = [founding_entry(TRIO), entry(2, 2, b"both")]
LEADERS = [*COMMON, entry(3, 4, b"", NOOP), entry(4, 4, b"hers")]
TAIL = [entry(3, 3, b"", NOOP), entry(4, 3, b"his"), entry(5, 3, b"his")]


def appends() -> list[Append]:
    """All that ana of term 4 may say: from every place, with none to three entries, and as much committed as may be."""
    return [
        Append(
            Term(4), LogIndex(prev), LEADERS[prev - 1].term, LogIndex(commit), 1, tuple(LEADERS[prev : prev + count])
        )
        for prev in range(1, len(LEADERS) + 1)
        for count in range(3)
        if prev + count <= len(LEADERS)
        for commit in (2, 4)
    ]


class Host:
    """ben and his disk. A batch is written, and later he is told so; an answer leaves when what it rests on is told."""

    def __init__(self, batches_max: int) -> None:
        self.batches_max = batches_max
        disk = recovered((3, BEN), [*COMMON, *TAIL])
        self.disk = Disk(disk.hard_state, list(disk.entries))
        self.ben = replica(BEN, TRIO, disk)
        self.waiting: list[Persist] = []
        self.written = self.told = NOTHING
        self.held: list[Outgoing] = []
        self.acked = 0
        """The largest match that ever left in term 4."""

    def clone(self) -> "Host":
        twin = copy(self)
        twin.ben = cloned(self.ben)
        twin.disk = copy(self.disk)
        twin.disk.entries = [*self.disk.entries]
        twin.waiting, twin.held = [*self.waiting], [*self.held]
        return twin

    def key(self) -> tuple[object, ...]:
        """Tokens are counted from the one told last."""
        s, told = self.ben._s, self.told
        return (
            tuple(e.term for e in s.log._entries),
            (s.term, s.commit_index, s.handed_index, s.leader_id, self.acked),
            (s.ack_match, s.is_beat_ack_due, s.is_entries_ack_due, s.journal.durable_index),
            tuple((batch.token - told, batch.upto_index) for batch in s.journal._in_flight),
            (s.journal._truncate_from, s.journal._next_index, s.journal._hard_state_changed),
            (self.written - told, tuple(e.term for e in self.disk.entries), self.disk.hard_state),
            tuple((p.token - told, p.truncate_from, tuple(e.term for e in p.entries)) for p in self.waiting),
            tuple(sorted({(o.after - told, _match(o)) for o in self.held})),
        )

    @property
    def is_free(self) -> bool:
        """Whether the disk may be given another batch."""
        return len(self.waiting) < self.batches_max

    # --- what may happen ---

    def hears(self, message: Append) -> bool:
        self.ben.receive(ANA, message, NOW_MS)
        return True

    def ends_his_turn(self) -> bool:
        if not self.is_free:
            return False
        output = self.ben.take()
        self.waiting += output.persists
        self.held += output.outgoing
        for one in output.committed:
            assert one == LEADERS[one.index - 1], f"{one} is applied, and the leader has another entry there"
            assert self._has(one), f"{one} is applied and not on the disk"
        self._release()
        return True

    def disk_writes(self) -> bool:
        if not self.waiting:
            return False
        self.disk.unsynced, self.disk.synced = [self.waiting.pop(0)], self.written
        self.written = self.disk.sync()
        return True

    def is_told(self) -> bool:
        if self.told == self.written:
            return False
        self.told = self.written
        self.ben.durable(self.told, NOW_MS)
        self._release()
        return True

    def crashes(self) -> bool:
        """What was written is there, whether or not he was told."""
        self.ben = replica(BEN, TRIO, self.disk.recovered())
        self.waiting, self.held = [], []
        self.written = self.told = NOTHING
        return True

    def _release(self) -> None:
        leaving = [o for o in self.held if o.after <= self.told]
        self.held = [o for o in self.held if o.after > self.told]
        for outgoing in leaving:
            self.acked = max(self.acked, _match(outgoing))

    # --- what must be true ---

    def look(self) -> None:
        for one in LEADERS[: self.acked]:
            assert self._has(one), f"{one} was acknowledged and is not on the disk"
            assert self.ben.log.term_at(one.index) == one.term, f"{one} was acknowledged and is not in the log"
        for one in LEADERS[: self.ben.commit_index]:
            assert self.ben.log.term_at(one.index) == one.term, f"committed, and not {one}"
        log = self.ben.log.between(0, self.ben.last_index)
        same = [one for one in log if one.term == 4]
        if same:
            assert log[: same[-1].index] == LEADERS[: same[-1].index], "an entry of hers after one that is not hers"

    def _has(self, one: Entry) -> bool:
        return len(self.disk.entries) >= one.index and self.disk.entries[one.index - 1] == one


def _match(outgoing: Outgoing) -> int:
    message = outgoing.message
    return message.match if isinstance(message, AppendReply) and message.ok and message.term == 4 else 0


def all_states(start: Host, *, are_turns_shared: bool) -> int:
    """Look at every state there is; how many. `are_turns_shared`: several messages may come before a turn ends."""
    found = {start.key()}
    edge = deque([start])
    doings: list[Callable[[Host], bool]] = [Host.disk_writes, Host.is_told, Host.crashes]
    doings += [_hearing(message, are_turns_shared) for message in appends()]
    if are_turns_shared:
        doings.append(Host.ends_his_turn)
    while edge:
        state = edge.popleft()
        for doing in doings:
            next_state = state.clone()
            if doing(next_state) and (key := next_state.key()) not in found:
                next_state.look()
                found.add(key)
                edge.append(next_state)
    return len(found)


def _hearing(message: Append, are_turns_shared: bool) -> Callable[[Host], bool]:
    if are_turns_shared:
        return lambda host: host.hears(message)
    return lambda host: host.is_free and host.hears(message) and host.ends_his_turn()


@pytest.mark.parametrize(("batches_max", "are_turns_shared"), [(1, True), (2, False)])
def test_d14_every_order_of_appends_disk_and_crashes_leaves_an_ex_leader_with_the_leaders_log(
    batches_max: int, are_turns_shared: bool
) -> None:
    """ra 508 and 516, and its stale last-written index: ben led term 3 and has three entries nobody else has. ana of
    term 4 sends empty and full appends, each lost, doubled, late or early; his disk is slow, word of it slower; he
    crashes at any moment. All states there are, not only those so many steps away.
    """
    states = all_states(Host(batches_max), are_turns_shared=are_turns_shared)
    assert states > 500


def _cut_always(s: ReplicaState, entries: tuple[Entry, ...]) -> None:
    if entries and entries[0].index <= s.log.last_index:
        s.log.truncate(entries[0].index)
        s.journal.truncated(entries[0].index)
    for one in entries:
        s.log.append(one)


def _believe_all(s: ReplicaState, leader_commit: LogIndex, validated: LogIndex) -> None:
    s.commit_index = max(s.commit_index, min(leader_commit, s.log.last_index))


def _late_word_counts(journal: Journal, from_index: LogIndex) -> None:
    journal._truncate_from, journal._next_index = from_index, from_index


@pytest.mark.parametrize(
    ("where", "what", "instead"),
    [
        (replication, "_merge", _cut_always),
        (commit, "learn", _believe_all),
        (Journal, "truncated", _late_word_counts),
        (Journal, "after_entry", lambda journal, index, log: journal.after_hard_state()),
    ],
    ids=["an append cuts all behind it", "the own tail is committed", "late word of the disk", "acked before written"],
)
def test_d14_the_model_finds_each_of_those_mistakes(
    monkeypatch: pytest.MonkeyPatch, where: object, what: str, instead: object
) -> None:
    monkeypatch.setattr(where, what, instead)
    with pytest.raises(AssertionError):
        all_states(Host(2), are_turns_shared=False)
