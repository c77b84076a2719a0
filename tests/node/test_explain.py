"""Why a task is where it is, in one sentence and a stable word (S4-26, S4-27; S2-21 to S2-23)."""

from typing import Any

import pytest

from mesh.config import DispatchConfig
from mesh.documents import Explanation, HistoryItem, NodeVerdict
from mesh.events import AgentsReady, MachineMeasured
from mesh.ids import NodeId, TaskId
from mesh.messages import Action, Append, Code, Question
from mesh.options import Concurrency, LossPolicy, Options, Rate
from mesh.wire.codec import encode
from tests.node.client import EPOCH_MS, Client, spec
from tests.node.trio import ALL, ANA, BEN, EVA, Trio, settled


def explained(client: Client, name: str = "t1") -> Explanation:
    return client.now(Question.EXPLAIN, Explanation, task_id=name)


def why(client: Client, name: str = "t1") -> tuple[str, str]:
    explanation = explained(client, name)
    return explanation.reason, explanation.summary


def ordered(trio: Trio, client: Client, action: Action, target: str = "", value: Any = None, reason: str = "") -> None:
    asked = client.order(action, target, reason=reason, value=b"" if value is None else encode(value))
    trio.run(20)
    assert client.answers(asked) == [(Code.OK, "done")]


def drained(trio: Trio, client: Client, *names: NodeId) -> None:
    for name in names:
        ordered(trio, client, Action.DRAIN, name)


def test_an_explanation_in_all_its_fields() -> None:
    """t1 was ana's, who was given up under it; now whoever does not drain is full. w2 goes first."""
    trio = settled(slots=1)
    client = trio.client(BEN)
    client.submit(spec("t1"), watch=False)
    trio.run(20)
    client.submit(spec("b1"), spec("e1"), watch=False)
    trio.run(20)
    drained(trio, client, ANA, EVA)
    client.submit(spec("w2", priority=3), watch=False)
    submitted_ms = 3_000 + 2 + EPOCH_MS
    ordered(trio, client, Action.RECOVER, "ana")
    trio.run(2_000)
    explanation = explained(client)
    history = explanation.history
    assert [item.event for item in history] == ["task_submitted", "task_dispatched", "task_lost"]
    assert history[1] == HistoryItem(history[1].at, "task_dispatched", "ana", 0, 4, "")
    assert history[0].at - submitted_ms < 20
    assert explanation == Explanation(
        id="t1",
        state="pending",
        reason="no_free_node",
        summary="1 tasks are before it, and no node is free: ana is draining; "
        "ben is full: 1 of 1 slots taken; eva is draining.",
        position=1,
        next_attempt_at=None,
        nodes=[
            NodeVerdict("ana", False, "is draining", "admin"),
            NodeVerdict("ben", False, "is full: 1 of 1 slots taken", "load"),
            NodeVerdict("eva", False, "is draining", "admin"),
        ],
        history=history,
        rejected={"admin": 2, "load": 1},
        held_back_by=[],
        holders=["ana"],
    )


def test_whoever_held_it_is_named_in_order() -> None:
    """It runs on ana, fails, waits for its time, runs on another, and completes there."""
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("t1"), watch=False)
    trio.run(20)
    assert why(client) == ("running", "It runs on ana (attempt under token 4).")
    trio.begins(ANA, "t1", 4)
    trio.run(100)
    assert explained(client).state == "running"
    trio.ends(ANA, "t1", 4, error="ValueError: no")
    trio.run(20)
    explanation = explained(client)
    assert (explanation.reason, explanation.summary) == ("scheduled", "It waits for its time, after 1 attempts.")
    task = trio.leader.node.ledger.tasks[TaskId("t1")]
    assert explanation.next_attempt_at == task.not_before_ms
    trio.run(1_500)
    holder = task.node_id
    trio.ends(holder, "t1", task.token)
    trio.run(3_000)
    explanation = explained(client)
    assert (explanation.reason, explanation.summary) == ("finished", "It has ended: completed.")
    assert (explanation.holders, explanation.next_attempt_at) == (["ana", holder], None)


def test_a_dead_letter_and_one_that_is_held() -> None:
    """C31: nobody knows how far ana got with h1."""
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("h1", options=Options(on_loss=LossPolicy.HOLD)), spec("d1", attempts_max=1), watch=False)
    trio.run(20)
    [d1, h1] = [trio.leader.node.ledger.tasks[TaskId(name)] for name in ("d1", "h1")]
    trio.ends(d1.node_id, "d1", d1.token, error="ValueError: no")
    trio.begins(h1.node_id, "h1", h1.token)
    trio.run(100)
    holder = h1.node_id
    ordered(trio, client, Action.RECOVER, holder)
    assert why(client, "d1") == ("dead", "It is a dead letter after 1 attempts: ValueError: no")
    error = f"node_lost: {holder} failed while it ran attempt 1"
    assert why(client, "h1") == ("held", f"It is held until somebody says `retry` or `cancel`: {error}")


