"""Append and its answer: what is kept, cut, committed, refused and sent again."""

import pytest

from mesh.config import RaftConfig
from mesh.durable import Entry
from mesh.effects import NOTHING
from mesh.ids import LogIndex, NodeId, PersistToken, Term
from mesh.messages import Append, AppendReply, PreVoteReply, RaftMessage, VoteReply
from mesh.raft.replica import Outgoing, Replica, Role
from tests.raft.cast import (
    ANA,
    BEN,
    COMMANDS,
    CONFIG,
    CONFIGURATION,
    EVA,
    Cast,
    entry,
    follower,
    founding,
    mark,
    recovered,
    replica,
    role,
    terms_of,
)

TRIO = founding(ANA, BEN, EVA)
TINY = RaftConfig(heartbeat_ms=50, election_timeout_ms=300, appends_in_flight_max=2, append_entries_max=1)


def append(
    term: int, prev: tuple[int, int], *terms: int, commit: int = 1, round_: int = 1, entries: tuple[Entry, ...] = ()
) -> Append:
    """An append after (index, term) `prev`, with an entry for each of `terms`, named index/term."""
    made = tuple(entry(i, t, f"{i}/{t}".encode()) for i, t in enumerate(terms, start=prev[0] + 1))
    return Append(Term(term), LogIndex(prev[0]), Term(prev[1]), LogIndex(commit), round_, made or entries)


def ok(term: int, match: int, round_: int = 1) -> AppendReply:
    return AppendReply(Term(term), round_, True, LogIndex(match), LogIndex(0), LogIndex(0), Term(0))


def refusal(term: int, rejected: int, hint: tuple[int, int], round_: int = 1) -> AppendReply:
    return AppendReply(Term(term), round_, False, LogIndex(0), LogIndex(rejected), LogIndex(hint[0]), Term(hint[1]))


def said(who: Replica) -> list[tuple[NodeId, RaftMessage, PersistToken]]:
    return [(o.to, o.message, o.after) for o in who.take().outgoing]


def leading(*terms: int, config: RaftConfig = CONFIG) -> Replica:
    """ana leads term 5 with these entries behind her; all on her disk, her first appends taken."""
    ana = follower(TRIO, *terms, term=4, node_id=ANA, config=config)
    ana.tick(ana.next_deadline_ms())
    ana.take()
    ana.receive(BEN, PreVoteReply(Term(5), True), 600)
    ana.take()
    ana.durable(PersistToken(1), 600)
    ana.receive(BEN, VoteReply(Term(5), True), 600)
    assert role(ana) is Role.LEADER
    ana.take()
    ana.durable(PersistToken(2), 600)
    return ana


# --- the follower keeps, cuts and answers -----------------------------------------------------------------------------


def test_new_entries_are_kept_and_acknowledged_once_durable() -> None:
    ben = follower(TRIO)
    ben.receive(ANA, append(1, (1, 1), 1, 1), 0)
    output = ben.take()
    assert [(p.token, p.truncate_from, [e.index for e in p.entries]) for p in output.persists] == [(1, 0, [2, 3])]
    assert output.outgoing == [Outgoing(ANA, ok(1, 3), PersistToken(1))]


def test_several_appends_of_a_turn_are_one_batch_and_one_answer() -> None:
    ben = follower(TRIO)
    ben.receive(ANA, append(1, (1, 1), 1, round_=4), 0)
    ben.receive(ANA, append(1, (2, 1), 1, 1, round_=5), 0)
    output = ben.take()
    assert [[e.index for e in p.entries] for p in output.persists] == [[2, 3, 4]]
    assert output.outgoing == [Outgoing(ANA, ok(1, 4, 5), PersistToken(1))]


def test_a_doubled_append_is_acknowledged_again_and_written_once() -> None:
    ben = follower(TRIO)
    ben.receive(ANA, append(1, (1, 1), 1), 0)
    ben.take()
    ben.receive(ANA, append(1, (1, 1), 1), 1)
    output = ben.take()
    assert (output.persists, output.outgoing) == ([], [Outgoing(ANA, ok(1, 2), PersistToken(1))])
    ben.durable(PersistToken(1), 2)
    ben.receive(ANA, append(1, (1, 1), 1), 3)
    assert said(ben) == [(ANA, ok(1, 2), NOTHING)]


