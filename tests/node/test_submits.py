"""Submits, at any node: accepted once, by whoever leads; refused for a reason; never both (S0-22, S0-10).

Issue 2, items 4 and 9, and its "bad input".
"""

import pytest

from mesh.config import PAYLOAD_BYTES_MAX, DispatchConfig
from mesh.events import ClientGone
from mesh.ids import LogIndex, NodeId, TaskId
from mesh.ledger.task import COMPLETED, DEAD
from mesh.messages import (
    Accepted,
    Append,
    Code,
    Forward,
    Grants,
    LeaderHint,
    Question,
    Relay,
    SubmitTasks,
    TaskEnd,
    TaskRefusal,
    TasksEnded,
    TaskSpec,
    TasksRefused,
)
from mesh.node.clients import NO_LEADER, NOT_SERVING
from mesh.node.requests import conflict
from mesh.wire.codec import encode
from tests.node.client import Client, spec
from tests.node.trio import ALL, ANA, BEN, EVA, settled

T1 = TaskId("t1")


def accepted(client: Client) -> list[tuple[int, list[str]]]:
    return [(reply.index, list(reply.task_ids)) for reply in client.told(Accepted)]


def refused(client: Client) -> list[tuple[str, int]]:
    return [(each.task_id, each.code) for reply in client.told(TasksRefused) for each in reply.refusals]


@pytest.mark.parametrize("name", ALL)
def test_any_node_takes_a_submit_and_tells_its_end(name: NodeId) -> None:
    """S0-01, S0-22: the client talks to one node, ana leads and happens to run it; the same answers come back."""
    trio = settled()
    client = trio.client(name)
    client.submit(spec("t1"))
    trio.run(20)
    assert trio[ANA].runs == [("t1", 4)]
    trio.ends(ANA, "t1", 4)
    trio.run(20)
    assert client.heard == [
        LeaderHint(trio[name].node.raft.term, ANA, "ana:7000"),
        Accepted(LogIndex(4), [T1]),
        TasksEnded([TaskEnd(T1, COMPLETED, encode("t1"), "", "", ANA, 1)]),
    ]
    forwards = [] if name == ANA else [Forward(client.abroad, encode(SubmitTasks(True, [spec("t1")])))]
    assert trio.messages(Forward) == forwards


def test_accepted_means_that_a_quorum_has_it_on_disk() -> None:
    """S0-10: ana's disk has it, ben's and eva's hang: nothing is said until one of them has synced."""
    trio = settled()
    trio[BEN].is_disk_stuck = trio[EVA].is_disk_stuck = True
    client = trio.client(ANA)
    client.submit(spec("t1"))
    trio.run(200)
    assert accepted(client) == []
    trio.sync(BEN)
    trio.run(5)
    assert accepted(client) == [(4, ["t1"])]


def test_the_leaders_own_disk_may_be_the_slow_one() -> None:
    """Two followers are a quorum; but what ana applies is on her own disk as well, so she waits for it."""
    trio = settled()
    trio[ANA].is_disk_stuck = True
    client = trio.client(BEN)
    client.submit(spec("t1"))
    trio.run(200)
    assert trio[BEN].node.ledger.applied_index == 4
    assert accepted(client) == []
    trio.sync(ANA)
    trio.run(5)
    assert accepted(client) == [(4, ["t1"])]


def test_submitting_the_same_again_is_answered_as_the_first_time() -> None:
    """S0-11: on its way, live, finished in memory, and finished and on disk: one task, and each time `accepted`."""
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("t1"))
    client.submit(spec("t1"))
    trio.run(20)
    client.submit(spec("t1"))
    trio.run(20)
    assert accepted(client) == [(4, ["t1"]), (4, ["t1"])]
    trio.ends(ANA, "t1", 4)
    trio.run(20)
    assert client.told(TasksEnded) == [TasksEnded([TaskEnd(T1, COMPLETED, encode("t1"), "", "", ANA, 1)])]
    for wait_ms in (0, 2_000):
        trio.run(wait_ms)
        again = trio.client(EVA)
        again.submit(spec("t1"))
        trio.run(20)
        assert accepted(again) == [(5, ["t1"])]
        assert again.told(TasksEnded) == [TasksEnded([TaskEnd(T1, COMPLETED, encode("t1"), "", "", ANA, 1)])]
    assert [host.runs for host in trio.hosts.values()] == [[("t1", 4)], [], []]


