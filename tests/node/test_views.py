"""What people see of scheduling, document by document, as the contract has them (S4-02, S4-15 to S4-18)."""

from typing import Any

import pytest

from mesh.config import DispatchConfig
from mesh.documents import (
    Agents,
    AgentView,
    BreakerView,
    CapabilityQueue,
    Crons,
    CronView,
    DeadLetterGroup,
    DeadLetterGroups,
    Queues,
)
from mesh.events import AgentsReady, MachineMeasured
from mesh.ids import NodeId, TaskId
from mesh.ledger.settings import Strategy
from mesh.messages import Action, Code, Question
from mesh.node import sweeps, views
from mesh.options import CatchUp, CronSpec, Overlap
from mesh.wire.codec import encode
from tests.node.client import EPOCH_MS, Client, spec
from tests.node.trio import ALL, ANA, BEN, EVA, Trio, settled


def ordered(trio: Trio, client: Client, action: Action, target: str = "", value: Any = None, reason: str = "") -> None:
    asked = client.order(action, target, reason=reason, value=b"" if value is None else encode(value))
    trio.run(20)
    assert client.answers(asked) == [(Code.OK, "done")]


# --- queues ---


def test_queues_when_nothing_waits() -> None:
    trio = settled(dispatch=DispatchConfig(queued_max=50))
    queues = trio.client(BEN).now(Question.QUEUES, Queues)
    assert queues == Queues(queues=[], by_priority={}, live=0, live_max=50, dead=0, dead_max=100_000)


@pytest.mark.parametrize("stale", [False, True])
def test_queues_in_all_their_fields(stale: bool) -> None:
    """Three run, and of five more two wait for a slot, one for its time, one for nobody; one is a dead letter. Any node
    counts them, ben as well.
    """
    trio = settled(slots=1, capabilities=("code", "search"))
    client = trio.client(BEN)
    client.submit(spec("d1", attempts_max=1), watch=False)
    trio.run(20)
    trio.ends(ANA, "d1", 4, error="no")
    trio.run(20)
    client.submit(spec("r1"), spec("r2"), spec("r3", capability="search"), watch=False)
    trio.run(20)
    came_ms = trio.now_ms
    client.submit(
        spec("w1"),
        spec("w2", priority=0),
        spec("s1", after_ms=90_000),
        spec("n1", priority=-3, capability="nobody"),
        watch=False,
    )
    trio.run(1_000)
    ordered(trio, client, Action.PAUSE, "search", reason="quota")
    ordered(trio, client, Action.PAUSE, "video", trio.now_ms + EPOCH_MS + 5_000)
    queues = client.now(Question.QUEUES, Queues, stale=stale)
    waits_ms = queues.queues[0].oldest_wait_ms
    assert 1_000 <= waits_ms <= trio.now_ms - came_ms
    assert queues == Queues(
        queues=[
            CapabilityQueue("code", 3, 2, waits_ms),
            CapabilityQueue("nobody", 1, 0, waits_ms),
            CapabilityQueue("search", 0, 1, 0, paused=True, reason="quota"),
            CapabilityQueue(
                "video", 0, 0, 0, paused=True, paused_until=trio.leader.node.ledger.pauses["video"].until_ms
            ),
        ],
        by_priority={-3: 1, 0: 1, 5: 2},
        live=8,
        live_max=1_000_000,
        dead=1,
        dead_max=100_000,
    )
    trio.run(5_000)
    assert [queue.capability for queue in client.now(Question.QUEUES, Queues, stale=stale).queues] == [
        "code",
        "nobody",
        "search",
    ]


def test_the_oldest_is_who_came_first() -> None:
    """They are looked through in no order; t1 came 500 ms before t0, and the latest has been in memory for longest."""
    trio = settled()
    client = trio.client(ANA)
    for name in ("t1", "t0", "t2"):
        client.submit(spec(name, capability="nobody"), watch=False)
        trio.run(500)
    [queue] = client.now(Question.QUEUES, Queues).queues
    assert (queue.waiting, queue.oldest_wait_ms) == (3, 1_502)