def test_a_late_shorter_append_cuts_nothing() -> None:
    """The commonest data loss of all: 2, 3, 4 came, then an older message with only 2. 3 and 4 were acknowledged."""
    ben = follower(TRIO)
    ben.receive(ANA, append(1, (1, 1), 1, 1, 1), 0)
    ben.take()
    ben.receive(ANA, append(1, (1, 1), 1), 1)
    ben.receive(ANA, append(1, (1, 1)), 2)
    assert (terms_of(ben), ben.last_index) == ([1, 1, 1], 4)


@pytest.mark.parametrize(
    ("mine", "message", "then", "cut_from"),
    [
        ((1, 1, 1), append(2, (2, 1), 2), [1, 2], 3),
        ((1, 1, 1), append(2, (1, 1), 1, 2), [1, 2], 3),
        ((1, 1, 1), append(2, (1, 1), 1, 1, 1, 2), [1, 1, 1, 2], 0),
        ((1, 1), append(2, (3, 1), 2), [1, 1, 2], 0),
        ((), append(2, (1, 1), 2, 2), [2, 2], 0),
        ((1, 1, 1), append(3, (1, 1), 2, 3), [2, 3], 2),
    ],
)
def test_only_a_proven_conflict_is_cut(mine: tuple[int, ...], message: Append, then: list[int], cut_from: int) -> None:
    """Raft 5.3, figure 7."""
    ben = follower(TRIO, *mine)
    ben.receive(ANA, message, 0)
    assert terms_of(ben) == then
    assert [p.truncate_from for p in ben.take().persists] == [cut_from]


@pytest.mark.parametrize(
    ("mine", "prev", "hint"),
    [
        ((1, 1), (5, 1), (3, 1)),
        ((1, 1), (5, 4), (3, 1)),
        ((1, 3, 3), (3, 2), (2, 1)),
        ((1, 3, 3), (4, 4), (4, 3)),
        ((2, 2, 2), (4, 1), (1, 1)),
    ],
    ids=["too short", "too short, later term", "other term", "other, earlier term", "all later"],
)
def test_a_gap_or_another_term_is_refused_with_a_hint(
    mine: tuple[int, ...], prev: tuple[int, int], hint: tuple[int, int]
) -> None:
    """etcd findConflictByTerm: the largest position whose term is not beyond the probe's."""
    ben = follower(TRIO, *mine, term=6)
    ben.receive(ANA, append(6, prev, round_=9), 0)
    assert said(ben) == [(ANA, refusal(6, prev[0], hint, 9), NOTHING)]
    assert terms_of(ben) == list(mine)


def test_a_past_leader_is_told_the_present() -> None:
    ben = follower(TRIO, term=6)
    ben.receive(ANA, append(5, (1, 1), 5), 0)
    assert said(ben) == [(ANA, refusal(6, 1, (0, 0)), NOTHING)]
    assert (ben.leader_id, ben.last_index) == (None, 1)


def test_a_heartbeat_is_answered_for_what_the_disk_has_though_more_is_under_way() -> None:
    """ben's disk is slow. He must not look dead, and must not promise entry 2 either."""
    ben = follower(TRIO)
    ben.receive(ANA, append(1, (1, 1), 1), 0)
    ben.take()
    ben.receive(ANA, append(1, (2, 1), round_=2), 50)
    assert said(ben) == [(ANA, ok(1, 1, 2), NOTHING)]
    ben.receive(ANA, append(1, (2, 1), 1, round_=3), 60)
    ben.receive(ANA, append(1, (3, 1), round_=4), 60)
    assert said(ben) == [(ANA, ok(1, 1, 4), NOTHING), (ANA, ok(1, 3, 4), PersistToken(2))]


def test_an_answer_waits_for_a_new_term_to_be_durable() -> None:
    ben = follower(TRIO)
    ben.receive(ANA, append(2, (1, 1)), 0)
    assert said(ben) == [(ANA, ok(2, 1), PersistToken(1))]


