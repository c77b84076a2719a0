"""Orders about the mesh as a whole: priorities, settings, pauses, breakers, schedules, and how each is refused."""

from typing import Any

import pytest

from mesh.documents import EventPage, SettingsView
from mesh.ids import NodeId, TaskId
from mesh.ledger import crons, registry
from mesh.ledger.settings import BOUNDS
from mesh.messages import Action, Code, Question
from mesh.node import rulings
from mesh.options import Concurrency, CronSpec, Options
from mesh.wire.codec import encode
from tests.node.client import EPOCH_MS, Client, spec
from tests.node.trio import ALL, ANA, BEN, EVA, Trio, settled

DONE = [(Code.OK, "done")]
ALREADY = [(Code.OK, "already so")]
CHANGED = [(Code.REFUSED, "things have changed while the order was on its way; nothing was done, look and try again")]
HOURLY = CronSpec("hourly", "0 * * * *", "code", b"\x01")


def ordered(
    trio: Trio, client: Client, action: Action, target: str = "", value: Any = None, reason: str = ""
) -> list[tuple[int, str]]:
    """Give an order, with an encoded value if one is given, and read its answers."""
    asked = client.order(action, target, reason=reason, value=b"" if value is None else encode(value))
    trio.run(20)
    return client.answers(asked)


def told(client: Client, *kinds: str) -> list[tuple[str, str | None, str]]:
    """Events of these kinds: kind, node and detail."""
    page = client.now(Question.EVENTS, EventPage, limit=1_000)
    return [(line.event, line.node, line.detail) for line in page.events if line.event in kinds]


def started(trio: Trio) -> list[str]:
    """Tasks in the order their first attempts began, wherever."""
    runs = [(token, task) for host in trio.hosts.values() for task, token in host.runs]
    return [task for _, task in sorted(runs)]


# --- priorities ---


@pytest.mark.parametrize("name", ALL)
def test_a_waiting_task_gets_another_priority_and_goes_first(name: NodeId) -> None:
    """S4-05: t9 came last; moved to 0 it runs before t8. Said again it is already so."""
    trio = settled(slots=1)
    client = trio.client(name)
    client.submit(*(spec(f"t{number}", priority=5) for number in range(3)), watch=False)
    trio.run(20)
    client.submit(spec("t8", priority=4), spec("t9", priority=5), watch=False)
    trio.run(20)
    assert ordered(trio, client, Action.REPRIORITIZE, "t9", 0) == DONE
    assert ordered(trio, client, Action.REPRIORITIZE, "t9", 0) == ALREADY
    assert client.task("t9").priority == 0
    assert [(item.event, item.detail) for item in client.task("t9").history[1:]] == [
        ("task_reprioritized", "from 5 to 0")
    ]
    for _ in range(2):
        running = trio[ANA].node.holding.attempts.held()[0]
        trio.ends(ANA, *running)
        trio.run(20)
    assert started(trio)[3:] == ["t9", "t8"]


@pytest.mark.parametrize(
    ("target", "value", "answer"),
    [
        ("t1", 1_000_001, (Code.INVALID, "a priority lies between -1000000 and 1000000, not at 1000001")),
        ("t1", -1_000_001, (Code.INVALID, "a priority lies between -1000000 and 1000000, not at -1000001")),
        ("t1", "high", (Code.INVALID, "the order's value is not what it should be: Expected `int`, got `str`")),
        ("t1", None, (Code.INVALID, "the order's value is not what it should be: Input data was truncated")),
        ("zoe", 1, (Code.NOT_FOUND, "no task 'zoe' waits or runs")),
        ("over", 1, (Code.NOT_FOUND, "no task 'over' waits or runs")),
    ],
)
def test_no_such_task_or_priority(target: str, value: Any, answer: tuple[Code, str]) -> None:
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("t1"), spec("over"), watch=False)
    trio.run(20)
    trio.ends(BEN, "over", 4)
    trio.run(20)
    assert ordered(trio, client, Action.REPRIORITIZE, target, value) == [answer]
    assert client.task("t1").priority == 5


