"""Linearizable reads: an index, then proof of office."""

import pytest

from mesh.messages import Append, AppendReply, Vote
from mesh.raft import reads
from mesh.raft.replica import Role
from tests.raft.cast import ANA, BEN, EVA, KAI, LEO, Cast, founding, role

TRIO = founding(ANA, BEN, EVA)


def test_a_read_waits_for_a_round_of_the_majority() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.cut(ANA)
    assert ana.read(1, cast.now_ms)
    cast.deliver()
    assert cast.reads[ANA] == []
    cast.heal()
    cast.cut(EVA)
    assert ana.read(2, cast.now_ms)
    cast.deliver()
    assert cast.reads[ANA] == [(1, 2), (2, 2)]


def test_a_round_is_sent_at_once_and_shared_by_all_reads_of_the_turn() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    for read_id in (1, 2, 3):
        ana.read(read_id, cast.now_ms)
    output = cast.turn(ANA)
    assert [(o.to, type(o.message)) for o in output.outgoing] == [(BEN, Append), (EVA, Append)]
    cast.deliver()
    assert cast.reads[ANA] == [(1, 2), (2, 2), (3, 2)]


def test_a_follower_refuses() -> None:
    cast = Cast(TRIO)
    cast.elect(ANA)
    assert cast.replicas[BEN].read(1, cast.now_ms) is False


def test_a_mesh_of_one_answers_at_once() -> None:
    cast = Cast(founding(ANA))
    cast.tick(ANA)
    cast.replicas[ANA].read(1, cast.now_ms)
    cast.turn(ANA)
    assert cast.reads[ANA] == [(1, 2)]


def test_a_read_in_a_new_term_waits_for_the_no_op() -> None:
    """Redis-Raft 18: ben was elected and does not know yet that ana's last entry was committed."""
    cast = Cast(TRIO)
    cast.elect(ANA)
    cast.propose(ANA, b"pay")
    cast.deliver()
    cast.crash(ANA)
    cast.lazy_disks = [EVA]
    ben = cast.replicas[BEN]
    while role(ben) is not Role.LEADER:
        cast.now_ms += 1_000
        cast.tick(BEN)
        while cast.wire:
            cast.deliver_one()
        if cast.held[EVA] and role(ben) is not Role.LEADER:
            cast.sync(EVA)
            while cast.wire and role(ben) is not Role.LEADER:
                cast.deliver_one()
    assert ben.commit_index == 2
    assert ben.read(9, cast.now_ms)
    cast.deliver()
    assert cast.reads[BEN] == []
    cast.sync(EVA)
    cast.deliver()
    assert cast.reads[BEN] == [(9, 4)]


def test_a_late_answer_never_confirms_a_later_question() -> None:
    """raft#397: ana's first round is answered but the answers are delayed. ana is deposed without knowing, asks anew
    under the same id, and then the old answers come. The new read must not be answered from them."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    ana.read(1, cast.now_ms)
    cast.turn(ANA)
    for _ in range(2):
        cast.deliver_one()
    late = [w for w in cast.wire if isinstance(w[2], AppendReply)]
    cast.wire = []
    cast.cut(ANA)
    cast.now_ms += 250
    ana.read(1, cast.now_ms)
    cast.turn(ANA)
    cast.wire = []
    for sender, _, message in late:
        ana.receive(sender, message, cast.now_ms)
    cast.turn(ANA)
    assert cast.reads[ANA] == [(1, 2)]
    cast.advance(2_000)
    assert (cast.reads[ANA], cast.failed_reads[ANA]) == ([(1, 2)], [1])


def test_a_refusal_proves_office_as_well_as_consent() -> None:
    """eva restarted and lags, so it refuses the append; it still has no other leader."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.crash(EVA)
    for data in (b"a", b"b", b"c"):
        cast.propose(ANA, data)
    cast.deliver()
    cast.start(EVA)
    cast.cut(BEN)
    ana.read(1, cast.now_ms)
    cast.turn(ANA)
    cast.deliver_one(1)
    reply = cast.wire[-1][2]
    assert isinstance(reply, AppendReply) and not reply.ok
    cast.deliver_one(len(cast.wire) - 1)
    assert cast.reads[ANA] == [(1, 5)]


def test_reads_fail_when_office_is_lost() -> None:
    """One read is in a round, one came after; a vote request of a later term, part of a transfer, ends them both."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    ana.read(1, cast.now_ms)
    cast.turn(ANA)
    ana.read(2, cast.now_ms)
    ana.receive(BEN, Vote(ana.term + 1, ana.last_index, ana.term, True), cast.now_ms)  # type: ignore[arg-type]
    cast.turn(ANA)
    assert (cast.reads[ANA], cast.failed_reads[ANA]) == ([], [1, 2])


def test_two_of_five_answers_are_no_majority_and_three_are() -> None:
    cast = Cast(founding(ANA, BEN, EVA, KAI, LEO))
    ana = cast.elect(ANA)
    cast.cut(ANA, EVA, KAI, LEO)
    ana.read(1, cast.now_ms)
    cast.deliver()
    assert cast.reads[ANA] == []
    cast.heal()
    cast.cut(ANA, KAI, LEO)
    cast.advance(50)
    assert cast.reads[ANA] == [(1, 2)]


def test_waiting_reads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "READS_WAITING_MAX", 2)
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    assert [ana.read(read_id, cast.now_ms) for read_id in (1, 2, 3)] == [True, True, False]