def test_an_answer_owed_to_a_past_leader_is_not_given_to_the_next() -> None:
    """In one turn ana's entries come, then eva of a later term cuts them."""
    ben = follower(TRIO)
    ben.receive(ANA, append(1, (1, 1), 1, 1, round_=8), 0)
    ben.receive(EVA, append(2, (1, 1), 2, round_=3), 0)
    assert said(ben) == [(EVA, ok(2, 2, 3), PersistToken(1))]


@pytest.mark.parametrize(
    ("message", "commit"),
    [
        (append(1, (1, 1), 1, commit=9), 2),
        (append(1, (2, 1), commit=9), 2),
        (append(1, (4, 1), commit=3), 3),
        (append(1, (3, 1), 1, commit=4), 4),
        (append(1, (4, 1), commit=1), 1),
    ],
)
def test_a_follower_commits_only_what_this_message_proved(message: Append, commit: int) -> None:
    """ra 508: min(leader commit, own last index) applied an uncommitted tail. ben has 2, 3, 4 on disk from before."""
    ben = follower(TRIO, 1, 1, 1)
    ben.receive(ANA, message, 0)
    assert ben.commit_index == commit


def test_commit_never_goes_back() -> None:
    ben = follower(TRIO, 1, 1, 1)
    ben.receive(ANA, append(1, (4, 1), commit=4), 0)
    ben.receive(ANA, append(1, (4, 1), commit=2), 1)
    assert ben.commit_index == 4


def test_committed_entries_are_handed_out_once_and_only_from_disk() -> None:
    ben = follower(TRIO)
    ben.receive(ANA, append(1, (1, 1), 1, 1, commit=3), 0)
    assert [e.index for e in ben.take().committed] == [1]
    ben.durable(PersistToken(1), 1)
    assert [e.index for e in ben.take().committed] == [2, 3]
    ben.receive(ANA, append(1, (1, 1), 1, 1, commit=3), 2)
    assert ben.take().committed == []


def test_replacing_a_committed_entry_is_a_broken_invariant() -> None:
    ben = follower(TRIO, 1, 1)
    ben.receive(ANA, append(1, (3, 1), commit=3), 0)
    with pytest.raises(AssertionError, match="is committed and cannot be replaced"):
        ben.receive(EVA, append(2, (2, 1), 2), 1)


@pytest.mark.parametrize(
    "message",
    [
        append(1, (-1, 0)),
        append(1, (1, 1), entries=(entry(3, 1),)),
        append(1, (1, 1), entries=(entry(2, 1), entry(2, 1))),
        append(1, (1, 1), 2),
        append(3, (1, 1), 3, 2),
        append(3, (1, 2), 1),
        append(1, (1, 1), entries=(entry(2, 1, b"?", CONFIGURATION),)),
    ],
    ids=["negative", "gap", "doubled", "later than its leader", "falling", "falling at once", "no configuration"],
)
def test_what_no_leader_says_is_dropped_and_counted(message: Append) -> None:
    ben = follower(TRIO)
    ben.receive(ANA, message, 0)
    assert (ben.dropped, ben.last_index, ben.leader_id, said(ben)) == (1, 1, None, [])


def test_an_append_that_starts_below_our_log_is_taken_from_where_it_reaches_in() -> None:
    """ben's log starts after 5. What he has no more is committed, so it agrees."""
    ben = replica(BEN, TRIO, recovered((1, None), [entry(6, 1)], mark(5, 1, TRIO), 1))
    ben.receive(ANA, append(1, (3, 1), 1, 1, 1, 1, commit=7), 0)
    assert (terms_of(ben), ben.commit_index) == ([1, 1], 7)
    assert said(ben) == [(ANA, ok(1, 7), PersistToken(1))]


def test_an_append_wholly_below_our_log_is_acknowledged_up_to_it() -> None:
    ben = replica(BEN, TRIO, recovered((1, None), [entry(6, 1)], mark(5, 1, TRIO), 1))
    ben.receive(ANA, append(1, (2, 1), 1), 0)
    assert said(ben) == [(ANA, ok(1, 5), NOTHING)]


