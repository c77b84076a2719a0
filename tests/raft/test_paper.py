"""Claims of the Raft paper (Ongaro & Ousterhout, extended version), and of Ongaro's thesis, one test each, by section.

What one replica does is in the other modules; here several of them tell the paper's stories.
"""

import pytest

from mesh.durable import HardState
from mesh.ids import LogIndex, NodeId, Term
from mesh.messages import Append, AppendReply, Vote
from mesh.raft.replica import Role
from tests.raft.cast import (
    ANA,
    BEN,
    COMMANDS,
    CONFIGURATION,
    EVA,
    KAI,
    LEO,
    Cast,
    Disk,
    encoded,
    entry,
    founding,
    founding_entry,
    role,
    terms_of,
)

TRIO = founding(ANA, BEN, EVA)
FIVE = founding(ANA, BEN, EVA, KAI, LEO)


def with_logs(configuration: object, logs: dict[NodeId, tuple[int, ...]], terms: dict[NodeId, int]) -> Cast:
    """A cast that starts from these logs (terms, after the founding entry), all on disk."""
    cast = Cast(configuration)  # type: ignore[arg-type]
    for name, its in logs.items():
        entries = [founding_entry(configuration)]  # type: ignore[arg-type]
        entries += [entry(index, term, f"{index}/{term}".encode()) for index, term in enumerate(its, start=2)]
        cast.crash(name)
        cast.disks[name] = Disk(HardState(Term(terms[name]), None), entries)
    for name in logs:
        cast.start(name)
    return cast


def stand(cast: Cast, name: NodeId) -> None:
    """Let `name` win an election or fail to, with all it says delivered, and no time for heartbeats."""
    cast.now_ms = max(cast.now_ms + 700, cast.replicas[name].next_deadline_ms())
    cast.tick(name)
    cast.deliver()


# --- 5.1, 5.2 ---------------------------------------------------------------------------------------------------------


def test_5_1_a_later_term_makes_anyone_a_follower() -> None:
    for held in (Role.FOLLOWER, Role.LEADER):
        cast = Cast(TRIO)
        cast.elect(ANA)
        who = cast.replicas[ANA if held is Role.LEADER else BEN]
        assert role(who) is held
        who.receive(EVA, Append(Term(9), LogIndex(1), Term(1), LogIndex(1), 1, ()), cast.now_ms)
        assert (role(who), who.term, who.leader_id) == (Role.FOLLOWER, 9, EVA)


def test_5_2_a_split_vote_ends_with_a_leader_all_the_same() -> None:
    """Two of four stand at the same instant and get two votes each. Fresh dice part them."""
    cast = Cast(founding(ANA, BEN, EVA, KAI))
    cast.now_ms = max(cast.replicas[name].next_deadline_ms() for name in (ANA, BEN))
    cast.cut(ANA, KAI)
    cast.cut(BEN, EVA)
    cast.cut(ANA, BEN)
    for name in (ANA, BEN):
        cast.replicas[name]._s.set_term_and_vote(Term(2), name)
    cast.heal()
    cast.advance(5_000)
    leader = cast.leader()
    assert leader is not None and leader.serving


def test_5_2_a_leader_keeps_its_office_by_heartbeats() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.advance(10_000)
    assert (cast.leader(), ana.term) == (ana, 2)


# --- 5.3 --------------------------------------------------------------------------------------------------------------


def test_5_3_entries_are_applied_in_order_and_the_same_everywhere() -> None:
    cast = Cast(TRIO)
    cast.elect(ANA)
    for number in range(200):
        cast.propose(ANA, b"%d" % number)
        if number % 7 == 0:
            cast.deliver()
    cast.deliver()
    cast.advance(100)
    assert cast.data(ANA) == cast.data(BEN) == cast.data(EVA) == [b"%d" % number for number in range(200)]


