"""eva joins a mesh that ana (or ana and ben) founded: she gets the log, holds leases and gossips, and has no vote."""

import msgspec
import pytest

from mesh.documents import RaftPeer, RaftStatus, Status
from mesh.durable import Configuration, Entry, Member, Recovered
from mesh.ids import NodeId, TaskId, Term
from mesh.messages import Accepted, Action, Answer, Ask, Code, Order, Question, SubmitTasks, TasksEnded, TaskSpec
from mesh.raft.replica import Role
from mesh.wire.codec import decode_configuration, encode
from tests.node.cast import ANA, BEN, EVA, Stage


def members(stage: Stage, name: NodeId) -> list[str]:
    return [member.node_id for member in stage.nodes[name].detector.members()]


def join(stage: Stage) -> None:
    stage.start(EVA, ("paint",))
    stage.ask(Order(1, Action.ADD_LEARNER, "eva@eva:1"))
    stage.run(20)


@pytest.mark.parametrize("founders", [(ANA,), (ANA, BEN)])
def test_a_learner_gets_the_log_runs_tasks_and_has_no_vote(founders: tuple[NodeId, ...]) -> None:
    """20 ms after ana was asked, eva is admitted and has what the others have; the next task is hers alone."""
    stage = Stage(*founders)
    join(stage)
    assert stage.answer() == Answer(1, Code.OK, "done", b"")
    eva, leader = stage.nodes[EVA], stage.leader
    assert [members(stage, name) for name in (*founders, EVA)] == [[*founders, EVA]] * (len(founders) + 1)

    stage.ask(SubmitTasks(True, [TaskSpec(TaskId("t1"), "paint", encode({}))]))
    stage.run(60)
    assert stage.ran == [(EVA, "t1")]
    assert [type(reply) for reply in stage.replies[-2:]] == [Accepted, TasksEnded]
    stage.run(3_000)
    assert (eva.ledger.applied_index, eva.ledger.digest) == (leader.ledger.applied_index, leader.ledger.digest)
    assert leader.raft.configuration.voter_ids == founders
    assert eva.raft.role is Role.FOLLOWER
    assert leader.raft.term == eva.raft.term


def test_a_learner_never_campaigns_though_all_founders_are_gone() -> None:
    """ana dies. eva has the whole log and waits, in the same term, for somebody who may lead."""
    stage = Stage(ANA)
    join(stage)
    term = stage.leader.raft.term
    del stage.nodes[ANA]
    stage.run(10_000)
    assert (stage.nodes[EVA].raft.role, stage.nodes[EVA].raft.term) == (Role.FOLLOWER, term)


def test_a_learner_counts_in_no_majority() -> None:
    """Of ana and ben, ben is gone. eva acknowledges everything, and yet nothing is accepted: two of two are needed."""
    stage = Stage(ANA, BEN)
    join(stage)
    commit = max(node.raft.commit_index for node in stage.nodes.values())
    del stage.nodes[BEN]
    stage.ask(SubmitTasks(True, [TaskSpec(TaskId("t1"), "paint", encode({}))]))
    stage.run(5_000)
    assert max(node.raft.commit_index for node in stage.nodes.values()) <= commit + 2
    assert not any(type(reply) is Accepted for reply in stage.replies)
    assert "t1" not in stage.nodes[EVA].ledger.tasks


def test_asking_twice_is_answered_twice_and_written_once() -> None:
    stage = Stage(ANA)
    join(stage)
    last_index = stage.leader.raft.last_index
    stage.ask(Order(2, Action.ADD_LEARNER, "eva@eva:1"))
    stage.run(10)
    assert stage.answer() == Answer(2, Code.OK, "already so", b"")
    stage.ask(Order(3, Action.ADD_LEARNER, "ana@ana:1"))
    assert stage.answer() == Answer(3, Code.OK, "already so", b"")
    assert stage.leader.raft.last_index == last_index


def test_a_second_change_waits_for_the_first() -> None:
    """While eva's entry is on its way to the disk, the same order waits with it, and another is told to come again."""
    stage = Stage(ANA)
    stage.ask(Order(1, Action.ADD_LEARNER, "eva@eva:1"))
    stage.ask(Order(2, Action.ADD_LEARNER, "eva@eva:1"))
    stage.ask(Order(3, Action.ADD_LEARNER, "fay@fay:1"))
    code = (stage.answer().request, stage.answer().code)
    assert code == (3, Code.UNAVAILABLE)
    stage.run(10)
    answered = [(reply.request, reply.code) for reply in stage.replies if type(reply) is Answer]
    assert answered == [(3, Code.UNAVAILABLE), (1, Code.OK), (2, Code.OK)]


@pytest.mark.parametrize("target", ["eva", "@eva:1", "eva@", "", "e" * 201 + "@eva:1"])
def test_a_target_that_names_no_node_is_invalid(target: str) -> None:
    stage = Stage(ANA)
    stage.ask(Order(1, Action.ADD_LEARNER, target))
    assert stage.answer().code == Code.INVALID


def test_what_an_uncommitted_configuration_says_is_not_kept_with_the_table() -> None:
    """ana's disk hangs with eva's entry on it. The table she writes meanwhile knows of ana alone: it may be cut."""
    stage = Stage(ANA)
    for task_id in (TaskId("written at once"), TaskId("written half a second later")):
        stage.ask(SubmitTasks(False, [TaskSpec(task_id, "nobody", encode({}))]))
        stage.run(10)
    stage.slow_disks.add(ANA)
    stage.ask(Order(1, Action.ADD_LEARNER, "eva@eva:1"))
    stage.marks.clear()
    stage.run(1_000)
    ana = Member(ANA, "ana:1")
    assert [decode_configuration(mark.write.mark.configuration) for mark in stage.marks] == [Configuration((ana,))]


def test_a_voter_that_restarts_remembers_who_takes_part() -> None:
    """ana starts again from her log, of which --voters tells only a part; eva is watched and gets the log as before."""
    stage = Stage(ANA)
    join(stage)
    raft = stage.leader.raft
    entries: list[Entry] = raft.log.between(0, raft.last_index)
    hard_state = msgspec.structs.replace(raft._s.hard_state)
    stage.start(ANA, recovered=Recovered(hard_state, entries, Term(0), None, [], [], 0))
    assert members(stage, ANA) == [ANA, EVA]
    stage.run(2_000)
    assert [peer for peer, _, _ in stage.leader.raft.peers()] == [EVA]
    assert stage.nodes[EVA].ledger.digest == stage.leader.ledger.digest


def test_people_see_who_learns() -> None:
    stage = Stage(ANA)
    join(stage)
    stage.ask(Ask(2, Question.RAFT))
    stage.run(10)
    raft = msgspec.msgpack.decode(stage.answer().body, type=RaftStatus)
    last_index = raft.last_index
    assert raft.peers == [
        RaftPeer("ana", "ana:1", "voter", last_index, 0, "self"),
        RaftPeer("eva", "eva:1", "learner", last_index, 0, "replicate"),
    ]
    stage.ask(Ask(3, Question.STATUS))
    stage.run(10)
    status = msgspec.msgpack.decode(stage.answer().body, type=Status)
    assert [(node.id, node.role, node.address, node.capabilities) for node in status.nodes] == [
        ("ana", "voter", "ana:1", []),
        ("eva", "learner", "eva:1", ["paint"]),
    ]