def test_two_leaders_in_a_term_cannot_be_and_the_second_is_not_believed() -> None:
    ana = leading()
    ana.receive(BEN, append(5, (1, 1), 5), 601)
    assert (role(ana), ana.dropped) == (Role.LEADER, 1)


# --- the leader sends -------------------------------------------------------------------------------------------------


def test_what_is_proposed_leaves_with_the_next_take_and_as_one_object() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    ana.propose(COMMANDS, b"a", cast.now_ms)
    ana.propose(COMMANDS, b"b", cast.now_ms)
    outgoing = ana.take().outgoing
    assert [(o.to, o.after) for o in outgoing] == [(BEN, NOTHING), (EVA, NOTHING)]
    first, second = (o.message for o in outgoing)
    assert first is second
    assert isinstance(first, Append) and [e.data for e in first.entries] == [b"a", b"b"]


def test_heartbeats_too_are_one_object() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    ana.tick(ana.next_deadline_ms())
    outgoing = ana.take().outgoing
    assert [o.to for o in outgoing] == [BEN, EVA]
    assert outgoing[0].message is outgoing[1].message


def test_no_append_before_the_leaders_term_is_durable() -> None:
    """A mesh of one and a learner: ana elects herself at once. If she spoke before her term was on disk and crashed,
    she could lead the same term twice, with other entries."""
    duo = founding(ANA, learners=(BEN,))
    ana = replica(ANA, duo)
    ana.tick(0)
    output = ana.take()
    assert [p.hard_state is not None for p in output.persists] == [True]
    assert [(o.to, o.after) for o in output.outgoing] == [(BEN, PersistToken(1))]


def test_a_follower_in_step_is_streamed_to_without_waiting() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    sent = []
    for data in (b"a", b"b", b"c"):
        cast.propose(ANA, data)
        sent += [m.prev_index for o in ana.take().outgoing if isinstance(m := o.message, Append)]
    assert sent == [2, 2, 3, 3, 4, 4]


def test_the_window_is_full_until_answers_come() -> None:
    cast = Cast(founding(ANA, BEN), config=TINY)
    ana = cast.elect(ANA)
    for data in (b"a", b"b", b"c"):
        cast.propose(ANA, data)
    assert [m.entries[0].data for o in ana.take().outgoing if isinstance(m := o.message, Append)] == [b"a", b"b"]
    ana.receive(BEN, ok(ana.term, 3, ana._s.round), cast.now_ms)
    assert [m.entries[0].data for o in ana.take().outgoing if isinstance(m := o.message, Append)] == [b"c"]


def test_the_window_of_bytes_lets_one_large_entry_through_and_no_second() -> None:
    config = RaftConfig(heartbeat_ms=50, election_timeout_ms=300, bytes_in_flight_max=1_000, append_entries_max=1)
    cast = Cast(founding(ANA, BEN), config=config)
    ana = cast.elect(ANA)
    for size in (2_000, 10):
        cast.propose(ANA, b"x" * size)
    assert [len(m.entries[0].data) for o in ana.take().outgoing if isinstance(m := o.message, Append)] == [2_000]
    ana.receive(BEN, ok(ana.term, 3, ana._s.round), cast.now_ms)
    assert [len(m.entries[0].data) for o in ana.take().outgoing if isinstance(m := o.message, Append)] == [10]


def test_a_full_window_that_was_lost_altogether_recovers() -> None:
    """etcd 14633: every message of a full window is lost. The empty append on the next heartbeat is refused, and ana
    starts again from what ben has."""
    cast = Cast(founding(ANA, BEN), config=TINY)
    ana = cast.elect(ANA)
    for data in (b"a", b"b", b"c", b"d"):
        cast.propose(ANA, data)
    cast.turn(ANA)
    assert cast.lose(Append) == 2
    cast.deliver()
    assert ana.commit_index == 2
    cast.advance(50)
    assert (cast.data(ANA), ana.peers()) == ([b"a", b"b", b"c", b"d"], [(BEN, 6, "replicate")])


def test_lost_answers_are_made_good_by_a_heartbeat() -> None:
    cast = Cast(founding(ANA, BEN))
    ana = cast.elect(ANA)
    cast.propose(ANA, b"a")
    cast.turn(ANA)
    cast.deliver_one()
    assert cast.lose(AppendReply) == 1
    cast.advance(50)
    assert ana.commit_index == 3


