"""ben waits for the end of a task, whoever leads (CONTRACT: a client survives the death of the peer it talks to)."""

from mesh import events
from mesh.events import LinkDown
from mesh.ids import TaskId
from mesh.ledger.task import COMPLETED
from mesh.messages import LeaderHint, SubmitTasks, TasksEnded, TaskSpec, WatchTasks
from mesh.raft.replica import Role
from mesh.wire.codec import encode
from tests.node.cast import ANA, BEN, CLIENT, EVA, Stage


def test_a_watch_that_comes_between_election_and_office_is_kept() -> None:
    """The leader dies. The client hears of the new one the moment it is elected, and asks it, before it serves; the end
    of the task is told all the same, without being asked for again.
    """
    stage = Stage(ANA, BEN, EVA)
    old = stage.leader
    submit = SubmitTasks(False, [TaskSpec(TaskId("t1"), "paint", b"")])
    stage.say(old.node_id, events.ClientMessage(CLIENT, encode(submit)))
    stage.run(20)
    del stage.nodes[old.node_id]
    stage.replies.clear()
    for name in stage.nodes:
        stage.say(name, events.ClientMessage(CLIENT, encode(WatchTasks([]))))
        stage.say(name, LinkDown(old.node_id))

    while not (elected := [node for node in stage.nodes.values() if node.raft.role is Role.LEADER]):
        stage.run(1)
    (new,) = elected
    assert new.leading.dispatcher.in_office is False
    hints = [reply.leader for reply in stage.replies if type(reply) is LeaderHint]
    assert hints[-1] == new.node_id
    stage.say(new.node_id, events.ClientMessage(CLIENT, encode(WatchTasks([TaskId("t1")]))))
    stage.run(100)
    assert stage.leader is new
    stage.say(new.node_id, events.AgentsReady(("paint",)))
    stage.run(100)
    ends = [end for reply in stage.replies if type(reply) is TasksEnded for end in reply.ends]
    assert [(end.task_id, end.state) for end in ends] == [("t1", COMPLETED)]