def test_a_task_that_ends_while_its_new_priority_is_on_its_way() -> None:
    trio = settled()
    client = trio.client(ANA)
    client.submit(spec("t1"), watch=False)
    trio.run(20)
    trio.ends(ANA, "t1", 4)
    asked = client.order(Action.REPRIORITIZE, "t1", value=encode(1))
    trio.run(20)
    ended = "the task has ended, and is no dead letter; look at it with `mesh task show`"
    assert client.answers(asked) == [(Code.REFUSED, ended)]


# --- settings ---


def test_a_setting_is_changed_for_every_leader_to_come() -> None:
    """S4-22: the strategy is one of them. It is in the events, and ben, who leads next, goes by it."""
    trio = settled()
    client = trio.client(EVA)
    assert ordered(trio, client, Action.SET, "strategy", 5) == DONE
    assert ordered(trio, client, Action.SET, "strategy", 5) == ALREADY
    assert ordered(trio, client, Action.SET, "ageing_ms", 0) == DONE
    assert told(client, "setting_changed") == [
        ("setting_changed", None, "strategy 5"),
        ("setting_changed", None, "ageing_ms 0"),
    ]
    trio.kill(ANA)
    trio.run(3_000)
    view = client.now(Question.SETTINGS, SettingsView)
    assert view.settings == {
        "strategy": 5,
        "health_permille_min": 500,
        "breaker_failures": 5,
        "breaker_successes": 2,
        "breaker_open_ms": 60_000,
        "ageing_ms": 0,
        "ageing_steps_max": 4,
        "oldest_every": 20,
        "reserve_permille": 50,
        "dead_letters_max": 100_000,
        "alone_after_crashes": 2,
        "dead_after_crashes": 3,
    }
    assert view.level == 1


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("speed", 1, f"no setting is called 'speed'; there are {', '.join(BOUNDS)}"),
        ("strategy", 6, "strategy lies between 0 and 5, not at 6"),
        ("reserve_permille", -1, "reserve_permille lies between 0 and 1000, not at -1"),
        ("reserve_permille", 0.5, "the order's value is not what it should be: Expected `int`, got `float`"),
        ("reserve_permille", None, "the order's value is not what it should be: Input data was truncated"),
    ],
)
def test_what_cannot_be_set(name: str, value: Any, why: str) -> None:
    trio = settled()
    client = trio.client(BEN)
    assert ordered(trio, client, Action.SET, name, value) == [(Code.INVALID, why)]
    assert told(client, "setting_changed") == []


# --- pauses ---


def test_a_paused_queue_is_granted_nothing_until_it_is_resumed() -> None:
    """What runs goes on; other queues too. Said again it is already so, and so is resuming what is not paused."""
    trio = settled(capabilities=("code", "search"))
    client = trio.client(BEN)
    client.submit(spec("t1"), watch=False)
    trio.run(20)
    assert ordered(trio, client, Action.PAUSE, "code", reason="quota") == DONE
    assert ordered(trio, client, Action.PAUSE, "code", reason="quota") == ALREADY
    client.submit(spec("t2"), spec("s1", capability="search"), watch=False)
    trio.run(2_000)
    assert started(trio) == ["t1", "s1"]
    trio.ends(ANA, "t1", 4)
    trio.run(20)
    assert client.task("t1").state == "completed"
    assert ordered(trio, client, Action.RESUME, "code") == DONE
    assert started(trio) == ["t1", "s1", "t2"]
    assert ordered(trio, client, Action.RESUME, "code") == ALREADY
    assert told(client, "queue_paused", "queue_resumed") == [
        ("queue_paused", None, "code: quota"),
        ("queue_resumed", None, "code"),
    ]


def test_a_pause_may_have_an_end() -> None:
    trio = settled()
    client = trio.client(BEN)
    until_ms = trio.now_ms + EPOCH_MS + 1_000
    assert ordered(trio, client, Action.PAUSE, "code", until_ms) == DONE
    client.submit(spec("t1"), watch=False)
    trio.run(970)
    assert started(trio) == []
    trio.run(20)
    assert started(trio) == ["t1"]