def test_a_probe_is_sent_once_and_then_only_heartbeats() -> None:
    """raft's Probe state: one message per heartbeat to a follower that does not answer."""
    ana = leading(1, 1)
    now_ms = 600
    for _ in range(3):
        ana.propose(COMMANDS, b"", now_ms)
        now_ms += 50
        ana.tick(now_ms)
        assert [(to, m.entries) for to, m, _ in said(ana) if isinstance(m, Append)] == [(BEN, ()), (EVA, ())]


@pytest.mark.parametrize(
    ("hint", "prev"),
    [((3, 1), 3), ((4, 3), 3), ((1, 1), 1), ((9, 9), 4), ((-5, 0), 0)],
    ids=["shorter", "a term we lack there", "nothing but the founding", "rubbish above", "rubbish below"],
)
def test_a_refused_probe_backs_up_as_far_as_the_hint_allows(hint: tuple[int, int], prev: int) -> None:
    """ana's log: 1/1 2/1 3/1 4/4 5/4, then her no-op 6/5. One round trip finds the place, or nearly."""
    ana = leading(1, 1, 4, 4)
    ana.receive(BEN, refusal(5, 5, hint), 601)
    sent = [m for to, m, _ in said(ana) if to == BEN and isinstance(m, Append)]
    assert [(m.prev_index, len(m.entries)) for m in sent] == [(prev, 6 - prev)]


def test_stale_refusals_are_ignored() -> None:
    """openraft fbbf37b1. One for another probe; a second one for the same; one at or below what is known to match."""
    ana = leading(1, 1, 4, 4)
    ana.receive(BEN, refusal(5, 4, (3, 1)), 601)
    assert said(ana) == []
    ana.receive(BEN, refusal(5, 5, (3, 1)), 601)
    assert len(said(ana)) == 1
    ana.receive(BEN, refusal(5, 5, (1, 1)), 601)
    assert said(ana) == []
    ana.receive(BEN, ok(5, 6), 602)
    ana.receive(BEN, refusal(5, 6, (1, 1)), 603)
    ana.receive(BEN, refusal(5, 3, (1, 1)), 603)
    assert ana.peers()[0] == (BEN, 6, "replicate")


def test_a_refusal_of_the_stream_starts_again_after_what_matches() -> None:
    ana = leading(1)
    ana.receive(BEN, ok(5, 3), 601)
    ana.take()
    for data in (b"a", b"b"):
        ana.propose(COMMANDS, data, 602)
        ana.take()
    ana.receive(BEN, refusal(5, 5, (3, 5)), 603)
    assert [(to, m.prev_index, len(m.entries)) for to, m, _ in said(ana) if isinstance(m, Append)] == [(BEN, 3, 2)]
    assert ana.peers()[0] == (BEN, 3, "probe")


@pytest.mark.parametrize("reply", [ok(5, 99), ok(5, 3, 99)], ids=["more than we have", "a round never begun"])
def test_answers_to_what_was_never_said_are_dropped_and_counted(reply: AppendReply) -> None:
    ana = leading(1)
    ana.receive(BEN, reply, 601)
    assert (ana.dropped, ana.peers()[0]) == (1, (BEN, 0, "probe"))


def test_answers_of_another_term_are_stale() -> None:
    """raft/ra 516: an acknowledgement of an earlier term must not vouch for entries of this one."""
    ana = leading(1)
    ana.receive(BEN, ok(4, 3), 601)
    assert (ana.peers()[0], ana.commit_index) == ((BEN, 0, "probe"), 1)


def test_an_answer_of_a_later_term_ends_the_office() -> None:
    ana = leading(1)
    ana.receive(BEN, refusal(8, 2, (0, 0)), 601)
    assert (role(ana), ana.term, ana.leader_id) == (Role.FOLLOWER, 8, None)


