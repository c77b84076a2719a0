"""Handing over on purpose."""

import pytest

from mesh.ids import Term
from mesh.messages import Append, TimeoutNow
from mesh.raft.replica import Role
from tests.raft.cast import (
    ANA,
    BEN,
    COMMANDS,
    CONFIGURATION,
    EVA,
    KAI,
    Cast,
    encoded,
    follower,
    founding,
    replica,
    role,
)
from tests.raft.test_election import heartbeat, pre_vote
from tests.raft.test_replication import ok

TRIO = founding(ANA, BEN, EVA)


def test_a_level_target_takes_over_at_once() -> None:
    """No timeout passes: TimeoutNow, votes, done; the term grows by one."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    term = ana.term
    assert ana.transfer(BEN, cast.now_ms)
    cast.deliver()
    ben = cast.replicas[BEN]
    assert (role(ben), ben.serving, ben.term) == (Role.LEADER, True, term + 1)
    assert (role(ana), ana.leader_id) == (Role.FOLLOWER, BEN)


def test_a_target_that_lags_is_brought_level_first() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.cut(BEN)
    cast.propose(ANA, b"pay")
    cast.deliver()
    assert ana.transfer(BEN, cast.now_ms)
    assert not any(isinstance(o.message, TimeoutNow) for o in cast.turn(ANA).outgoing)
    cast.heal()
    cast.advance(100)
    assert role(cast.replicas[BEN]) is Role.LEADER
    assert cast.data(BEN) == [b"pay"]


def test_proposals_wait_elsewhere_meanwhile_and_come_back_if_nothing_came_of_it() -> None:
    """hashicorp 581: writes during a transfer kept the target from ever being level."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.cut(BEN)
    cast.propose(ANA, b"pay")
    cast.deliver()
    start_ms = cast.now_ms
    assert ana.transfer(BEN, start_ms)
    assert ana.propose(COMMANDS, b"more", start_ms) is None
    assert ana.next_deadline_ms() <= start_ms + 300
    cast.advance(299)
    assert ana.propose(COMMANDS, b"more", cast.now_ms) is None
    cast.advance(1)
    assert ana.propose(COMMANDS, b"more", cast.now_ms) == 4


def test_the_deadline_of_a_transfer_is_a_deadline() -> None:
    """The transfer ends between two heartbeats, and the node is woken for it."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.advance(20)
    cast.cut(BEN)
    ana.transfer(BEN, cast.now_ms)
    cast.advance(299)
    assert ana.next_deadline_ms() == cast.now_ms + 1


def test_timeout_now_is_said_once() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    ana.transfer(BEN, cast.now_ms)
    ana.transfer(BEN, cast.now_ms)
    assert [type(o.message) for o in cast.turn(ANA).outgoing] == [TimeoutNow]
    cast.lose(TimeoutNow)
    cast.advance(100)
    assert cast.lose(TimeoutNow) == 0
    assert role(ana) is Role.LEADER


def test_and_not_again_when_someone_else_catches_up() -> None:
    """eva was away. Her answer, while ben has been told already, is no reason to tell him twice."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.cut(EVA)
    cast.propose(ANA, b"pay")
    cast.deliver()
    ana.transfer(BEN, cast.now_ms)
    cast.turn(ANA)
    ana.receive(EVA, ok(ana.term, 3), cast.now_ms)
    assert [o for o in cast.turn(ANA).outgoing if isinstance(o.message, TimeoutNow)] == []


def test_who_cannot_take_over_is_refused() -> None:
    """A learner, a stranger, oneself (tikv 4045); a second target; and at one who does not lead, everyone."""
    cast = Cast(founding(ANA, BEN, EVA, learners=(KAI,)))
    ana = cast.elect(ANA)
    now_ms = cast.now_ms
    assert [ana.transfer(name, now_ms) for name in (KAI, ANA)] == [False, False]
    assert cast.replicas[BEN].transfer(EVA, now_ms) is False
    cast.cut(BEN)
    assert [ana.transfer(name, now_ms) for name in (BEN, EVA, BEN)] == [True, False, True]


def test_a_broken_link_ends_it() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.cut(BEN)
    ana.transfer(BEN, cast.now_ms)
    ana.link_down(EVA, cast.now_ms)
    assert ana.propose(COMMANDS, b"pay", cast.now_ms) is None
    ana.link_down(BEN, cast.now_ms)
    assert ana.propose(COMMANDS, b"pay", cast.now_ms) == 3


def test_a_target_that_is_no_voter_any_more_ends_it() -> None:
    """eva's removal is under way when ana is told to hand over to her: the configuration in force counts."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    assert cast.propose(ANA, encoded(founding(ANA, BEN)), CONFIGURATION) == 3
    assert ana.transfer(EVA, cast.now_ms) is False
    assert ana.transfer(BEN, cast.now_ms) is True


@pytest.mark.parametrize(("sender", "term"), [(EVA, 2), (ANA, 1), (ANA, 3)], ids=["not my leader", "past", "future"])
def test_only_the_leader_of_ones_own_term_can_say_now(sender: str, term: int) -> None:
    ben = follower(TRIO)
    ben.receive(ANA, heartbeat(2), 0)
    ben.take()
    ben.receive(sender, TimeoutNow(Term(term)), 1)  # type: ignore[arg-type]
    assert (role(ben), ben.term) == (Role.FOLLOWER, 2)


def test_a_pre_candidate_needs_no_more_pre_votes_once_told() -> None:
    ben = follower(TRIO)
    ben.receive(ANA, heartbeat(2), 0)
    ben.tick(ben.next_deadline_ms())
    ben.receive(ANA, TimeoutNow(Term(2)), 700)
    assert (role(ben), ben.term) == (Role.CANDIDATE, 3)
    ben.receive(ANA, TimeoutNow(Term(3)), 701)
    assert ben.term == 3


def test_a_learner_told_to_campaign_does_not() -> None:
    kai = replica(KAI, founding(ANA, learners=(KAI,)))
    kai.receive(ANA, TimeoutNow(Term(1)), 1)
    assert role(kai) is Role.FOLLOWER


def test_a_transfer_does_not_make_anyone_refuse_the_lease_for_others() -> None:
    """Only the target's request overrides; eva's pre-vote is still refused by ben, who hears ana."""
    ben = follower(TRIO)
    ben.receive(ANA, heartbeat(1), 0)
    ben.take()
    ben.receive(EVA, pre_vote(2), 10)
    assert [type(o.message).__name__ for o in ben.take().outgoing] == ["PreVoteReply"]
    assert ben.leader_id == ANA


def test_appends_go_on_during_a_transfer() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.cut(BEN)
    cast.propose(ANA, b"pay")
    cast.turn(ANA)
    ana.transfer(BEN, cast.now_ms)
    ana.tick(ana.next_deadline_ms())
    assert [o.to for o in cast.turn(ANA).outgoing if isinstance(o.message, Append)] == [BEN, EVA]
