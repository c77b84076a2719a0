"""The replica as the node sees it."""

import pytest

from mesh.config import RaftConfig
from mesh.durable import HardState
from mesh.effects import NOTHING, Persist
from mesh.ids import LogIndex, NodeId, PersistToken, Term
from mesh.messages import Append, PreVote, PreVoteReply, RaftMessage, SnapshotPull, VoteReply
from mesh.raft.replica import NEVER_MS, NO_OUTPUT, Role
from tests.raft.cast import (
    ANA,
    BEN,
    COMMANDS,
    CONFIGURATION,
    EVA,
    KAI,
    Cast,
    encoded,
    entry,
    follower,
    founding,
    founding_entry,
    mark,
    recovered,
    replica,
    role,
    terms_of,
)
from tests.raft.test_election import candidate, heartbeat, pre_vote, said, vote, yes

TRIO = founding(ANA, BEN, EVA)


# --- beginning --------------------------------------------------------------------------------------------------------


def test_a_fresh_replica_writes_the_founding_entry_first() -> None:
    ben = replica(BEN, TRIO)
    output = ben.take()
    assert output.persists == [Persist(PersistToken(1), HardState(Term(1), None), LogIndex(0), (founding_entry(TRIO),))]
    assert output.committed == []
    ben.durable(PersistToken(1), 0)
    assert ben.take().committed == [founding_entry(TRIO)]
    assert (ben.term, role(ben), ben.commit_index, ben.last_index, ben.first_index) == (1, Role.FOLLOWER, 1, 1, 1)


def test_a_recovered_replica_says_nothing_and_hands_out_what_the_table_lacks() -> None:
    """The table stands at 2, the log ends at 4. What was committed beyond 2 is learned from a leader."""
    entries = [founding_entry(TRIO), entry(2, 1), entry(3, 1), entry(4, 1)]
    ben = replica(BEN, TRIO, recovered((3, EVA), entries, mark(2, 1, TRIO)))
    assert ben.take() is NO_OUTPUT
    assert (ben.term, ben.voted_for, ben.commit_index, ben.last_index) == (3, EVA, 2, 4)
    ben.receive(ANA, heartbeat(3, 4, 1), 0)
    ben.receive(ANA, Append(Term(3), LogIndex(4), Term(1), LogIndex(4), 2, ()), 0)
    assert [e.index for e in ben.take().committed] == [3, 4]


def test_without_a_table_the_log_is_handed_out_from_one() -> None:
    ben = follower(TRIO, 1)
    assert [e.index for e in ben.take().committed] == [1]


def test_a_node_the_configuration_does_not_know_stays_quiet() -> None:
    zoe = replica(NodeId("zoe"), TRIO)
    zoe.tick(zoe.next_deadline_ms())
    assert role(zoe) is Role.FOLLOWER
    assert zoe.take().outgoing == []


# --- proposing --------------------------------------------------------------------------------------------------------


def test_only_a_serving_leader_takes_proposals() -> None:
    """Not a follower, not a candidate, not a leader whose no-op is under way; Redpanda 5090 took elected for ready."""
    cast = Cast(TRIO)
    assert cast.propose(BEN, b"pay") is None
    ben = candidate()
    assert ben.propose(COMMANDS, b"pay", 700) is None
    ben.receive(ANA, yes(2), 700)
    assert (role(ben), ben.serving, ben.propose(COMMANDS, b"pay", 700)) == (Role.LEADER, False, None)
    cast.elect(ANA)
    assert (cast.replicas[ANA].serving, cast.propose(ANA, b"pay")) == (True, 3)


def test_a_leader_serves_once_its_no_op_is_handed_out() -> None:
    """Committed by the others, but not yet on ana's own disk: not handed out, so not serving."""
    cast = Cast(TRIO)
    cast.advance(100)
    cast.lazy_disks = [ANA]
    ana = cast.replicas[ANA]
    ana.tick(ana.next_deadline_ms())
    cast.deliver()
    cast.sync(ANA)
    cast.deliver()
    assert (role(ana), ana.commit_index, ana.serving) == (Role.LEADER, 2, False)
    cast.sync(ANA)
    assert ana.serving


