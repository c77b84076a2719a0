"""Going of one's own accord: what runs is finished or given back, and nobody is charged for it."""

import msgspec

from mesh.documents import Status
from mesh.effects import Retire
from mesh.events import Leave
from mesh.ids import TaskId
from mesh.ledger.task import COMPLETED, RUNNING
from mesh.messages import Departing, Question
from tests.node.cast import Stage
from tests.node.client import spec
from tests.node.trio import ANA, BEN, EVA, Trio, settled

GONE = Retire(0, "It has left the mesh, as it was told.")


def three_run() -> Trio:
    """t1 runs with ana, t2 with ben, t3 with eva, all under token 4, each charged once."""
    trio = settled()
    trio.client(ANA).submit(spec("t1"), spec("t2"), spec("t3"))
    trio.run(20)
    for name, task in ((ANA, "t1"), (BEN, "t2"), (EVA, "t3")):
        trio.begins(name, task, 4)
    trio.run(20)
    return trio


def admin(trio: Trio) -> dict[str, str]:
    """Under which heading each node is shown, as whoever leads sees it."""
    leader = trio.leader.name
    return {node.id: node.admin for node in trio.client(leader).now(Question.STATUS, Status).nodes}


def test_a_node_that_holds_nothing_goes_at_once() -> None:
    trio = settled()
    trio.feed(BEN, Leave(30_000))
    trio.run(200)
    assert trio[BEN].retired == [GONE]
    assert admin(trio) == {"ana": "active", "ben": "left", "eva": "active"}


def test_what_runs_is_finished_first_and_nothing_new_is_granted() -> None:
    """ben is asked to go while t2 runs. t4 to t9 go to the others; t2 ends 5 s later, and then ben goes."""
    trio = three_run()
    trio.feed(BEN, Leave(30_000))
    trio.run(20)
    trio.client(ANA).submit(*(spec(f"t{number}") for number in range(4, 10)))
    trio.run(5_000)
    assert admin(trio)["ben"] == "draining"
    assert (trio[BEN].retired, trio[BEN].runs) == ([], [("t2", 4)])
    trio.ends(BEN, "t2", 4)
    trio.run(200)
    assert trio[BEN].retired == [GONE]
    task = trio.leader.node.behind.find(TaskId("t2"))
    assert task is None or task.state == COMPLETED
    assert trio.leader.node.ledger.nodes[BEN].failure_count == 0


def test_what_is_not_finished_in_time_is_given_back_uncharged() -> None:
    """t2 runs on. After 2 s it is stopped, and runs elsewhere as if ben had never had it."""
    trio = three_run()
    task = trio.leader.node.ledger.tasks[TaskId("t2")]
    assert (task.state, task.attempts) == (RUNNING, 1)
    trio.feed(BEN, Leave(2_000))
    trio.run(1_900)
    assert trio[BEN].stopped == []
    trio.run(400)
    assert trio[BEN].retired == [GONE]
    assert trio[BEN].stopped == [("t2", 4)]
    task = trio.leader.node.ledger.tasks[TaskId("t2")]
    assert (task.attempts, task.node_id in (ANA, EVA)) == (0, True)
    words = [happening.detail for happening in task.history if happening.detail]
    assert words == ["test", "its node left"]


def test_a_leader_hands_over_before_it_goes() -> None:
    trio = three_run()
    assert trio.leader.name == ANA
    trio.feed(ANA, Leave(30_000))
    trio.run(500)
    successor = trio.leader.name
    assert successor in (BEN, EVA)
    trio.ends(ANA, "t1", 4)
    trio.run(1_500)
    assert trio[ANA].retired == [GONE]
    assert admin(trio)["ana"] == "left"


def test_asked_again_with_less_time_it_goes_sooner_and_never_later() -> None:
    trio = three_run()
    trio.feed(BEN, Leave(30_000))
    trio.feed(BEN, Leave(1_000))
    trio.feed(BEN, Leave(60_000))
    trio.run(1_500)
    assert trio[BEN].retired == [GONE]


def test_a_mesh_that_does_not_answer_is_not_waited_for_long() -> None:
    """ben is cut off when he is asked to go. 2 s after his time is over he goes all the same."""
    trio = three_run()
    trio.cut(BEN)
    trio.feed(BEN, Leave(1_000))
    trio.run(2_900)
    assert trio[BEN].retired == []
    trio.run(200)
    assert trio[BEN].retired == [GONE]
    trio.run(5_000)
    assert trio.leader.node.ledger.nodes[BEN].left is False
    assert trio.leader.node.ledger.nodes[BEN].failure_count == 1


def test_word_of_a_departure_is_heard_once() -> None:
    """Late and doubled, and by a node that does not lead: nothing happens."""
    trio = settled()
    trio.feed(BEN, Leave(30_000))
    trio.run(200)
    applied = trio.leader.node.ledger.applied_index
    for to in (ANA, EVA):
        trio.tell(to, BEN, Departing(1))
    trio.run(200)
    assert trio.leader.node.ledger.applied_index == applied


def test_a_node_that_left_comes_back_as_another_life() -> None:
    """It is not taken for alive again before it is started again."""
    trio = settled()
    trio.feed(BEN, Leave(30_000))
    trio.run(3_000)
    assert admin(trio)["ben"] == "left"
    trio.kill(BEN)
    trio.start(BEN)
    trio.run(4_000)
    record = trio.leader.node.ledger.nodes[BEN]
    assert (record.incarnation, record.active, record.left, record.draining) == (2, True, False, False)
    assert admin(trio)["ben"] == "active"


def test_the_last_of_a_mesh_agrees_to_its_own_departure() -> None:
    """There is nobody to hand over to: what ana is told goes into her own log."""
    stage = Stage(ANA)
    stage.say(ANA, Leave(30_000))
    stage.run(1_000)
    assert stage.retired == [(ANA, GONE)]
    assert stage.nodes[ANA].ledger.nodes[ANA].left


def test_a_release_that_has_no_word_for_it_is_spared_the_command() -> None:
    """eva speaks the protocol before. ben goes; his silence is noticed, and nothing is written that eva cannot read."""
    trio = three_run()
    member = trio.leader.node.detector.member(EVA)
    assert member is not None and member.last is not None
    member.last = msgspec.structs.replace(member.last, protocol=1)
    trio.tell(ANA, BEN, Departing(1))
    trio.run(5)
    assert not trio.leader.node.ledger.nodes[BEN].left


def test_leadership_is_not_handed_to_one_that_goes_as_well() -> None:
    """ana and ben are told to go together. Neither hands over to the other: eva leads in the end."""
    trio = settled()
    for name in (ANA, BEN):
        trio.feed(name, Leave(30_000))
    trio.run(2_500)
    assert trio.leader.name == EVA
    assert [trio[name].retired for name in (ANA, BEN)] == [[GONE], [GONE]]