def test_two_clients_submit_the_same_task_at_once() -> None:
    """Both are told that it is accepted, and both hear of its end; nobody hears twice, though one asked twice."""
    trio = settled()
    clients = [trio.client(ANA), trio.client(BEN)]
    for client in (*clients, clients[0]):
        client.submit(spec("t1"))
    trio.run(20)
    trio.ends(ANA, "t1", 4)
    trio.run(20)
    for client in clients:
        assert accepted(client)[0] == (4, ["t1"])
        assert len(client.told(TasksEnded)) == 1
    assert trio[ANA].runs == [("t1", 4)]


@pytest.mark.parametrize("other", [spec("t1", payload=b"\x02"), spec("t1", capability="search")])
def test_the_same_id_with_another_task_is_a_conflict(other: TaskSpec) -> None:
    """Live or finished, the id is taken. Priority and attempts do not make another task."""
    trio = settled()
    trio.client(ANA).submit(spec("t1"))
    trio.run(20)
    for _ in range(2):
        client = trio.client(BEN)
        client.say(SubmitTasks(False, [other]))
        trio.run(20)
        assert client.told(TasksRefused) == [TasksRefused([conflict(T1)])]
        trio.ends(ANA, "t1", 4)
        trio.run(20)
    client = trio.client(BEN)
    client.submit(spec("t1", priority=1, attempts_max=7))
    trio.run(20)
    assert accepted(client) == [(6, ["t1"])]


def test_two_tasks_under_one_id_at_once() -> None:
    """Which of the two will have the id is not known yet: the second is told to ask again; then it is a conflict."""
    trio = settled()
    ana, ben = trio.client(ANA), trio.client(ANA)
    ana.submit(spec("t1"))
    ben.submit(spec("t1", payload=b"\x02"))
    text = "another task with id 't1' is being accepted; try again to learn whether it was"
    assert ben.told(TasksRefused) == [TasksRefused([TaskRefusal(T1, Code.BACKPRESSURE, text, 500)])]
    trio.run(20)
    assert (accepted(ana), accepted(ben)) == ([(4, ["t1"])], [])
    ben.submit(spec("t1", payload=b"\x02"))
    assert ben.told(TasksRefused)[1:] == [TasksRefused([conflict(T1)])]


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (spec(""), "a task id has 1 to 200 characters, this one 0"),
        (spec("x" * 201), "a task id has 1 to 200 characters, this one 201"),
        (spec("t", capability=""), "a capability has 1 to 200 characters, this one 0"),
        (spec("t", capability="x" * 201), "a capability has 1 to 200 characters, this one 201"),
        (
            spec("t", payload=bytes(PAYLOAD_BYTES_MAX + 1)),
            "the payload takes 1048577 bytes; 1048576 at most travel inline",
        ),
        (
            spec("t", checkpoint=bytes(PAYLOAD_BYTES_MAX + 1)),
            "the checkpoint takes 1048577 bytes; 1048576 at most travel inline",
        ),
        (spec("t", attempts_max=0), "max_attempts is 1 to 1000, not 0"),
        (spec("t", attempts_max=1_001), "max_attempts is 1 to 1000, not 1001"),
        (spec("t", priority=-1_000_001), "a priority lies between -1000000 and 1000000, not -1000001"),
        (spec("t", priority=1_000_001), "a priority lies between -1000000 and 1000000, not 1000001"),
    ],
)
def test_what_cannot_be_a_task_is_refused_with_one_sentence(task: TaskSpec, why: str) -> None:
    """The good one beside it is accepted."""
    trio = settled()
    client = trio.client(BEN)
    client.say(SubmitTasks(True, [spec("good"), task]))
    trio.run(20)
    [refusal] = [refusal for reply in client.told(TasksRefused) for refusal in reply.refusals]
    assert (refusal.code, refusal.message) == (Code.INVALID, why)
    assert accepted(client) == [(4, ["good"])]