def test_the_uncommitted_tail_is_bounded_and_drains() -> None:
    config = RaftConfig(heartbeat_ms=50, election_timeout_ms=300, uncommitted_bytes_max=100)
    cast = Cast(TRIO, config=config)
    cast.elect(ANA)
    assert cast.propose(ANA, b"x" * 500) == 3
    assert cast.propose(ANA, b"x") is None
    assert cast.propose(ANA, b"") is None
    cast.deliver()
    assert cast.propose(ANA, b"x" * 60) == 4
    assert cast.propose(ANA, b"x" * 40) == 5
    assert cast.propose(ANA, b"") == 6
    assert cast.propose(ANA, b"x") is None
    cast.deliver()
    assert cast.replicas[ANA]._s.uncommitted_bytes == 0


def test_a_new_leader_counts_the_tail_it_inherits() -> None:
    """ben holds 500 uncommitted bytes of ana's when he is elected; they count until his no-op commits them."""
    cast = Cast(TRIO)
    cast.elect(ANA)
    cast.propose(ANA, b"x" * 500)
    cast.turn(ANA)
    cast.deliver_one()
    cast.crash(ANA)
    cast.cut(EVA)
    ben = cast.replicas[BEN]
    cast.heal()
    while role(ben) is not Role.LEADER:
        cast.now_ms += 1_000
        cast.tick(BEN)
        while cast.wire and role(ben) is not Role.LEADER:
            cast.deliver_one()
    assert ben._s.uncommitted_bytes == 500
    cast.deliver()
    assert (ben._s.uncommitted_bytes, cast.data(BEN)) == (0, [b"x" * 500])


@pytest.mark.parametrize(
    ("data", "taken"),
    [
        (encoded(founding(ANA, BEN, EVA, learners=(KAI,))), True),
        (encoded(founding(ANA, BEN, EVA, KAI)), True),
        (encoded(founding(ANA, KAI)), False),
        (b"rubbish", False),
    ],
    ids=["a learner", "a voter", "three changes", "rubbish"],
)
def test_configurations_change_by_one_voter(data: bytes, taken: bool) -> None:
    cast = Cast(TRIO)
    cast.elect(ANA)
    assert (cast.propose(ANA, data, CONFIGURATION) == 3) is taken


def test_one_change_at_a_time() -> None:
    """hydro 3192: two changes under way at once fork the log."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    assert cast.propose(ANA, encoded(founding(ANA, BEN)), CONFIGURATION) == 3
    assert cast.propose(ANA, encoded(TRIO), CONFIGURATION) is None
    cast.deliver()
    assert cast.propose(ANA, encoded(TRIO), CONFIGURATION) == 4
    cast.advance(500)
    assert [name for name, match, _ in ana.peers() if match == 4] == [BEN, EVA]


def test_a_configuration_is_in_force_at_once_and_a_cut_takes_it_back() -> None:
    """ana, cut off, lets kai in: in force for her, committed by nobody. ben's term cuts it, with no trace left."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.cut(ANA)
    wider = founding(ANA, BEN, EVA, KAI)
    assert cast.propose(ANA, encoded(wider), CONFIGURATION) == 3
    cast.turn(ANA)
    assert (ana.configuration, [name for name, _, _ in ana.peers()]) == (wider, [BEN, EVA, KAI])
    cast.elect(BEN)
    cast.heal()
    cast.advance(1_000)
    assert (ana.configuration, ana.leader_id) == (TRIO, BEN)


def test_a_learner_becomes_a_voter() -> None:
    cast = Cast(founding(ANA, BEN, EVA, learners=(KAI,)))
    ana = cast.elect(ANA)
    cast.propose(ANA, b"pay")
    cast.deliver()
    assert cast.propose(ANA, encoded(founding(ANA, BEN, EVA, KAI)), CONFIGURATION) == 4
    cast.advance(100)
    cast.crash(BEN)
    cast.propose(ANA, b"more")
    cast.deliver()
    assert (ana.commit_index, cast.data(KAI)) == (5, [b"pay"])
    cast.advance(50)
    assert cast.data(KAI) == [b"pay", b"more"]