@pytest.mark.parametrize(
    ("target", "value", "why"),
    [
        ("", None, "a capability has 1 to 200 characters"),
        ("x" * 201, None, "a capability has 1 to 200 characters"),
        ("code", 3_000 + EPOCH_MS, "a queue is paused until some time to come"),
        ("code", -1, "a queue is paused until some time to come"),
        ("code", 1 << 51, "a queue is paused until some time to come"),
        ("code", "soon", "the order's value is not what it should be: Expected `int`, got `str`"),
    ],
)
def test_what_is_no_pause(target: str, value: Any, why: str) -> None:
    trio = settled()
    client = trio.client(BEN)
    assert ordered(trio, client, Action.PAUSE, target, value) == [(Code.INVALID, why)]


def test_no_more_queues_are_paused_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor if two are on their way at once. One whose time is over counts no more."""
    for module in (rulings, registry):
        monkeypatch.setattr(module, "PAUSES_MAX", 2)
    monkeypatch.setattr("mesh.ledger.rulings.PAUSES_MAX", 2)
    trio = settled()
    client = trio.client(ANA)
    assert ordered(trio, client, Action.PAUSE, "a", trio.now_ms + EPOCH_MS + 5_000) == DONE
    asked = [client.order(Action.PAUSE, name) for name in ("b", "c")]
    trio.run(20)
    assert [client.answers(one) for one in asked] == [DONE, CHANGED]
    full = [(Code.REFUSED, "2 queues are paused, more there cannot be; resume one first")]
    assert ordered(trio, client, Action.PAUSE, "c") == full
    assert ordered(trio, client, Action.PAUSE, "b", reason="another") == DONE
    trio.run(5_000)
    assert ordered(trio, client, Action.PAUSE, "c") == DONE


# --- breakers ---


def broken(trio: Trio) -> Client:
    """ana's breaker for code is open, after one failure. eva and ben are drained."""
    client = trio.client(BEN)
    assert ordered(trio, client, Action.SET, "breaker_failures", 1) == DONE
    for name in ("ben", "eva"):
        assert ordered(trio, client, Action.DRAIN, name) == DONE
    client.submit(spec("t1", attempts_max=1), watch=False)
    trio.run(20)
    [(task, token)] = trio[ANA].runs
    trio.ends(ANA, task, token, error="ValueError: no")
    trio.run(20)
    assert told(client, "breaker_opened") == [("breaker_opened", "ana", "code: 1 failures")]
    return client


def test_a_breaker_is_closed_by_hand() -> None:
    """S2-22: t2 waits for the breaker; somebody knows better."""
    trio = settled()
    client = broken(trio)
    client.submit(spec("t2"), watch=False)
    trio.run(1_000)
    assert started(trio) == ["t1"]
    assert ordered(trio, client, Action.CLOSE_BREAKER, "ana/code") == DONE
    assert started(trio) == ["t1", "t2"]
    assert ordered(trio, client, Action.CLOSE_BREAKER, "ana/code") == ALREADY
    assert told(client, "breaker_closed") == [("breaker_closed", "ana", "code, by hand")]


@pytest.mark.parametrize("target", ["", "ana", "code", "zoe/code"])
def test_a_breaker_is_named_by_node_and_capability(target: str) -> None:
    trio = settled()
    client = trio.client(BEN)
    text = f"a breaker is named NODE/CAPABILITY; there is none called {target!r}"
    assert ordered(trio, client, Action.CLOSE_BREAKER, target) == [(Code.NOT_FOUND, text)]


def test_a_capability_may_have_a_stroke_in_its_name() -> None:
    trio = settled()
    client = trio.client(BEN)
    assert ordered(trio, client, Action.CLOSE_BREAKER, "ana/code/python") == ALREADY


# --- schedules ---