def test_the_mesh_is_full_at_queued_max() -> None:
    """S0-12: two live tasks are all it holds, dead letters included; a third has its turn when one has ended."""
    trio = settled(dispatch=DispatchConfig(queued_max=2))
    client = trio.client(BEN)
    client.submit(spec("t1"), spec("dead", attempts_max=1), spec("t3"), watch=False)
    trio.run(20)
    text = "the mesh holds 2 tasks, its limit; try again later"
    assert client.told(TasksRefused) == [TasksRefused([TaskRefusal(TaskId("t3"), Code.BACKPRESSURE, text, 500)])]
    trio.ends(BEN, "dead", 4, error="no")
    trio.run(20)
    assert trio[ANA].node.ledger.tasks[TaskId("dead")].state == DEAD
    client.submit(spec("t3"))
    trio.run(20)
    assert refused(client) == [("t3", Code.BACKPRESSURE)] * 2
    trio.ends(ANA, "t1", 4)
    trio.run(20)
    client.submit(spec("t3"))
    trio.run(20)
    assert accepted(client) == [(4, ["t1", "dead"]), (7, ["t3"])]


def test_no_more_clients_wait_than_waiting_max() -> None:
    """ana's disk hangs and submits pile up: the third is refused. One that waits already may ask again."""
    trio = settled(dispatch=DispatchConfig(waiting_max=2))
    trio[ANA].is_disk_stuck = True
    client = trio.client(ANA)
    client.submit(spec("t1"), spec("t2"), spec("t3"))
    assert refused(client) == [("t3", Code.BACKPRESSURE)]
    client.submit(spec("t2"))
    assert refused(client) == [("t3", Code.BACKPRESSURE)]
    trio.sync(ANA)
    trio.run(20)
    assert accepted(client) == [(4, ["t1", "t2"])]


def test_unavailable_means_that_it_will_never_be_in_the_log() -> None:
    """No quorum: ben, who knows no leader, refuses at once. When all is well again the task is nowhere."""
    trio = settled()
    trio.kill(ANA)
    trio.kill(EVA)
    trio.run(3_000)
    client = trio.client(BEN)
    client.submit(spec("t1"))
    assert client.told(TasksRefused) == [TasksRefused([TaskRefusal(T1, Code.UNAVAILABLE, NO_LEADER)])]
    client.watch("t1")
    trio.start(ANA)
    trio.start(EVA)
    trio.run(4_000)
    for host in trio.hosts.values():
        assert host.node.ledger.is_same(spec("t1")) is None
    assert accepted(client) == []


def test_a_submit_forwarded_to_a_leader_that_is_none_any_more_is_refused_for_good() -> None:
    """ben still thinks that ana leads; she has just lost her quorum."""
    trio = settled()
    trio.cut(ANA, EVA)
    trio.lose(Append)
    trio.run(600)
    assert trio[ANA].node.raft.leader_id is None
    client = trio.client(BEN)
    trio.tell(ANA, BEN, Forward(client.abroad, encode(SubmitTasks(True, [spec("t1")]))))
    [relay] = trio.messages(Relay, sender=ANA, to=BEN)
    refusal = TaskRefusal(T1, Code.UNAVAILABLE, NOT_SERVING)
    assert relay == Relay(client.abroad, encode(TasksRefused([refusal])))
    trio.heal()
    trio.run(4_000)
    assert trio[ANA].node.ledger.is_same(spec("t1")) is None