# --- hearing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sender", "message"), [("zoe", VoteReply(Term(9), True)), ("ben", vote(9))], ids=["a stranger", "itself"]
)
def test_who_is_no_other_member_is_not_heard(sender: str, message: RaftMessage) -> None:
    ben = follower(TRIO)
    ben.take()
    ben.receive(NodeId(sender), message, 0)
    assert (ben.dropped, ben.term, ben.take()) == (1, 1, NO_OUTPUT)


def test_a_stranger_is_heard_when_it_asks_for_a_vote_or_leads() -> None:
    """Ben's configuration may be the one that is out of date: without zoe he might wait for ever (thesis 4.2.2)."""
    ben = follower(TRIO)
    ben.take()
    ben.receive(NodeId("zoe"), vote(9), 0)
    assert (ben.dropped, ben.term, ben.voted_for) == (0, 9, "zoe")


def test_what_is_not_rafts_is_dropped() -> None:
    ben = follower(TRIO)
    ben.receive(ANA, SnapshotPull(1, ""), 0)  # type: ignore[arg-type]
    assert ben.dropped == 1


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_with_a_failed_disk_nothing_is_promised_any_more() -> None:
    """NATS 8290. No vote, no acknowledgement, no office, no batch; the reads that waited fail."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    ana.propose(COMMANDS, b"pay", cast.now_ms)
    ana.read(7, cast.now_ms)
    ana.disk_failed()
    output = ana.take()
    assert (output.persists, output.outgoing, output.failed_reads) == ([], [], [7])
    assert (role(ana), ana.next_deadline_ms()) == (Role.FOLLOWER, NEVER_MS)
    ana.receive(BEN, vote(9), cast.now_ms)
    ana.receive(BEN, heartbeat(9), cast.now_ms)
    ana.receive(BEN, pre_vote(9), cast.now_ms)
    ana.tick(cast.now_ms + 60_000)
    assert (ana.take(), ana.term, role(ana)) == (NO_OUTPUT, 2, Role.FOLLOWER)
    assert ana.propose(COMMANDS, b"pay", cast.now_ms) is None
    assert ana.read(8, cast.now_ms) is False


def test_the_others_go_on_without_it() -> None:
    cast = Cast(TRIO)
    cast.elect(ANA)
    cast.replicas[ANA].disk_failed()
    cast.advance(3_000)
    leader = cast.leader()
    assert leader is not None and leader.serving and leader.leader_id in (BEN, EVA)


def test_what_was_not_yet_said_when_the_disk_failed_is_never_said() -> None:
    ben = follower(TRIO)
    ben.receive(ANA, vote(2), 0)
    ben.disk_failed()
    assert ben.take().outgoing == []


# --- the ledger store -------------------------------------------------------------------------------------------------


def test_compaction_never_reaches_beyond_what_was_handed_out() -> None:
    ben = follower(TRIO, 1, 1, 1)
    ben.receive(ANA, Append(Term(1), LogIndex(4), Term(1), LogIndex(3), 1, ()), 0)
    ben.compact(LogIndex(9))
    assert ben.first_index == 1
    ben.take()
    ben.compact(LogIndex(9))
    assert (ben.first_index, ben.last_index) == (4, 4)


def test_a_snapshot_replaces_the_log_and_the_leader_is_told() -> None:
    """ben had 2/1 and 3/1 uncommitted; the table stands at 9/3."""
    wider = founding(ANA, BEN, EVA, KAI)
    ben = follower(TRIO, 1, 1)
    ben.receive(ANA, heartbeat(3, 8, 3), 0)
    ben.take()
    ledger = mark(9, 3, wider)
    assert ben.begin_install(ledger)
    ben.restored(recovered((3, None), [], ledger), 10)
    assert (ben.first_index, ben.last_index, ben.commit_index, ben.configuration) == (10, 9, 9, wider)
    ben.durable(PersistToken(1), 11)
    output = ben.take()
    assert (output.committed, output.persists) == ([], [])
    assert [(o.to, o.message.ok, o.message.match, o.after) for o in output.outgoing] == [(ANA, True, 9, NOTHING)]  # type: ignore[union-attr]
    ben.receive(ANA, Append(Term(3), LogIndex(9), Term(3), LogIndex(10), 1, (entry(10, 3),)), 12)
    ben.take()
    ben.durable(PersistToken(2), 13)
    assert [e.index for e in ben.take().committed] == [10]


def test_a_snapshot_with_no_leader_known_tells_nobody() -> None:
    ben = follower(TRIO)
    ledger = mark(9, 3, TRIO)
    assert ben.begin_install(ledger)
    ben.take()
    ben.restored(recovered((3, None), [], ledger), 10)
    assert ben.take() is NO_OUTPUT


@pytest.mark.parametrize(("index", "term"), [(1, 1), (3, 1)], ids=["committed", "in the log, and agreeing"])
def test_a_snapshot_that_brings_nothing_is_refused(index: int, term: int) -> None:
    """openraft ac3e5a89: to install it would take back entries ben has acknowledged."""
    ben = follower(TRIO, 1, 1, 1)
    assert ben.begin_install(mark(index, term, TRIO)) is False
    ben.receive(ANA, Append(Term(1), LogIndex(4), Term(1), LogIndex(1), 1, (entry(5, 1),)), 0)
    assert terms_of(ben) == [1, 1, 1, 1]


def test_a_snapshot_nobody_announced_is_a_broken_invariant() -> None:
    with pytest.raises(AssertionError, match="begin_install comes first"):
        follower(TRIO).restored(recovered((1, None), [], mark(9, 3, TRIO)), 0)


def test_a_snapshot_older_than_what_is_committed_is_a_broken_invariant() -> None:
    ben = follower(TRIO, 1, 1)
    assert ben.begin_install(mark(9, 3, TRIO))
    with pytest.raises(AssertionError, match="no news"):
        ben.restored(recovered((3, None), [], mark(1, 1, TRIO)), 0)


# --- seen from outside ------------------------------------------------------------------------------------------------


def test_a_follower_knows_a_quorum_while_it_hears_its_leader() -> None:
    cast = Cast(TRIO)
    cast.elect(ANA)
    ben = cast.replicas[BEN]
    assert (ben.is_quorum_live, ben.peers()) == (True, [])
    cast.cut(BEN)
    cast.now_ms += 300
    ben.tick(cast.now_ms)
    assert ben.is_quorum_live is False


def test_terms_of_entries_in_memory_can_be_asked_for() -> None:
    ben = follower(TRIO, 1, 2)
    ben.take()
    assert [ben.term_at(LogIndex(index)) for index in (0, 1, 2, 3)] == [0, 1, 1, 2]
    with pytest.raises(AssertionError, match="not in memory"):
        ben.term_at(LogIndex(4))


def test_a_tick_before_its_time_does_nothing() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    ana.tick(ana.next_deadline_ms() - 1)
    assert ana.take() is NO_OUTPUT


def test_terms_and_requests_line_up() -> None:
    """A pre-vote asks about the term that the vote will be for."""
    ben = follower(TRIO, 1)
    ben.tick(ben.next_deadline_ms())
    assert [m for _, m, _ in said(ben)] == [PreVote(Term(2), LogIndex(2), Term(1))] * 2


def test_a_term_out_of_this_world_is_not_taken_over() -> None:
    """It would be the last: there is no term after it that a disk could hold."""
    ben = follower(TRIO)
    ben.take()
    for message in (vote(1 << 63), PreVoteReply(Term((1 << 64) - 1), False)):
        ben.receive(ANA, message, 0)
    assert (ben.dropped, ben.term, ben.take()) == (2, 1, NO_OUTPUT)
    ben.receive(ANA, vote(1 << 32), 0)
    assert ben.term == 1 << 32