def test_a_broken_link_pauses_and_a_new_one_starts_from_what_matches() -> None:
    """hashicorp 612: a pipeline to a follower stayed wedged after its link hung."""
    cast = Cast(founding(ANA, BEN))
    ana = cast.elect(ANA)
    cast.propose(ANA, b"a")
    cast.turn(ANA)
    cast.lose(Append)
    ana.link_down(BEN, cast.now_ms)
    cast.propose(ANA, b"b")
    assert ana.take().outgoing == []
    ana.link_up(BEN, cast.now_ms)
    assert [(m.prev_index, len(m.entries)) for o in ana.take().outgoing if isinstance(m := o.message, Append)] == [
        (2, 2)
    ]


def test_links_of_strangers_mean_nothing() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    ana.link_up(NodeId("zoe"), cast.now_ms)
    ana.link_down(NodeId("zoe"), cast.now_ms)
    cast.replicas[BEN].link_up(ANA, cast.now_ms)
    assert [state for _, _, state in ana.peers()] == ["replicate", "replicate"]


# --- snapshots --------------------------------------------------------------------------------------------------------


def lagging() -> Cast:
    """eva was away while ana committed 3 to 6 and compacted up to 5; she is back."""
    cast = Cast(TRIO)
    cast.elect(ANA)
    cast.cut(EVA)
    for data in (b"a", b"b", b"c", b"d"):
        cast.propose(ANA, data)
        cast.deliver()
    cast.compact(ANA, 5)
    cast.heal()
    cast.advance(100)
    return cast


def test_a_follower_behind_our_log_needs_a_snapshot_and_that_is_said_once() -> None:
    cast = lagging()
    cast.advance(1_000)
    assert (cast.snapshots_needed[ANA], cast.replicas[ANA].peers()[1]) == ([EVA], (EVA, 2, "snapshot"))


