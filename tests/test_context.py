"""What a handler is given: contexts made by hand, and what they ask of whoever runs the attempt."""

import asyncio
from typing import Any

import msgspec
import pytest

from mesh import Context
from mesh.config import PAYLOAD_BYTES_MAX
from mesh.context import encode_value
from mesh.errors import InvalidPayload, TaskCancelled


def test_a_context_made_by_hand_keeps_its_checkpoints() -> None:
    ctx = Context("t1")
    assert (ctx.attempt, ctx.token, ctx.node, ctx.deadline, ctx.cancelled) == (1, 0, "", None, False)
    assert Context("t2").checkpoint_state is None

    async def story() -> None:
        await ctx.checkpoint({"i": 1})

    asyncio.run(story())
    assert ctx.checkpoint_state == {"i": 1}
    ctx.checkpoint_state["i"] = 2
    assert ctx.checkpoint_state == {"i": 1}  # Fresh each time.
    ctx.checkpoint_sync([2])
    assert ctx.checkpoint_state == [2]
    ctx.checkpoint(0)
    assert ctx.checkpoint_state == 0
    with pytest.raises(InvalidPayload, match=r"^checkpoint cannot be sent"):
        ctx.checkpoint(object())
    with pytest.raises(RuntimeError, match="belongs to no mesh"):
        ctx.submit("code")


def test_a_context_says_when_it_is_over() -> None:
    ctx = Context("t1", attempt=2)
    ctx.raise_if_cancelled()
    ctx.cancelled = True
    with pytest.raises(TaskCancelled, match=r"^attempt 2 of t1 was stopped$"):
        ctx.raise_if_cancelled()


def test_what_a_handler_logs_names_its_task(caplog: pytest.LogCaptureFixture) -> None:
    Context("t1", attempt=2).log.warning("seen %d", 3)
    assert caplog.record_tuples == [("mesh.task", 30, "[t1 #2] seen 3")]


def test_values_that_cannot_travel_are_named() -> None:
    assert encode_value({"a": [1, None, "ü", 2.5, True]}, "result") == msgspec.msgpack.encode(
        {"a": [1, None, "ü", 2.5, True]}
    )
    endless: list[Any] = []
    endless.append(endless)
    for value in (object(), 1 << 64, "\ud800", endless, {"a": {1: object()}}):
        with pytest.raises(InvalidPayload, match=r"^result cannot be sent as MessagePack: "):
            encode_value(value, "result")
    assert len(encode_value("x" * (PAYLOAD_BYTES_MAX - 5), "result")) == PAYLOAD_BYTES_MAX
    with pytest.raises(InvalidPayload, match=r"^checkpoint is 1048577 bytes; at most 1048576 travel$"):
        encode_value("x" * (PAYLOAD_BYTES_MAX - 4), "checkpoint")


class Ben:
    """Runs ana's attempt, and notes the child tasks it submits."""

    def __init__(self) -> None:
        self.submitted: list[tuple[str, object, dict[str, Any]]] = []

    def keep(self, state: bytes) -> Any:
        raise AssertionError("no checkpoint in this story")

    def keep_blocking(self, state: bytes) -> None:
        raise AssertionError("no checkpoint in this story")

    def submit(self, capability: str, payload: object, options: dict[str, Any]) -> Any:
        self.submitted.append((capability, payload, options))
        return "handle"


def test_a_child_knows_its_parent_and_has_its_priority_unless_another_is_given() -> None:
    ben = Ben()
    ctx = Context("ana", reach=ben, priority=3)
    assert ctx.submit("code", {"n": 1}) == "handle"
    ctx.submit("code", priority="low", task_id=None, delay="5s", parent="somebody else")
    Context("eva", reach=ben).submit("code")
    assert ben.submitted == [
        ("code", {"n": 1}, {"priority": 3, "parent": "ana"}),
        ("code", None, {"priority": "low", "delay": "5s", "parent": "ana"}),
        ("code", None, {"parent": "eva"}),
    ]
    with pytest.raises(TypeError, match=r"^submit\(\) got an unexpected keyword argument 'prio'$"):
        ctx.submit("code", prio=3)  # type: ignore[call-arg]


def test_a_context_says_when_the_attempt_will_be_stopped() -> None:
    assert Context("t1", deadline=1_790_000_000.5).deadline == 1_790_000_000.5
    assert Context("t1").deadline is None
