"""Orders and questions, by the bytes that leave: ana asks, ben is the node that hears it and answers."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from mesh import Key, Retry
from mesh.client import UNCHANGED, MeshClient
from mesh.documents import (
    Agents,
    Crons,
    DeadLetterGroup,
    DeadLetterGroups,
    HistoryItem,
    Queues,
    SettingsView,
    Task,
    Touched,
)
from mesh.errors import InvalidPayload, MeshUnavailable, Refused
from mesh.ids import TaskId
from mesh.messages import Action, Order, Question
from mesh.options import CatchUp, Concurrency, CronSpec, Dependents, Options, Overlap, Selection
from mesh.wire.codec import decode_value, encode
from tests.client.cast import Ben, play

TOUCHED = Touched(2, ["t1", "t2"], ["t3"])


def _story(tell: Callable[[MeshClient, Ben], Awaitable[None]]) -> None:
    async def story() -> None:
        ben = Ben()
        async with await ben.client() as ana:
            await tell(ana, ben)

    play(story)


def _said(ben: Ben) -> list[Order]:
    """What was ordered, whatever the number of the request."""
    return [Order(0, *[getattr(order, name) for name in Order.__struct_fields__[1:]]) for order in ben.orders]


def test_orders_about_one_thing_leave_as_they_are_meant() -> None:
    async def tell(ana: MeshClient, ben: Ben) -> None:
        await ana.reprioritize("t1", "high")
        await ana.handle("t2").reprioritize(7)
        await ana.set("ageing_ms", 5_000)
        await ana.strategy("geographic")
        await ana.pause("code", "too hot")
        await ana.pause("code", until=1_790_000_000)
        await ana.pause("code", until=datetime(1970, 1, 1, 0, 30, tzinfo=UTC))
        await ana.resume("code")
        await ana.close_breaker("n1", "code")
        await ana.drop_cron("nightly")
        await ana.pause_cron("nightly")
        await ana.resume_cron("nightly")
        await ana.retry("t1")
        await ana.retry("t1", {"n": 2})
        await ana.retry("t1", None)
        assert _said(ben) == [
            Order(0, Action.REPRIORITIZE, "t1", value=encode(3)),
            Order(0, Action.REPRIORITIZE, "t2", value=encode(7)),
            Order(0, Action.SET, "ageing_ms", value=encode(5_000)),
            Order(0, Action.SET, "strategy", value=encode(4)),
            Order(0, Action.PAUSE, "code", "too hot"),
            Order(0, Action.PAUSE, "code", value=encode(1_790_000_000_000)),
            Order(0, Action.PAUSE, "code", value=encode(1_800_000)),
            Order(0, Action.RESUME, "code"),
            Order(0, Action.CLOSE_BREAKER, "n1/code"),
            Order(0, Action.DROP_CRON, "nightly"),
            Order(0, Action.PAUSE_CRON, "nightly"),
            Order(0, Action.RESUME_CRON, "nightly"),
            Order(0, Action.RETRY, "t1"),
            Order(0, Action.RETRY, "t1", value=encode({"n": 2})),
            Order(0, Action.RETRY, "t1", value=encode(None)),
        ]
        assert repr(UNCHANGED) == "UNCHANGED"

    _story(tell)


def test_a_pause_may_be_given_as_a_duration() -> None:
    async def tell(ana: MeshClient, ben: Ben) -> None:
        before_ms = int(time.time() * 1_000)
        await ana.pause("code", until="10m")
        after_ms = int(time.time() * 1_000)
        assert before_ms + 600_000 <= decode_value(ben.orders[0].value) <= after_ms + 600_000

    _story(tell)


def test_s1_33_many_are_cancelled_by_id_node_priority_and_capability() -> None:
    """Alone, together, with a dry run; and what was touched comes back."""

    async def tell(ana: MeshClient, ben: Ben) -> None:
        ben.body = TOUCHED
        assert await ana.cancel_many(task_ids=["t1", "t2"]) == TOUCHED
        await ana.cancel_many(task_ids="t1")
        await ana.cancel_many(node="n1", capability="code", state="running", reason="enough", dependents="cancel")
        await ana.cancel_many(priority="low", state=["pending", "scheduled"], dry_run=True)
        await ana.cancel_many(priority=(5, 10))
        assert [order.action for order in ben.orders] == [Action.CANCEL_MANY] * 5
        assert [order.reason for order in ben.orders] == ["", "", "enough", "", ""]
        assert [order.value for order in ben.orders] == [
            encode(Selection((TaskId("t1"), TaskId("t2")))),
            encode(Selection((TaskId("t1"),))),
            encode(Selection(node="n1", capability="code", states=(4,), dependents=Dependents.CANCEL)),
            encode(Selection(priority_min=8, priority_max=8, states=(0, 1), is_dry=True)),
            encode(Selection(priority_min=5, priority_max=10)),
        ]

    _story(tell)


def test_s4_03_a_priority_is_cleared_and_dead_letters_are_taken_together() -> None:
    async def tell(ana: MeshClient, ben: Ben) -> None:
        ben.body = TOUCHED
        assert await ana.clear("low", "too late") == TOUCHED
        assert await ana.retry_many() == TOUCHED
        assert await ana.retry_many(capability="code", error="TimeoutError", limit=10, dry_run=True) == TOUCHED
        assert await ana.drop_many(task_ids=["t1"], reason="known") == TOUCHED
        assert await ana.drop_many(limit=100_000) == TOUCHED
        assert _said(ben) == [
            Order(0, Action.CLEAR, "8", "too late"),
            Order(0, Action.RETRY_MANY, "", value=encode(Selection())),
            Order(
                0,
                Action.RETRY_MANY,
                "",
                value=encode(Selection(capability="code", error="TimeoutError", limit=10, is_dry=True)),
            ),
            Order(0, Action.DROP_MANY, "", "known", encode(Selection((TaskId("t1"),)))),
            Order(0, Action.DROP_MANY, "", value=encode(Selection())),
        ]

    _story(tell)


def test_a_schedule_leaves_whole() -> None:
    async def tell(ana: MeshClient, ben: Ben) -> None:
        await ana.set_cron("nightly", "0 3 * * *", "report")
        await ana.set_cron(
            "often",
            "@every 30s",
            "poll",
            {"user": "ana"},
            zone="Europe/Berlin",
            priority="low",
            overlap="queue_one",
            catch_up="all",
            jitter="5s",
            paused=True,
            retry=Retry(7),
            concurrency=Key("payload.user"),
        )
        assert [(order.action, order.target) for order in ben.orders] == [
            (Action.SET_CRON, "nightly"),
            (Action.SET_CRON, "often"),
        ]
        options = Options(concurrency=Concurrency("poll:user=ana", 1))
        assert [order.value for order in ben.orders] == [
            encode(CronSpec("nightly", "0 3 * * *", "report", encode(None))),
            encode(
                CronSpec(
                    "often",
                    "@every 30s",
                    "poll",
                    encode({"user": "ana"}),
                    "Europe/Berlin",
                    8,
                    7,
                    Overlap.QUEUE_ONE,
                    CatchUp.ALL,
                    5_000,
                    options,
                    True,
                )
            ),
        ]

    _story(tell)


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (lambda ana: ana.cancel_many(), "say which tasks: task_ids, node, capability, priority or state"),
        (lambda ana: ana.cancel_many(dry_run=True, dependents="cancel", reason="x"), "say which tasks"),
        (lambda ana: ana.cancel_many(state="lost"), "no state is called 'lost'; there are pending, "),
        (lambda ana: ana.cancel_many(priority=(1, 2, 3)), "priority is one, or the lowest and the highest"),
        (lambda ana: ana.cancel_many(priority=300), "a priority is a number from 0 to 255"),
        (lambda ana: ana.cancel_many(task_ids=[5]), "tasks are selected by text, not by 5 (int)"),
        (lambda ana: ana.cancel_many(node="\ud800"), "tasks are selected by text, not by"),
        (lambda ana: ana.cancel_many(node="n1", dependents="kill"), "dependents is one of leave, cancel"),
        (lambda ana: ana.cancel("t1", dependents="kill"), "dependents is one of leave, cancel"),
        (lambda ana: ana.drop_many(reason="all"), "say which dead letters: task_ids, capability, error or limit"),
        (lambda ana: ana.retry_many(limit=0), "a limit is a number from 1 to 100,000"),
        (lambda ana: ana.retry("t1", b"bytes"), "the payload has a value JSON cannot hold"),
        (lambda ana: ana.clear("soon"), "no priority is called 'soon'"),
        (lambda ana: ana.reprioritize("t1", -1), "a priority is a number"),
        (lambda ana: ana.set("ageing_ms", "5s"), "a setting is a whole number"),
        (lambda ana: ana.set("ageing_ms", 1 << 70), "a setting is a whole number"),
        (lambda ana: ana.strategy("best"), "a strategy is one of least_connections, round_robin, "),
        (lambda ana: ana.pause(""), "a capability is text"),
        (lambda ana: ana.pause("code", until="tomorrow"), "until is seconds, or text like"),
        (lambda ana: ana.pause("code", until=datetime(2026, 1, 1)), "until has no time zone"),
        (lambda ana: ana.resume("a\nb"), "a capability has only printable characters"),
        (lambda ana: ana.set_cron("", "* * * * *", "code"), "a name of a schedule is text"),
        (lambda ana: ana.set_cron("c", "", "code"), "a schedule's expression is text"),
        (lambda ana: ana.set_cron("c", "* * * * *", "code", zone=""), "a time zone is text"),
        (lambda ana: ana.set_cron("c", "* * * * *", "code", overlap="all"), "overlap is one of skip, allow, "),
        (lambda ana: ana.set_cron("c", "* * * * *", "code", max_attempts=0), "max_attempts is a number"),
        (lambda ana: ana.set_cron("c", "* * * * *", "code", key="k"), "key is for one task"),
    ],
)
def test_an_order_that_cannot_be_is_refused_before_anything_leaves(order: Any, why: str) -> None:
    async def tell(ana: MeshClient, ben: Ben) -> None:
        with pytest.raises(InvalidPayload) as refused:
            await order(ana)
        assert str(refused.value).startswith(why)
        assert ben.orders == []

    _story(tell)


def test_s1_35_a_cancel_may_take_the_tasks_that_its_code_submitted() -> None:
    """In the plain case the order is the old one, which every node knows."""

    async def tell(ana: MeshClient, ben: Ben) -> None:
        ben.body = _cancelled_and_touched("cancelled")
        await ana.cancel("t1", "enough")
        await ana.cancel("t1", "enough", dependents="cancel")
        selection = Selection((TaskId("t1"),), dependents=Dependents.CANCEL)
        assert _said(ben) == [
            Order(0, Action.CANCEL, "t1", "enough"),
            Order(0, Action.CANCEL_MANY, "", "enough", encode(selection)),
        ]
        ben.body = _cancelled_and_touched("completed")
        with pytest.raises(Refused, match="'t1' has ended already: completed"):
            await ana.cancel("t1", dependents="cancel")

    _story(tell)


def _cancelled_and_touched(state: str) -> dict[str, Any]:
    """A document that can be read as a Task and as a Touched."""
    history: list[HistoryItem] = []
    task = Task("t1", "code", 5, state, 1, 3, None, 0, None, None, None, 1, 2, history)
    return decode_value(encode(task)) | decode_value(encode(TOUCHED))  # type: ignore[no-any-return]


def test_an_answer_that_is_no_such_document_is_another_versions() -> None:
    async def tell(ana: MeshClient, ben: Ben) -> None:
        with pytest.raises(MeshUnavailable, match="another version's document"):
            await ana.clear(5)

    _story(tell)


def test_every_question_has_its_document() -> None:
    async def tell(ana: MeshClient, ben: Ben) -> None:
        group = DeadLetterGroup("code", "ValueError: no", 3, 1, 2, "t9")
        for ask, question, document in (
            (ana.queues, Question.QUEUES, Queues([], {5: 1}, 1, 10, 0, 10)),
            (ana.agents, Question.AGENTS, Agents("random", [])),
            (ana.crons, Question.CRONS, Crons([])),
            (ana.dead_letter_groups, Question.DEAD_LETTER_GROUPS, DeadLetterGroups([group])),
            (ana.settings, Question.SETTINGS, SettingsView({"ageing_ms": 5}, 1)),
        ):
            ben.body = document
            assert await ask() == document
            assert await ask(stale=True, timeout=5.0) == document
            assert [(asked.question, asked.stale) for asked in ben.asks] == [(question, False), (question, True)]
            ben.asks.clear()

    _story(tell)