def test_with_the_snapshot_in_use_replication_goes_on() -> None:
    cast = lagging()
    assert cast.install(ANA, EVA)
    cast.deliver()
    assert cast.replicas[ANA].peers()[1] == (EVA, 6, "replicate")
    assert cast.data(EVA) == [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize("told_first", [True, False])
def test_and_also_if_the_follower_saying_so_is_lost(told_first: bool) -> None:
    """raft#110: the success report is lost; a heartbeat finds out."""
    cast = lagging()
    if told_first:
        cast.replicas[ANA].snapshot_sent(EVA, LogIndex(5))
    cast.install(ANA, EVA)
    assert cast.lose(AppendReply) == 1
    if not told_first:
        cast.replicas[ANA].snapshot_sent(EVA, LogIndex(5))
    cast.advance(100)
    assert cast.replicas[ANA].peers()[1] == (EVA, 6, "replicate")


def test_a_slow_install_does_not_ask_for_another_snapshot() -> None:
    """All was sent; eva installs for a second, refusing what comes meanwhile, and keeps her leader."""
    cast = lagging()
    ledger = cast.disks[ANA].ledger
    assert ledger is not None and cast.replicas[EVA].begin_install(ledger)
    cast.replicas[ANA].snapshot_sent(EVA, LogIndex(5))
    cast.advance(1_000)
    assert (cast.snapshots_needed[ANA], cast.replicas[EVA].leader_id) == ([EVA], ANA)


def test_a_long_log_that_disagrees_is_not_taken_for_the_snapshot() -> None:
    """eva's log is longer than the snapshot, but of other terms: her hint reaches it before she has installed it."""
    cast = lagging()
    ana = cast.replicas[ANA]
    ana.snapshot_sent(EVA, LogIndex(5))
    ana.receive(EVA, refusal(ana.term, 5, (5, 1), ana._s.round), cast.now_ms)
    assert ana.take().snapshots_needed == []


def test_a_snapshot_that_failed_is_asked_for_again() -> None:
    cast = lagging()
    cast.replicas[ANA].snapshot_failed(EVA)
    cast.deliver()
    assert cast.snapshots_needed[ANA] == [EVA]
    cast.advance(50)
    assert cast.snapshots_needed[ANA] == [EVA, EVA]


def test_a_snapshot_we_have_compacted_past_meanwhile_is_followed_by_another() -> None:
    cast = lagging()
    ana = cast.replicas[ANA]
    stale = cast.disks[ANA].ledger
    for data in (b"e", b"f"):
        cast.propose(ANA, data)
        cast.deliver()
    cast.compact(ANA, 8)
    ana.snapshot_sent(EVA, LogIndex(5))
    cast.disks[ANA].ledger, fresh = stale, cast.disks[ANA].ledger
    assert cast.install(ANA, EVA)
    cast.deliver()
    assert (cast.snapshots_needed[ANA], ana.peers()[1]) == ([EVA, EVA], (EVA, 5, "snapshot"))
    cast.disks[ANA].ledger = fresh
    assert cast.install(ANA, EVA)
    cast.deliver()
    assert ana.peers()[1] == (EVA, 8, "replicate")


def test_and_also_if_the_follower_saying_so_was_lost() -> None:
    cast = lagging()
    ana = cast.replicas[ANA]
    stale = cast.disks[ANA].ledger
    for data in (b"e", b"f"):
        cast.propose(ANA, data)
        cast.deliver()
    cast.compact(ANA, 8)
    ana.snapshot_sent(EVA, LogIndex(5))
    cast.disks[ANA].ledger = stale
    assert cast.install(ANA, EVA)
    cast.lose(AppendReply)
    cast.advance(50)
    assert cast.snapshots_needed[ANA] == [EVA, EVA]


def test_an_old_answer_does_not_end_the_wait_for_a_snapshot() -> None:
    cast = lagging()
    ana = cast.replicas[ANA]
    ana.receive(EVA, ok(ana.term, 2, ana._s.round), cast.now_ms)
    assert ana.peers()[1] == (EVA, 2, "snapshot")


def test_snapshots_of_nobody_in_need_are_no_news() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    ana.snapshot_sent(BEN, LogIndex(2))
    ana.snapshot_sent(NodeId("zoe"), LogIndex(2))
    assert ana.peers()[0] == (BEN, 2, "replicate")


def test_a_snapshot_beyond_our_own_log_moves_nothing() -> None:
    cast = lagging()
    ana = cast.replicas[ANA]
    ana.snapshot_sent(EVA, LogIndex(99))
    cast.advance(100)
    assert ana.peers()[1] == (EVA, 2, "snapshot")


def test_a_fully_purged_log_still_leads() -> None:
    """openraft afd6508b: a leader with an empty log never sent a snapshot."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.cut(EVA)
    cast.propose(ANA, b"a")
    cast.deliver()
    cast.compact(ANA, 3)
    assert (ana.first_index, ana.last_index) == (4, 3)
    cast.heal()
    cast.advance(100)
    assert cast.snapshots_needed[ANA] == [EVA]
    cast.install(ANA, EVA)
    cast.propose(ANA, b"b")
    cast.advance(50)
    assert cast.data(EVA) == [b"a", b"b"]
    assert ana.peers()[1] == (EVA, 4, "replicate")


def test_compaction_under_a_stream_probes_where_the_log_now_starts() -> None:
    """The appends to eva are under way when ana compacts past them. If they are lost, that is found out."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    ana.link_down(EVA, cast.now_ms)
    cast.cut(EVA)
    for data in (b"a", b"b"):
        cast.propose(ANA, data)
        cast.deliver()
    ana.compact(LogIndex(5))
    assert (ana.first_index, ana.peers()[1]) == (5, (EVA, 2, "probe"))
    cast.heal()
    cast.advance(50)
    assert cast.snapshots_needed[ANA] == [EVA]
    ana.compact(LogIndex(4))
    cast.propose(ANA, b"c")
    cast.deliver()
    ana.compact(LogIndex(6))
    assert (ana.first_index, ana.peers()[1]) == (6, (EVA, 2, "snapshot"))


def test_a_follower_installing_takes_no_entries_and_says_what_it_has() -> None:
    ben = follower(TRIO, 1)
    assert ben.begin_install(mark(9, 3, TRIO))
    ben.receive(ANA, append(3, (1, 1), 3), 10)
    assert (said(ben), ben.last_index) == ([], 2)
    ben.receive(ANA, append(3, (8, 3)), 20)
    assert said(ben) == [(ANA, refusal(3, 8, (2, 1)), PersistToken(1))]
    ben.tick(ben.next_deadline_ms())
    assert role(ben) is Role.FOLLOWER
