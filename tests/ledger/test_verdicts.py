"""What is agreed about nodes, and what becomes of the leases they hold (S0-03, S0-04, S0-30)."""

from mesh.ids import FencingToken, LogIndex, NodeId, TaskId
from mesh.ledger.applied import ALREADY, DONE, UNKNOWN, EndedLease
from mesh.ledger.commands import AdmitNode, Batch, DrainNode, ElectLeader, FailNode, LeaveNode, StartTask
from mesh.ledger.intake import whole
from mesh.ledger.ledger import Ledger
from mesh.ledger.task import NodeRecord
from mesh.wire.codec import decode_summary, decode_task, encode
from tests.ledger.cast import ANA, BEN, MAIL, RESIZE, TERM, Log, grant, kinds, submit, with_nodes


def test_a_failed_node_loses_its_leases_and_nobody_elses() -> None:
    """ana and ben hold a task each; ana fails. Hers waits again at its old place, his goes on."""
    log = with_nodes(ANA, BEN)
    log.apply(submit(RESIZE), submit(MAIL), grant(RESIZE, ANA), grant(MAIL, BEN))
    failed = log.apply(FailNode(ANA, 1, "silent for 3000 ms"))
    assert kinds(failed) == ["node_failed", "task_lost"]
    assert failed.ended == [EndedLease(ANA, RESIZE, FencingToken(2))]
    assert (log.state(RESIZE), log.state(MAIL)) == ("pending", "dispatched")
    assert log.ledger.nodes[ANA] == NodeRecord(ANA, 1, active=False, failure_count=1)
    assert failed.nodes_changed


def test_only_an_attempt_that_had_started_is_charged_for_its_node() -> None:
    """RESIZE was running when ana failed, MAIL had only been sent to her."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE), submit(MAIL), grant(RESIZE, ANA), grant(MAIL, ANA))
    log.apply(StartTask(RESIZE, FencingToken(2)))
    log.apply(FailNode(ANA, 1, "silent"))
    assert (log.ledger.tasks[RESIZE].attempts, log.ledger.tasks[MAIL].attempts) == (1, 0)
    assert (log.state(RESIZE), log.state(MAIL)) == ("pending", "pending")


def test_a_task_whose_last_attempt_dies_with_its_node_is_a_dead_letter() -> None:
    """One attempt allowed, and its node fails while it runs: the reason says so."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE, attempts_max=1), grant(RESIZE, ANA))
    log.apply(StartTask(RESIZE, FencingToken(2)))
    failed = log.apply(FailNode(ANA, 1, "silent"))
    assert kinds(failed) == ["node_failed", "task_lost", "task_dead"]
    assert log.state(RESIZE) == "dead"
    assert log.ledger.tasks[RESIZE].error == "node_lost: ana failed while it ran attempt 1"


def test_a_verdict_is_passed_once_and_only_on_the_incarnation_it_names() -> None:
    """The proposal was repeated; ana is back already when the second one commits."""
    log = with_nodes(ANA)
    log.apply(FailNode(ANA, 1, "silent"))
    again = log.apply(FailNode(ANA, 1, "silent"), FailNode(NodeId("nobody"), 1, "silent"))
    assert list(again.outcomes) == [ALREADY, UNKNOWN]
    recovered = log.apply(AdmitNode(ANA, 2))
    assert kinds(recovered) == ["node_recovered"]
    assert list(log.apply(FailNode(ANA, 1, "silent")).outcomes) == [ALREADY]
    assert log.ledger.is_admitted(ANA, 2) and not log.ledger.is_admitted(ANA, 1)
    assert log.ledger.nodes[ANA].failure_count == 1


