"""What keeps a leader in office, and what ends it."""

from mesh.ids import LogIndex
from mesh.messages import Append, AppendReply
from mesh.raft.replica import Role
from tests.raft.cast import ANA, BEN, COMMANDS, EVA, Cast, founding, role

TRIO = founding(ANA, BEN, EVA)


def test_a_leader_that_hears_no_majority_leaves() -> None:
    """Thesis 6.2: within one election timeout and a heartbeat, not later."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.advance(200)
    cast.cut(ANA)
    cast.advance(300)
    assert ana.is_quorum_live or role(ana) is Role.FOLLOWER
    cast.advance(50)
    assert (role(ana), ana.leader_id, ana.is_quorum_live) == (Role.FOLLOWER, None, False)


def test_one_of_two_others_is_enough() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.cut(EVA)
    cast.advance(3_000)
    assert (role(ana), ana.is_quorum_live) == (Role.LEADER, True)


def test_followers_hearing_the_leader_is_not_enough() -> None:
    """One-way loss: ana's appends arrive, the answers do not. She leaves, so that someone who is heard can lead."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.cuts = [(BEN, ANA), (EVA, ANA)]
    cast.advance(400)
    assert role(ana) is not Role.LEADER


def test_a_leader_whose_disk_hangs_leaves_though_all_others_answer() -> None:
    """hashicorp 503, 612, 614, 666: a leader with a hung disk stayed in office for ever, its heartbeats were fine."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.lazy_disks = [ANA]
    assert cast.propose(ANA, b"pay") == 3
    cast.advance(999)
    assert role(ana) is Role.LEADER
    cast.advance(51)
    assert role(ana) is not Role.LEADER
    cast.advance(2_000)
    leader = cast.leader()
    assert leader is not None and leader is not ana and leader.serving
    assert cast.data(BEN) == cast.data(EVA) == [b"pay"]


def test_a_late_leader_asks_before_it_goes_on() -> None:
    """ana slept for 400 ms. Until a majority answered a new round she takes no proposals."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.advance(100)
    cast.now_ms += 400
    ana.was_late(cast.now_ms)
    assert (role(ana), ana.is_quorum_live, ana.propose(COMMANDS, b"pay", cast.now_ms)) == (Role.LEADER, False, None)
    cast.deliver()
    assert (ana.is_quorum_live, ana.propose(COMMANDS, b"pay", cast.now_ms)) == (True, 3)
    cast.advance(500)
    assert role(ana) is Role.LEADER


def test_a_late_leader_nobody_answers_leaves_within_a_heartbeat() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.cut(ANA)
    cast.now_ms += 400
    ana.was_late(cast.now_ms)
    cast.tick(ANA)
    assert role(ana) is Role.LEADER
    cast.now_ms += 50
    cast.tick(ANA)
    assert role(ana) is Role.FOLLOWER


def test_answers_from_before_the_sleep_prove_nothing() -> None:
    """The answers of the round before were waiting to be read when ana woke up."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.now_ms += 50
    cast.tick(ANA)
    for _ in range(2):
        cast.deliver_one()
    waiting = [(s, m) for s, _, m in cast.wire if isinstance(m, AppendReply)]
    assert len(waiting) == 2
    cast.now_ms += 400
    ana.was_late(cast.now_ms)
    for sender, message in waiting:
        ana.receive(sender, message, cast.now_ms)
    assert ana.is_quorum_live is False
    ana.tick(cast.now_ms + 50)
    assert role(ana) is Role.FOLLOWER


def test_a_little_late_is_nothing_to_a_leader() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.now_ms += 150
    ana.was_late(cast.now_ms)
    assert ana.propose(COMMANDS, b"pay", cast.now_ms) == 3


def test_a_late_leader_of_one_needs_nobody() -> None:
    cast = Cast(founding(ANA))
    cast.tick(ANA)
    cast.now_ms += 5_000
    ana = cast.replicas[ANA]
    ana.was_late(cast.now_ms)
    assert (ana.is_quorum_live, ana.propose(COMMANDS, b"pay", cast.now_ms)) == (True, 3)


def test_a_late_follower_waits_for_what_is_there_to_be_read() -> None:
    """ben slept through his deadline; the leader's heartbeats are in the socket. He gives them a full timeout."""
    cast = Cast(TRIO)
    cast.elect(ANA)
    ben = cast.replicas[BEN]
    cast.now_ms += 5_000
    ben.was_late(cast.now_ms)
    cast.tick(BEN)
    assert role(ben) is Role.FOLLOWER
    assert cast.now_ms + 300 <= ben.next_deadline_ms() <= cast.now_ms + 600


def test_a_follower_that_is_always_late_still_notices_that_nobody_leads() -> None:
    """An overloaded host: each timer of ben fires 150 ms late. ana is gone; his second deadline counts all the same."""
    cast = Cast(TRIO)
    cast.elect(ANA)
    cast.advance(100)
    cast.crash(ANA)
    ben = cast.replicas[BEN]
    roles = []
    for _ in range(2):
        cast.now_ms = ben.next_deadline_ms() + 150
        ben.was_late(cast.now_ms)
        cast.tick(BEN)
        roles.append(role(ben))
    assert roles == [Role.FOLLOWER, Role.PRE_CANDIDATE]


def test_a_follower_that_hears_its_leader_may_oversleep_again() -> None:
    """Late twice, with a heartbeat in between: he judges nobody either time."""
    cast = Cast(TRIO)
    cast.elect(ANA)
    ben = cast.replicas[BEN]
    for _ in range(2):
        cast.now_ms += 2_000
        ben.was_late(cast.now_ms)
        cast.tick(BEN)
        assert role(ben) is Role.FOLLOWER
        ben.receive(ANA, Append(ben.term, LogIndex(2), ben.term, LogIndex(2), 9, ()), cast.now_ms)


def test_heartbeats_go_out_on_time_and_are_answered() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.advance(1_000)
    before = ana._s.round
    cast.advance(500)
    assert ana._s.round - before == 10
    assert [p.round for p in ana._s.peers.values()] == [ana._s.round] * 2