@pytest.mark.parametrize("name", ALL)
def test_who_does_not_lead_does_not_know_who_is_free(name: NodeId) -> None:
    """Asked for what it has itself; and what waits for its time, or for nobody, it cannot tell either."""
    trio = settled(slots=1)
    client = trio.client(name)
    client.submit(*(spec(f"x{number}") for number in range(3)), spec("t1"), watch=False)
    trio.run(20)
    explanation = client.now(Question.EXPLAIN, Explanation, task_id="t1", stale=True)
    if name == ANA:
        assert (explanation.reason, len(explanation.nodes)) == ("no_free_node", 3)
    else:
        summary = "It waits; which nodes are free for it only the leader knows."
        assert (explanation.reason, explanation.summary, explanation.nodes) == ("waiting", summary, [])


def test_nobody_offers_it() -> None:
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("t1", capability="nobody"), watch=False)
    trio.run(20)
    summary = "No node offers the capability 'nobody'; it waits until one does."
    assert why(client) == ("no_capability", summary)
    explanation = explained(client)
    offers = "does not offer 'nobody' (it offers code)"
    assert explanation.nodes == [NodeVerdict(name, False, offers, "capability") for name in ALL]
    assert explanation.rejected == {"capability": 3}


def test_its_time_has_not_come() -> None:
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("t1", after_ms=60_000), watch=False)
    trio.run(20)
    explanation = explained(client)
    assert (explanation.reason, explanation.summary) == ("scheduled", "It waits for its time, after 0 attempts.")
    assert (explanation.next_attempt_at, explanation.position) == (60_000 + EPOCH_MS, None)


def test_a_node_is_free_and_its_turn_has_come() -> None:
    """Only what is on its way must be written down first: one entry at a time, and the followers are silent."""
    trio = settled(dispatch=DispatchConfig(entries_in_flight_max=1))
    client = trio.client(ANA)
    client.submit(spec("t1", capability="search"), watch=False)
    trio.run(20)
    trio.lose(Append)
    client.submit(spec("other"), watch=False)
    trio.feed(ANA, AgentsReady(("code", "search")))
    explanation = client.now(Question.EXPLAIN, Explanation, task_id="t1", stale=True)
    assert (explanation.reason, explanation.summary) == ("next", "A node is free for it; 0 tasks are before it.")
    assert explanation.nodes[0] == NodeVerdict("ana", True, "fits")


@pytest.mark.parametrize(
    ("options", "held_back"),
    [
        (Options(concurrency=Concurrency("k", 1)), "1 tasks run under concurrency key 'k', 1 may"),
        (Options(rates=(Rate("r", 1, 60_000),)), "rate 'r' (1 in 60000 ms) lets the next one go in 59961 ms"),
    ],
)
def test_it_is_held_back_by_what_is_no_nodes_doing(options: Options, held_back: str) -> None:
    """S2-24: nodes are free, and yet it waits, and says what for."""
    trio = settled()
    client = trio.client(ANA)
    client.submit(spec("first", options=options), watch=False)
    trio.run(20)
    client.submit(spec("t1", options=options), watch=False)
    trio.run(20)
    explanation = explained(client)
    assert (explanation.reason, explanation.held_back_by) == ("held_back", [held_back])
    assert explanation.summary == f"0 tasks are before it, and it is held back: {held_back}."
    assert [verdict.fits for verdict in explanation.nodes] == [True] * 3


def test_a_paused_queue_is_said_with_its_reason_and_how_long_it_lasts() -> None:
    trio = settled()
    client = trio.client(ANA)
    ordered(trio, client, Action.PAUSE, "code", trio.now_ms + EPOCH_MS + 10_000, reason="quota")
    options = Options(concurrency=Concurrency("k", 1))
    client.submit(spec("t1", options=options), spec("s1", after_ms=60_000), watch=False)
    trio.run(20)
    assert explained(client).held_back_by == ["the queue of 'code' is paused for 9958 ms more: quota"]
    scheduled = explained(client, "s1")
    assert (scheduled.reason, len(scheduled.held_back_by)) == ("scheduled", 1)
    ordered(trio, client, Action.PAUSE, "code")
    assert explained(client).held_back_by == ["the queue of 'code' is paused"]
    trio.run(60_000)
    assert explained(client, "s1").reason == "held_back"


def lone(trio: Trio, client: Client) -> None:
    """Only ana is there to be granted anything."""
    drained(trio, client, BEN, EVA)


