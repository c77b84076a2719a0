"""A node that slept judges nobody by the time it slept through (issue 2, 3; S0-13)."""

import pytest

from mesh.documents import EventPage
from mesh.events import DeadlineReached
from mesh.gossip.members import Health
from mesh.messages import Accepted, Code, PreVote, Question, Vote
from tests.node.client import spec
from tests.node.trio import ALL, ANA, BEN, EVA, settled


@pytest.mark.parametrize("timers_first", [True, False])
def test_a_node_that_overslept_judges_nobody(timers_first: bool) -> None:
    """eva is stopped for 20 s. When she wakes, nobody fails in her eyes, and she starts no election.

    Whether she sees her timer first or what waits to be read is up to her event loop.
    """
    trio = settled()
    trio.pause(EVA)
    trio.run(20_000)
    trio.said.clear()
    trio.resume(EVA, timers_first=timers_first)
    seen = [trio[EVA].node.detector.member(name) for name in (ANA, BEN)]
    assert [(member.health, member.failure_count) for member in seen if member] == [(Health.HEALTHY, 0)] * 2
    assert trio[EVA].node.counters["late"] >= 1
    trio.run(3_000)
    assert trio.messages(PreVote) + trio.messages(Vote) == []
    assert (trio.leader.name, trio[EVA].node.raft.leader_id) == (ANA, ANA)


@pytest.mark.parametrize("timers_first", [True, False])
def test_a_machine_that_was_suspended_with_all_its_nodes_loses_no_lease(timers_first: bool) -> None:
    """The lid is closed for an hour, just as all have beaten. ana finds ben's heartbeat, and does not give eva up."""
    trio = settled()
    trio.client(ANA).submit(spec("t1"), spec("t2"), spec("t3"))
    trio.run(20)
    for name, task in zip(ALL, ("t1", "t2", "t3"), strict=True):
        trio.begins(name, task, 4)
    trio.run(20)
    before = [trio[name].node._sequence for name in ALL]
    while [trio[name].node._sequence for name in ALL] == before:
        trio.run(1)
    for name in ALL:
        trio.pause(name)
    trio.run(3_600_000)
    for name in ALL:
        trio.resume(name, timers_first=timers_first)
    trio.run(10_000)
    assert [host.runs for host in trio.hosts.values()] == [[("t1", 4)], [("t2", 4)], [("t3", 4)]]
    assert [host.stopped for host in trio.hosts.values()] == [[], [], []]
    events = trio.client(BEN).now(Question.EVENTS, EventPage, limit=1_000).events
    assert [line for line in events if line.event == "node_failed"] == []


def test_a_leader_that_overslept_does_not_serve_before_it_knows_that_it_still_leads() -> None:
    """ana is stopped for 5 s and ben leads by then. What a client asks her first is not answered from her table."""
    trio = settled()
    trio.client(ANA).submit(spec("t1"))
    trio.run(20)
    trio.pause(ANA)
    trio.run(5_000)
    assert trio[BEN].node.leading.dispatcher.in_office
    client = trio.client(BEN)
    client.submit(spec("t2"))
    trio.run(20)
    assert client.told(Accepted) != []
    trio[ANA].is_paused = False
    trio[ANA].inbox.clear()  # All of it was lost on the way.
    late = trio.client(ANA)
    asked = late.ask(Question.TASKS, ends_turn=False)
    late.submit(spec("t2", payload=b"\x02"))
    trio.feed(ANA, DeadlineReached())
    assert late.answers(asked) == []
    trio.run(1_000)
    assert [code for code, _ in late.answers(asked)] in ([], [Code.UNAVAILABLE])
    assert late.told(Accepted) == []
    assert trio.leader.name == BEN


@pytest.mark.parametrize(("late_ms", "is_late"), [(100, False), (101, True)])
def test_a_timer_a_little_late_is_no_sleep(late_ms: int, is_late: bool) -> None:
    """lateness_ms_max is 100."""
    trio = settled()
    node = trio[EVA].node
    node.handle(DeadlineReached(), node.next_deadline_ms() + late_ms)
    assert ("late" in node.counters) is is_late