def test_a_node_that_restarts_before_anyone_notices_has_forgotten_its_leases() -> None:
    """ana's process died and came back within a heartbeat: its new incarnation holds nothing."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE), grant(RESIZE, ANA), DrainNode(ANA, True))
    restarted = log.apply(AdmitNode(ANA, 2))
    assert kinds(restarted) == ["node_restarted", "task_lost"]
    assert restarted.ended == [EndedLease(ANA, RESIZE, FencingToken(2))]
    assert log.ledger.nodes[ANA] == NodeRecord(ANA, 2)
    assert list(log.apply(AdmitNode(ANA, 2), AdmitNode(ANA, 1)).outcomes) == [ALREADY, ALREADY]


def test_a_node_given_up_by_mistake_comes_back_under_the_same_incarnation() -> None:
    """It was only cut off: what it held is lost, but it may be granted to again."""
    log = with_nodes(ANA)
    log.apply(FailNode(ANA, 1, "link lost"))
    assert kinds(log.apply(AdmitNode(ANA, 1))) == ["node_recovered"]
    log.apply(submit(RESIZE))
    assert list(log.apply(grant(RESIZE, ANA)).outcomes) == [DONE]


def test_draining_is_switched_on_and_off_and_put_on_record() -> None:
    """An operator drains ana, and thinks better of it."""
    log = with_nodes(ANA)
    on = log.apply(DrainNode(ANA, True), DrainNode(ANA, True), DrainNode(NodeId("nobody"), True))
    assert (list(on.outcomes), kinds(on)) == ([DONE, ALREADY, UNKNOWN], ["node_draining"])
    assert kinds(log.apply(DrainNode(ANA, False))) == ["node_undrained"]


def test_an_election_is_put_on_record() -> None:
    """Who leads since when, for whoever reads the events."""
    log = Log()
    elected = log.apply(ElectLeader(ANA, TERM))
    assert [(line.node_id, line.detail) for line in elected.events] == [(ANA, "term 2")]
    assert kinds(elected) == ["leader_elected"]


def test_a_restored_table_loses_leases_in_the_same_order() -> None:
    """Found by a seed: after a restart leases stood in the order of their rows, and history was written in another
    order."""
    log = with_nodes(ANA)
    names = [TaskId(name) for name in ("zoe", "amy", "kim")]
    log.apply(*(submit(name) for name in names), *(grant(name, ANA) for name in names))
    restored = Ledger()
    before = log.ledger
    rows = sorted(before.take_changes().tasks, key=lambda task: task.task_id)
    live = [decode_task(encode(task)) for task in rows]
    summary = decode_summary(encode(before.summary()))
    restored.restore(before.applied_index, TERM, before.digest, summary, whole(live, [], 0))
    batch = Batch(9_000, [FailNode(ANA, 1, "silent")])
    one = before.apply(LogIndex(3), TERM, batch, b"")
    two = restored.apply(LogIndex(3), TERM, batch, b"")
    assert one.events == two.events
    assert [happening.task_id for happening in one.events[1:]] == names


def test_a_node_that_leaves_gives_its_leases_back_uncharged() -> None:
    """ana runs RESIZE and was sent MAIL when she goes. Both wait again with nothing charged; it is no failure."""
    log = with_nodes(ANA, BEN)
    log.apply(submit(RESIZE), submit(MAIL), grant(RESIZE, ANA), grant(MAIL, ANA))
    log.apply(StartTask(RESIZE, FencingToken(2)))
    left = log.apply(LeaveNode(ANA, 1))
    assert kinds(left) == ["node_left", "task_released", "task_released"]
    assert left.ended == [EndedLease(ANA, RESIZE, FencingToken(2)), EndedLease(ANA, MAIL, FencingToken(2))]
    assert [log.ledger.tasks[name].attempts for name in (RESIZE, MAIL)] == [0, 0]
    assert log.ledger.nodes[ANA] == NodeRecord(ANA, 1, active=False, left=True)
    assert left.nodes_changed


def test_who_left_is_back_only_as_another_life() -> None:
    log = with_nodes(ANA)
    log.apply(LeaveNode(ANA, 1))
    again = log.apply(LeaveNode(ANA, 1), LeaveNode(NodeId("nobody"), 1), FailNode(ANA, 1, "silent"), AdmitNode(ANA, 1))
    assert list(again.outcomes) == [ALREADY, UNKNOWN, ALREADY, ALREADY]
    back = log.apply(AdmitNode(ANA, 2), LeaveNode(ANA, 1))
    assert (kinds(back), list(back.outcomes)) == (["node_recovered"], [DONE, ALREADY])
    assert log.ledger.nodes[ANA] == NodeRecord(ANA, 2)