def test_a_schedule_is_begun_changed_and_dropped() -> None:
    trio = settled()
    client = trio.client(BEN)
    assert ordered(trio, client, Action.SET_CRON, value=HOURLY) == DONE
    assert ordered(trio, client, Action.SET_CRON, value=HOURLY) == ALREADY
    changed = CronSpec("hourly", "30 * * * *", "code", b"\x01", is_paused=True)
    assert ordered(trio, client, Action.SET_CRON, value=changed) == DONE
    assert ordered(trio, client, Action.DROP_CRON, "hourly") == DONE
    assert ordered(trio, client, Action.DROP_CRON, "hourly") == [(Code.NOT_FOUND, "no schedule is called 'hourly'")]
    assert told(client, "cron_set", "cron_dropped") == [
        ("cron_set", None, "hourly: 0 * * * * (UTC)"),
        ("cron_set", None, "hourly: 30 * * * * (UTC), paused"),
        ("cron_dropped", None, "hourly"),
    ]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "the order's value is not what it should be: Input data was truncated"),
        (CronSpec("", "@daily", "code", b""), "a schedule's name has 1 to 180 printable characters"),
        (
            CronSpec("x", "often", "code", b""),
            "a schedule has five fields (minute, hour, day of month, month, day of week), this one 1: 'often'",
        ),
        (CronSpec("x", "@daily", "", b""), "a capability has 1 to 200 characters, this one 0"),
        (CronSpec("x", "@daily", "code", b"", overlap=4), "overlap lies between 0 and 3, not at 4"),
        (
            CronSpec("x", "@daily", "code", b"", options=Options(concurrency=Concurrency("", 1))),
            "a concurrency key has a name",
        ),
    ],
)
def test_what_is_no_schedule(value: CronSpec | None, why: str) -> None:
    trio = settled()
    client = trio.client(BEN)
    assert ordered(trio, client, Action.SET_CRON, value=value) == [(Code.INVALID, why)]
    assert trio.leader.node.ledger.crons == {}


def test_a_schedule_that_its_zone_always_leaves_out() -> None:
    """The second Sunday of March from 2:00 to 2:59, from 2025 on: found out only by looking for its next time."""
    trio = settled(epoch_ms=1_735_689_600_000)
    client = trio.client(BEN)
    cron = CronSpec("spring", "*/10 2 8-14 3 */7", "code", b"", zone="America/New_York")
    [(code, text)] = ordered(trio, client, Action.SET_CRON, value=cron)
    assert (code, text[:70]) == (Code.INVALID, "it does not fire within 41 years: the clock in America/New_York leaves")
    assert trio.leader.node.ledger.crons == {}


def test_no_more_schedules_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor if two are on their way at once. One that is there already may be changed."""
    for module in (rulings, crons):
        monkeypatch.setattr(module, "CRONS_MAX", 1)
    trio = settled()
    client = trio.client(ANA)
    named = {name: CronSpec(name, "@daily", "code", b"") for name in ("a", "b")}
    asked = [client.order(Action.SET_CRON, value=encode(cron)) for cron in named.values()]
    trio.run(20)
    assert [client.answers(one) for one in asked] == [DONE, CHANGED]
    full = [(Code.REFUSED, "there are 1 schedules, more there cannot be; drop one first")]
    assert ordered(trio, client, Action.SET_CRON, value=named["b"]) == full
    assert ordered(trio, client, Action.SET_CRON, value=CronSpec("a", "@hourly", "code", b"")) == DONE


def test_two_drop_a_schedule_at_once() -> None:
    """They say the same, so it is done once; a third says it when that is applied everywhere but not yet known here."""
    trio = settled()
    client = trio.client(ANA)
    assert ordered(trio, client, Action.SET_CRON, value=HOURLY) == DONE
    asked = [client.order(Action.DROP_CRON, "hourly") for _ in range(2)]
    trio.run(20)
    assert [client.answers(one) for one in asked] == [DONE, DONE]


@pytest.mark.parametrize("action", [Action.REPRIORITIZE, Action.SET, Action.PAUSE, Action.SET_CRON])
def test_rubbish_as_a_value(action: Action) -> None:
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("t1"), watch=False)
    asked = client.order(action, "t1", value=b"\xc1")
    trio.run(20)
    [(code, text)] = client.answers(asked)
    assert (code, text.startswith("the order's value is not what it should be: ")) == (Code.INVALID, True)
    assert trio.leader.node.ledger.tasks[TaskId("t1")].spec.priority == 5