def test_a_leader_that_loses_office_says_nothing_of_submits_on_their_way() -> None:
    """ana has sent the entry nowhere yet and is cut off: she cannot know. The client asks ben under the same id."""
    trio = settled()
    trio.cut(ANA)
    client = trio.client(ANA)
    client.submit(spec("t1"))
    trio.run(5_000)
    assert (accepted(client), refused(client)) == ([], [])
    elsewhere = trio.client(EVA)
    elsewhere.submit(spec("t1"))
    trio.run(20)
    trio.heal()
    trio.run(4_000)
    assert [ids for _, ids in accepted(elsewhere)] == [["t1"]]
    assert (accepted(client), refused(client)) == ([], [])


def test_an_entry_of_a_deposed_leader_may_yet_be_committed_and_is_then_the_same_task() -> None:
    """ana's entry reached the others and she died before anybody was told. Asked again, her successor has it."""
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("t1"))
    trio.run(2)
    trio.kill(ANA)
    trio.run(100)
    assert trio.leader.node.ledger.is_same(spec("t1"))
    assert accepted(client) == []
    client.submit(spec("t1"))
    trio.run(20)
    [(_, ids)] = accepted(client)
    assert ids == ["t1"]
    trio.run(1_000)
    assert [task for task, _ in trio[BEN].runs + trio[EVA].runs] == ["t1"]  # It was granted to ana.


def test_submits_gathered_in_a_turn_in_which_office_is_lost_get_no_answer() -> None:
    """The deadline that deposes ana comes in the very turn the submit came in."""
    trio = settled()
    trio.cut(ANA)
    trio.run(306)
    client = trio.client(ANA)
    client.say(SubmitTasks(True, [spec("t1")]), ends_turn=False)
    asked = client.ask(Question.STATUS, ends_turn=False)
    assert trio[ANA].node.raft.serving
    trio.run(1)
    assert not trio[ANA].node.raft.serving
    assert client.answers(asked) == [(Code.UNAVAILABLE, NOT_SERVING)]
    trio.run(100)
    assert (accepted(client), refused(client)) == ([], [])


def test_a_watched_task_that_dies_is_told_with_its_error() -> None:
    """S0-14: the last attempt fails; the end says why, where, and after how many."""
    trio = settled()
    client = trio.client(EVA)
    client.submit(spec("t1", attempts_max=1))
    trio.run(20)
    trio.ends(ANA, "t1", 4, error="ValueError: no")
    trio.run(20)
    assert client.told(TasksEnded) == [TasksEnded([TaskEnd(T1, DEAD, b"", "ValueError: no", "Traceback", ANA, 1)])]


def test_grants_too_large_for_one_message_are_sent_in_several() -> None:
    """S0-29: nine payloads of 600 kB for three nodes. A message carries about 1 MiB; a larger thing travels alone."""
    trio = settled(slots=3)
    client = trio.client(ANA)
    client.submit(*(spec(f"t{number}", payload=bytes(600_000)) for number in range(9)))
    trio.run(100)
    assert [len(host.runs) for host in trio.hosts.values()] == [3, 3, 3]
    assert [len(grants.orders) for grants in trio.messages(Grants)] == [1] * 6


def test_a_client_that_left_is_told_nothing_and_remembered_nowhere() -> None:
    """ben's client is gone before the answer, which falls on the floor; the task runs all the same."""
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("t1"))
    trio.feed(BEN, ClientGone(client.number))
    trio.feed(BEN, ClientGone(client.number))
    assert trio[BEN].node.clients.known == {}
    trio.run(20)
    assert trio[ANA].runs == [("t1", 4)]


def test_no_more_entries_are_on_their_way_than_allowed() -> None:
    """Two may be. The followers are silent; what five turns bring shares the third, once there is room for it."""
    trio = settled(dispatch=DispatchConfig(entries_in_flight_max=2))
    trio.lose(Append)
    client = trio.client(ANA)
    for name in ("a", "b", "c", "d", "e"):
        client.submit(spec(name), watch=False)
    raft = trio[ANA].node.raft
    assert (raft.commit_index, raft.last_index) == (3, 5)
    trio.heal()
    trio.run(200)
    assert accepted(client) == [(4, ["a"]), (5, ["b"]), (6, ["c", "d", "e"])]