@pytest.mark.parametrize(
    "theirs",
    [
        (1, 1, 1, 4, 4, 5, 5, 6, 6),
        (1, 1, 1, 4),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
        (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
        (1, 1, 1, 4, 4, 4, 4),
        (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
    ],
    ids=list("abcdef"),
)
def test_5_3_figure_7_a_leader_brings_any_log_to_its_own(theirs: tuple[int, ...]) -> None:
    """Each follower of the figure; ben consents, so that ana leads term 8 whatever eva thinks."""
    lead = (1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
    cast = with_logs(TRIO, {ANA: lead, BEN: lead, EVA: theirs}, {ANA: 7, BEN: 7, EVA: 7})
    cast.cut(EVA)
    stand(cast, ANA)
    assert role(cast.replicas[ANA]) is Role.LEADER
    cast.heal()
    cast.advance(100)
    assert terms_of(cast.replicas[EVA]) == terms_of(cast.replicas[ANA]) == [*lead, 8]
    assert cast.data(EVA) == cast.data(ANA)


@pytest.mark.parametrize("theirs", [(1,) * 40 + (2,) * 60, (2,) * 100, (1, 2) + (3,) * 60, ()])
def test_5_3_conflicts_are_found_term_by_term_not_entry_by_entry(theirs: tuple[int, ...]) -> None:
    """A log that differs in a hundred entries of few terms is matched in few round trips."""
    lead = (1,) * 30 + (4,) * 40 + (6,) * 30
    cast = with_logs(TRIO, {ANA: lead, BEN: lead, EVA: theirs}, {ANA: 7, BEN: 7, EVA: 7})
    cast.cut(EVA)
    stand(cast, ANA)
    cast.heal()
    cast.advance(50)
    assert cast.replicas[ANA].peers()[1] == (EVA, 102, "replicate")
    refusals = [r for r in cast.said(EVA, AppendReply) if not r.ok]
    assert 1 <= len(refusals) <= 4


def test_5_3_an_old_leaders_unfinished_entries_give_way() -> None:
    """ana, cut off, appends what nobody else has. ben's term replaces it; nothing of hers was committed."""
    cast = Cast(TRIO)
    cast.elect(ANA)
    cast.cut(ANA)
    for data in (b"lost", b"lost too"):
        cast.propose(ANA, data)
    cast.turn(ANA)
    cast.elect(BEN)
    cast.propose(BEN, b"kept")
    cast.deliver()
    cast.heal()
    cast.advance(500)
    assert cast.data(ANA) == cast.data(BEN) == [b"kept"]


# --- 5.4 --------------------------------------------------------------------------------------------------------------


def test_5_4_1_a_log_that_lacks_a_committed_entry_cannot_win() -> None:
    """eva missed an entry that ana and ben committed. ana dies. However often eva stands, ben will lead."""
    cast = Cast(TRIO)
    cast.elect(ANA)
    cast.cut(EVA)
    cast.propose(ANA, b"kept")
    cast.deliver()
    cast.heal()
    cast.crash(ANA)
    for _ in range(3):
        stand(cast, EVA)
    assert role(cast.replicas[EVA]) is not Role.LEADER
    cast.advance(2_000)
    leader = cast.leader()
    assert leader is cast.replicas[BEN] and cast.data(BEN) == [b"kept"]


def test_5_4_2_figure_8_an_earlier_terms_entry_is_not_committed_by_counting() -> None:
    """The figure's (c): ana of term 4 brings her entry of term 2 to a majority. That commits nothing, for leo (d) may
    yet replace it; only an entry of term 4 on a majority (e) commits both."""
    logs: dict[NodeId, tuple[int, ...]] = {ANA: (2,), BEN: (2,), EVA: (), KAI: (), LEO: (3,)}
    cast = with_logs(FIVE, logs, {ANA: 3, BEN: 2, EVA: 3, KAI: 2, LEO: 3})
    cast.cut(ANA, LEO)
    cast.lazy_disks = [ANA]
    ana = cast.replicas[ANA]
    while role(ana) is not Role.LEADER:
        cast.now_ms = max(cast.now_ms + 700, ana.next_deadline_ms())
        cast.tick(ANA)
        while cast.wire and role(ana) is not Role.LEADER:
            cast.deliver_one()
        if role(ana) is Role.CANDIDATE:
            cast.sync(ANA)
            while cast.wire and role(ana) is not Role.LEADER:
                cast.deliver_one()
    term = ana.term
    reply = [AppendReply(term, 1, True, LogIndex(2), LogIndex(0), LogIndex(0), Term(0))] * 2
    ana.receive(BEN, reply[0], cast.now_ms)
    ana.receive(EVA, reply[1], cast.now_ms)
    assert ([match for _, match, _ in ana.peers()][:2], ana.commit_index) == ([2, 2], 1)
    cast.sync(ANA)
    cast.deliver()
    assert (ana.commit_index, ana.last_index, ana.term_at(LogIndex(3))) == (3, 3, term)


def test_5_4_3_what_was_committed_is_in_every_later_leaders_log() -> None:
    """Ten leaders in turn, each of them losing its unsynced tail as it goes. Nothing committed is ever lost."""
    cast = Cast(FIVE)
    names = [ANA, BEN, EVA, KAI, LEO]
    acknowledged: list[bytes] = []
    for number in range(10):
        cast.advance(3_000)
        leader = cast.leader()
        assert leader is not None and leader.leader_id is not None
        name = leader.leader_id
        cast.propose(name, b"kept %d" % number)
        cast.deliver()
        acknowledged.append(b"kept %d" % number)
        assert cast.data(name) == acknowledged
        cast.lazy_disks = [name]
        cast.propose(name, b"lost %d" % number)
        cast.replicas[name].take()
        cast.lazy_disks = []
        cast.crash(name)
        cast.advance(3_000)
        cast.start(name)
    cast.advance(3_000)
    assert [cast.data(name) for name in names] == [acknowledged] * 5


# --- 5.5, 5.6 ---------------------------------------------------------------------------------------------------------


def test_5_5_a_follower_that_was_away_is_brought_up_to_date() -> None:
    cast = Cast(TRIO)
    cast.elect(ANA)
    cast.crash(EVA)
    for number in range(300):
        cast.propose(ANA, b"%d" % number)
        cast.deliver()
    cast.start(EVA)
    cast.advance(500)
    assert len(cast.data(EVA)) == 300


def test_5_6_all_nodes_lose_power_and_nothing_acknowledged_is_lost() -> None:
    """NATS 7564, in small: everyone crashes at once, dropping what was not synced."""
    cast = Cast(TRIO)
    cast.elect(ANA)
    for number in range(20):
        cast.propose(ANA, b"%d" % number)
        cast.deliver()
    acknowledged = cast.data(ANA)
    cast.lazy_disks = [ANA, BEN, EVA]
    cast.propose(ANA, b"unacknowledged")
    cast.deliver()
    assert cast.data(ANA) == acknowledged
    for name in (ANA, BEN, EVA):
        cast.crash(name)
    cast.lazy_disks = []
    for name in (EVA, ANA, BEN):
        cast.start(name)
    cast.advance(3_000)
    assert len(acknowledged) == 20
    assert cast.data(ANA) == cast.data(BEN) == cast.data(EVA) == acknowledged


def test_5_6_a_leader_that_restarts_is_a_follower_and_keeps_its_vote() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    term = ana.term
    cast.crash(ANA)
    again = cast.start(ANA)
    assert (role(again), again.term, again.voted_for) == (Role.FOLLOWER, term, ANA)
    again.receive(EVA, Vote(term, LogIndex(9), term, False), cast.now_ms)
    assert [o.message.granted for o in again.take().outgoing] == [False]  # type: ignore[union-attr]


# --- 6, 7, 8 ----------------------------------------------------------------------------------------------------------


def test_6_a_voter_comes_and_another_goes_while_work_goes_on() -> None:
    cast = Cast(founding(ANA, BEN, EVA, learners=(KAI,)))
    cast.elect(ANA)
    steps = [founding(ANA, BEN, EVA, KAI), founding(ANA, BEN, KAI)]
    for number, step in enumerate(steps):
        assert cast.propose(ANA, encoded(step), CONFIGURATION) is not None
        cast.propose(ANA, b"%d" % number)
        cast.deliver()
        cast.advance(100)
    cast.crash(EVA)
    cast.crash(BEN)
    cast.propose(ANA, b"with kai")
    cast.advance(100)
    assert cast.data(KAI) == [b"0", b"1", b"with kai"]


def test_7_a_follower_too_far_behind_goes_on_from_a_snapshot() -> None:
    cast = Cast(TRIO)
    cast.elect(ANA)
    cast.crash(EVA)
    for number in range(10):
        cast.propose(ANA, b"%d" % number)
        cast.deliver()
    cast.compact(ANA, 9)
    cast.start(EVA)
    cast.advance(100)
    assert cast.snapshots_needed[ANA] == [EVA]
    assert cast.install(ANA, EVA)
    cast.advance(100)
    assert cast.data(EVA) == cast.data(ANA)
    cast.crash(EVA)
    cast.start(EVA)
    cast.advance(100)
    assert cast.data(EVA) == cast.data(ANA)


def test_8_a_leader_commits_an_entry_of_its_own_term_before_it_serves() -> None:
    """etcd and Redis-Raft alike: without the no-op ben would not know that ana's last entry is committed."""
    cast = Cast(TRIO)
    cast.elect(ANA)
    cast.propose(ANA, b"pay")
    cast.deliver()
    cast.crash(ANA)
    ben = cast.elect(BEN)
    assert cast.data(BEN) == [b"pay"]
    assert (ben.serving, ben.propose(COMMANDS, b"more", cast.now_ms)) == (True, 5)