def test_very_many_queues_are_shown_in_part_and_counted_over_several_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients name as many as they like. What of one that is shown comes later is counted."""
    monkeypatch.setattr(views, "QUEUES_SHOWN_MAX", 3)
    monkeypatch.setattr(sweeps, "SLICE", 2)
    trio = settled()
    client = trio.client(ANA)
    client.submit(*(spec(f"t{number}", capability=f"c{number % 5}") for number in range(10)), watch=False)
    trio.run(20)
    asked = client.ask(Question.QUEUES)
    trio.run(20)
    queues = client.document(asked, Queues)
    assert [(queue.capability, queue.waiting) for queue in queues.queues] == [("c1", 2), ("c3", 2), ("c4", 2)]
    assert (queues.by_priority, queues.live) == ({5: 6}, 10)


def test_no_more_sweeps_for_questions_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "WAITING_MAX", 0)
    trio = settled()
    client = trio.client(ANA)
    for question in (Question.QUEUES, Question.DEAD_LETTER_GROUPS):
        asked = client.ask(question)
        trio.run(20)
        assert client.answers(asked) == [(Code.BACKPRESSURE, "too many sweeps wait; try again")]


# --- agents ---


def agent(name: NodeId, **fields: Any) -> AgentView:
    usual: dict[str, Any] = {
        "id": name,
        "address": f"{name}:7000",
        "type": "general",
        "status": "active",
        "health": "healthy",
        "health_score": 1.0,
        "causes": [],
        "capabilities": ["code"],
        "labels": {"node": name, "type": "general"},
        "slots": 4,
        "running": 0,
        "cpu": 0.0,
        "memory": 0.0,
        "versions": {},
        "breakers": [],
        "mean_ms": {},
    }
    return AgentView(**usual | fields)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("stale", [False, True])
def test_agents_in_all_their_fields(name: NodeId, stale: bool) -> None:
    """S4-17, S4-18: what each is for, what it can do, how busy it is. Whoever does not lead knows as much by gossip."""
    apart = {EVA: {"slots": 1, "kind": "worker", "labels": (("zone", "a"),)}}
    trio = settled(apart=apart)
    trio.feed(EVA, AgentsReady(("video", "code"), (("code", "1.2"),)))
    trio.feed(EVA, MachineMeasured(950, 960))
    trio.run(2_000)
    client = trio.client(name)
    client.submit(spec("v1", capability="video"), watch=False)
    trio.run(100)
    assert client.now(Question.AGENTS, Agents, stale=stale) == Agents(
        strategy="least_connections",
        agents=[
            agent(ANA),
            agent(BEN),
            agent(
                EVA,
                type="worker",
                status="busy",
                health_score=0.75,
                causes=["its processors are 95 % busy (-0.10)", "its memory is 96 % full (-0.15)"],
                capabilities=["code", "video"],
                labels={"zone": "a", "node": "eva", "type": "worker"},
                slots=1,
                running=1,
                cpu=0.95,
                memory=0.96,
                versions={"code": "1.2"},
            ),
        ],
    )


def test_status_of_an_agent_comes_from_health_and_load() -> None:
    """S4-16: ben drains; eva misses a heartbeat, and then too many. Whoever was never heard of has no address but the
    one it was founded with.
    """
    trio = settled()
    client = trio.client(ANA)
    ordered(trio, client, Action.DRAIN, "ben")
    trio.cut(EVA)
    trio.run(1_700)
    shown = client.now(Question.AGENTS, Agents).agents
    assert [(view.status, view.health) for view in shown] == [
        ("active", "healthy"),
        ("inactive", "healthy"),
        ("stale", "degraded"),
    ]
    assert (shown[2].health_score, shown[2].causes) == (0.75, ["1 heartbeats missed (-0.25)"])
    trio.run(2_000)
    shown = client.now(Question.AGENTS, Agents).agents
    assert (shown[2].status, shown[2].health, shown[2].health_score, shown[2].causes) == (
        "inactive",
        "failed",
        0.0,
        ["it has failed"],
    )


def test_who_led_before_shows_what_gossip_tells_now() -> None:
    """ana led while nobody could search, and leads no more when eva can."""
    trio = settled()
    client = trio.client(ANA)
    client.order(Action.TRANSFER, "ben")
    trio.run(100)
    assert trio.leader.name == BEN
    trio.feed(EVA, AgentsReady(("code", "search")))
    trio.run(20)
    shown = client.now(Question.AGENTS, Agents, stale=True).agents
    assert [view.capabilities for view in shown] == [["code"], ["code"], ["code", "search"]]


def test_the_strategy_is_shown_by_name() -> None:
    """S4-21, S4-22."""
    trio = settled()
    client = trio.client(BEN)
    for strategy in Strategy:
        client.order(Action.SET, "strategy", value=encode(int(strategy)))
        trio.run(20)
        assert client.now(Question.AGENTS, Agents).strategy == strategy.name.lower()


def test_a_breaker_goes_through_its_states() -> None:
    """S2-22: closed with a failure on it, open, and half-open when its time has come, though nothing else happened."""
    trio = settled()
    client = trio.client(ANA)
    for name in ("ben", "eva"):
        ordered(trio, client, Action.DRAIN, name)
    ordered(trio, client, Action.SET, "breaker_failures", 2)
    shown: list[list[BreakerView]] = []
    for name in ("t1", "t2"):
        client.submit(spec(name, attempts_max=1), watch=False)
        trio.run(20)
        trio.ends(ANA, *trio[ANA].node.holding.attempts.held()[0], error="no")
        trio.run(20)
        shown.append(client.now(Question.AGENTS, Agents).agents[0].breakers)
    until_ms = trio.leader.node.ledger.at_ms + 60_000
    trio.run(60_000)
    shown.append(client.now(Question.AGENTS, Agents).agents[0].breakers)
    assert shown == [
        [BreakerView("code", "closed", 1)],
        [BreakerView("code", "open", 2, until_ms)],
        [BreakerView("code", "half_open", 2, until_ms)],
    ]
    assert [view.breakers for view in client.now(Question.AGENTS, Agents).agents[1:]] == [[], []]


def test_how_long_tasks_take_is_measured_now_and_then() -> None:
    """One in 16 is timed, by the leader of the day."""
    trio = settled(slots=16)
    client = trio.client(ANA)
    for name in ("ben", "eva"):
        ordered(trio, client, Action.DRAIN, name)
    client.submit(*(spec(f"t{number:02}") for number in range(16)), watch=False)
    trio.run(500)
    for task, token in list(trio[ANA].runs):
        trio.ends(ANA, task, token)
    trio.run(20)
    shown = client.now(Question.AGENTS, Agents).agents[0]
    assert (list(shown.mean_ms), shown.mean_ms["code"] // 100) == (["code"], 5)


# --- schedules ---


def test_schedules_in_all_their_fields() -> None:
    """In order of name. One that is paused is due never; one that has fired has a last task."""
    trio = settled()
    client = trio.client(BEN)
    crons = (
        CronSpec("z", "@every 10s", "code", b"\x01", overlap=Overlap.SKIP),
        CronSpec(
            "a",
            "0 * * * *",
            "video",
            b"\x01",
            zone="Europe/Berlin",
            overlap=Overlap.QUEUE_ONE,
            catch_up=CatchUp.ALL,
            is_paused=True,
        ),
    )
    for cron in crons:
        ordered(trio, client, Action.SET_CRON, value=cron)
    trio.run(20_000)
    fired = trio.leader.node.ledger.crons["z"].last_task
    assert client.now(Question.CRONS, Crons) == Crons(
        [
            CronView(
                name="a",
                expression="0 * * * *",
                zone="Europe/Berlin",
                capability="video",
                next=None,
                overlap="queue_one",
                catch_up="all",
                paused=True,
                fired=0,
                skipped=0,
                last_task=None,
            ),
            CronView(
                name="z",
                expression="@every 10s",
                zone="UTC",
                capability="code",
                next=1_030_000,
                overlap="skip",
                catch_up="one",
                paused=False,
                fired=1,
                skipped=1,
                last_task="z@1010000",
            ),
        ]
    )
    assert fired == "z@1010000"


# --- dead letters ---


def buried(trio: Trio, client: Client, *deaths: tuple[str, str, str]) -> None:
    """Tasks that die, one after another: id, capability, error."""
    for name, capability, error in deaths:
        client.submit(spec(name, capability=capability, attempts_max=1), watch=False)
        trio.run(20)
        task = trio.leader.node.ledger.tasks[TaskId(name)]
        trio.ends(task.node_id, name, task.token, error=error)
        trio.run(20)


def test_dead_letters_by_what_they_died_of() -> None:
    """S0-06: numbers do not tell errors apart, and only the first line counts; those that are most come first."""
    trio = settled(capabilities=("code", "search"))
    client = trio.client(BEN)
    buried(
        trio,
        client,
        ("a", "code", "KeyError: 'x'"),
        ("b", "code", "Timeout after 17 s on port 80\nsecond line"),
        ("c", "search", "Timeout after 3 s on port 8080"),
        ("d", "code", "Timeout after 4 s on port 81"),
        ("e", "code", "E" * 300),
    )
    client.submit(spec("lives"), watch=False)
    trio.run(20)
    died = {str(name): task.finished_at_ms for name, task in trio.leader.node.ledger.tasks.items()}
    assert client.now(Question.DEAD_LETTER_GROUPS, DeadLetterGroups) == DeadLetterGroups(
        [
            DeadLetterGroup("code", "Timeout after # s on port #", 2, died["b"], died["d"], "d"),
            DeadLetterGroup("code", "E" * 200, 1, died["e"], died["e"], "e"),
            DeadLetterGroup("code", "KeyError: 'x'", 1, died["a"], died["a"], "a"),
            DeadLetterGroup("search", "Timeout after # s on port #", 1, died["c"], died["c"], "c"),
        ]
    )


def test_the_latest_is_the_example_whatever_the_order_they_are_found_in() -> None:
    """b died last, though a came to be a dead letter later in the table's own order."""
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("b", attempts_max=1), spec("a", attempts_max=1), watch=False)
    trio.run(20)
    for name in ("a", "b"):
        task = trio.leader.node.ledger.tasks[TaskId(name)]
        trio.ends(task.node_id, name, task.token, error="no")
        trio.run(20)
    died = {str(name): task.finished_at_ms for name, task in trio.leader.node.ledger.tasks.items()}
    assert client.now(Question.DEAD_LETTER_GROUPS, DeadLetterGroups).groups == [
        DeadLetterGroup("code", "no", 2, died["a"], died["b"], "b")
    ]


def test_very_many_kinds_of_death_are_shown_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "GROUPS_MAX", 1)
    trio = settled()
    client = trio.client(BEN)
    buried(trio, client, ("a", "code", "one"), ("b", "code", "two"), ("c", "code", "one"))
    [group] = client.now(Question.DEAD_LETTER_GROUPS, DeadLetterGroups).groups
    assert (group.error, group.count) == ("one", 2)


def test_an_unknown_question_is_invalid() -> None:
    trio = settled()
    client = trio.client(BEN)
    asked = client.ask(99)
    trio.run(20)
    assert client.answers(asked) == [(Code.INVALID, "unknown question 99")]