@pytest.mark.parametrize(
    ("options", "why_not", "filter_name"),
    [
        (Options(require=(("zone", "b"),)), "has zone='a', not 'b'", "labels"),
        (Options(require=(("gpu", "yes"),)), "has gpu='', not 'yes'", "labels"),
        (Options(require=(("type", "provider"),)), "has type='worker', not 'provider'", "type"),
        (Options(avoid=(("zone", "a"),)), "has zone='a', which the task avoids", "labels"),
        (Options(avoid=(("node", "ana"),)), "has node='ana', which the task avoids", "labels"),
        (Options(version="2"), "has version 1 of 'code', not 2", "version"),
    ],
)
def test_what_a_node_lacks_is_said_and_counted_by_name(options: Options, why_not: str, filter_name: str) -> None:
    """S4-26, E.16, E.28."""
    trio = settled(apart={ANA: {"labels": (("zone", "a"),), "kind": "worker"}})
    trio.feed(ANA, AgentsReady(("code",), (("code", "1"),)))
    client = trio.client(BEN)
    lone(trio, client)
    client.submit(spec("t1", options=options), watch=False)
    trio.run(20)
    explanation = explained(client)
    assert explanation.nodes[0] == NodeVerdict("ana", False, why_not, filter_name)
    assert explanation.rejected == {filter_name: 1, "admin": 2}
    assert explanation.summary == (
        f"0 tasks are before it, and no node is free: ana {why_not}; ben is draining; eva is draining."
    )


def test_where_it_sticks_to_is_full() -> None:
    trio = settled(slots=1)
    client = trio.client(BEN)
    options = Options(sticky="run", is_sticky_hard=True)
    client.submit(spec("first", options=options), watch=False)
    trio.run(20)
    client.submit(spec("t1", options=options), watch=False)
    trio.run(20)
    [holder] = [host.name for host in trio.hosts.values() if host.runs]
    explanation = explained(client)
    assert explanation.rejected == {"load": 1, "sticky": 2}
    whys = {verdict.node: verdict.why for verdict in explanation.nodes if verdict.filter == "sticky"}
    assert whys == {name: f"is not {holder}, where tasks with sticky='run' go" for name in ALL if name != holder}


def test_its_breaker_is_open_and_then_tried() -> None:
    """S2-22: t1 waits for 60 s; then it is the probe. While that is out, t2 waits for what comes of it."""
    trio = settled()
    client = trio.client(BEN)
    lone(trio, client)
    ordered(trio, client, Action.SET, "breaker_failures", 1)
    client.submit(spec("bad", attempts_max=1), watch=False)
    trio.run(20)
    [(task, token)] = trio[ANA].runs
    trio.ends(ANA, task, token, error="ValueError: no")
    trio.run(20)
    client.submit(spec("t1"), spec("t2"), watch=False)
    trio.run(20)
    open_word = "its breaker for 'code' is open"
    assert explained(client).nodes[0] == NodeVerdict("ana", False, open_word, "breaker")
    trio.run(60_000)
    assert why(client)[0] == "running"
    half_open = "its breaker for 'code' is half_open"
    assert explained(client, "t2").nodes[0] == NodeVerdict("ana", False, half_open, "breaker")
    assert explained(client, "t2").rejected == {"breaker": 1, "admin": 2}


def test_a_node_that_does_badly_is_left_alone() -> None:
    """S4-31: the least score is set above what ana has with her processors busy."""
    trio = settled()
    client = trio.client(BEN)
    lone(trio, client)
    ordered(trio, client, Action.SET, "health_permille_min", 950)
    trio.feed(ANA, MachineMeasured(990, 100))
    trio.run(2_000)
    client.submit(spec("t1"), watch=False)
    trio.run(20)
    score = "has a health score of 0.90, less than 0.95: its processors are 99 % busy (-0.10)"
    assert explained(client).nodes[0] == NodeVerdict("ana", False, score, "score")


def test_who_is_silent_and_who_is_new() -> None:
    """eva has missed a heartbeat; ana leads anew, and has not been told yet what ben runs."""
    trio = settled()
    client = trio.client(ANA)
    drained(trio, client, ANA)
    trio.cut(EVA)
    trio.run(1_700)
    ordered(trio, client, Action.DRAIN, "ben")
    client.submit(spec("t1"), watch=False)
    trio.run(20)
    assert [verdict.why for verdict in explained(client).nodes] == ["is draining", "is draining", "is degraded"]
    trio.run(2_000)
    assert [verdict.filter for verdict in explained(client).nodes] == ["admin", "admin", "health"]
    assert explained(client).nodes[2].why == "is failed"


def test_of_a_task_that_is_nowhere_nothing_is_explained() -> None:
    trio = settled()
    client = trio.client(BEN)
    asked = client.ask(Question.EXPLAIN, task_id="nothing")
    trio.run(20)
    assert client.answers(asked) == [(Code.NOT_FOUND, "there is no task 'nothing'")]


def test_as_many_as_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 10,000 nobody counts."""
    monkeypatch.setattr("mesh.ledger.queue.POSITIONS_MAX", 2)
    monkeypatch.setattr("mesh.node.answers.POSITIONS_MAX", 2)
    trio = settled(slots=1)
    client = trio.client(BEN)
    client.submit(*(spec(f"x{number}") for number in range(5)), spec("t1"), watch=False)
    trio.run(20)
    assert explained(client).summary.startswith("2 or more tasks are before it, and no node is free: ")
