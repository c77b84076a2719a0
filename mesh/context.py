"""What a handler is given: `Context`, which knows the attempt and reaches the mesh for it."""

import logging
from collections.abc import Awaitable
from typing import Any, Protocol, Unpack

import msgspec

from mesh.config import PAYLOAD_BYTES_MAX
from mesh.errors import InvalidPayload, TaskCancelled
from mesh.treatment import OPTION_NAMES, SubmitOptions, check_options


class Reach(Protocol):
    """What a Context needs of the process it runs in. The agent process gives every attempt one."""

    def keep(self, state: bytes) -> Awaitable[None]:
        """Have a checkpoint kept. Blocks when called off the event loop, and what it returns then is already done."""

    def keep_blocking(self, state: bytes) -> None:
        """The same, always blocking. Raises RuntimeError on the event loop."""

    def submit(self, capability: str, payload: object, options: dict[str, Any]) -> Any:
        """Submit a task. On the event loop: awaitable, gives a handle. Elsewhere: blocks, gives a blocking handle."""


class Done:
    """An awaitable with nothing left to wait for."""

    def __await__(self) -> Any:
        return iter(())


class Context:
    """What one attempt knows and may do. A handler that names it (annotation `Context`, or parameter `ctx`) gets one.

    Made by hand, `Context("t1")` serves to call a handler directly: checkpoints then stay in it.

    Attributes:
        task_id: the task.
        attempt: which try this is, from 1.
        token: the fencing token: of two attempts of one task the later has the greater. Hand it to whatever outside the
            mesh must refuse the words of an attempt that was given up.
        node: id of the node it runs on.
        cancelled: True once this attempt no longer holds the task. Coroutines are cancelled besides; a plain function
            must look.
        deadline: when the attempt will be stopped, in seconds since the epoch; None, there is no such limit.
        priority: of the task, which its children have too; None, it is not known here.
    """

    __slots__ = ("_checkpoint", "_reach", "attempt", "cancelled", "deadline", "node", "priority", "task_id", "token")

    def __init__(
        self,
        task_id: str,
        *,
        attempt: int = 1,
        token: int = 0,
        node: str = "",
        checkpoint: bytes = b"",
        reach: Reach | None = None,
        deadline: float | None = None,
        priority: int | None = None,
    ) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.token = token
        self.node = node
        self.cancelled = False
        self.deadline = deadline
        self.priority = priority
        self._checkpoint = checkpoint
        self._reach = reach

    @property
    def checkpoint_state(self) -> Any:
        """The last state kept, by an earlier attempt or by this one; None if there is none. A fresh copy each time."""
        return msgspec.msgpack.decode(self._checkpoint) if self._checkpoint else None

    def checkpoint(self, state: Any) -> Awaitable[None]:
        """Have `state` kept by a quorum; the next attempt, wherever it runs, finds it in `checkpoint_state`.

        In a coroutine: `await ctx.checkpoint(state)` returns once it is kept. In a plain function (thread or process)
        the call itself blocks until then, and what it returns may be awaited or dropped.

        Raises InvalidPayload (not serialisable, or over 1 MiB), Refused (this attempt no longer holds the task),
        TaskCancelled (the wait was cut short because the attempt was stopped; plain functions only).
        """
        data = encode_value(state, "checkpoint")
        if self._reach is None:
            self._checkpoint = data
            return Done()
        return self._reach.keep(data)

    def checkpoint_sync(self, state: Any) -> None:
        """The blocking twin of `checkpoint`, for plain functions. Raises RuntimeError where it would block the loop."""
        data = encode_value(state, "checkpoint")
        if self._reach is None:
            self._checkpoint = data
        else:
            self._reach.keep_blocking(data)

    def raise_if_cancelled(self) -> None:
        """Raise TaskCancelled once this attempt no longer holds the task."""
        if self.cancelled:
            raise TaskCancelled(f"attempt {self.attempt} of {self.task_id} was stopped")

    def submit(self, capability: str, payload: object = None, **options: Unpack[SubmitOptions]) -> Any:
        """Submit a child task to the mesh this attempt runs in. Options as MeshClient.submit has them.

        In a coroutine: `handle = await ctx.submit(...)`. In a plain function it blocks and returns a blocking handle.
        A later attempt submits again: give a `task_id` made from `ctx.task_id` where that must not double the work.
        The child knows this task as its parent, and has its priority unless another is given.
        Raises what `submit` of the client raises; RuntimeError in a Context made by hand.
        """
        check_options(options, OPTION_NAMES, "submit()")
        if self._reach is None:
            raise RuntimeError("this Context belongs to no mesh: there is nowhere to submit to")
        given = {name: value for name, value in options.items() if value is not None}
        if self.priority is not None:
            given.setdefault("priority", self.priority)
        given["parent"] = self.task_id
        return self._reach.submit(capability, payload, given)

    @property
    def log(self) -> "logging.LoggerAdapter[logging.Logger]":
        """A logger whose lines begin with the task and the attempt. They go to the node's agent log."""
        return _TaskLog(logging.getLogger("mesh.task"), {"task_id": self.task_id, "attempt": self.attempt})

    def kept(self, state: bytes) -> None:
        """For the process that runs the attempt: a quorum now holds this checkpoint."""
        self._checkpoint = state


class _TaskLog(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        told = self.extra or {}
        return f"[{told.get('task_id')} #{told.get('attempt')}] {msg}", kwargs


_encode = msgspec.msgpack.Encoder().encode


def encode_value(value: Any, what: str) -> bytes:
    """A user's value as MessagePack.

    Raises InvalidPayload, in one line that names `what`, for a value that is not plain or is over PAYLOAD_BYTES_MAX.
    """
    try:
        data = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidPayload(f"{what} cannot be sent as MessagePack: {error}") from None
    if len(data) > PAYLOAD_BYTES_MAX:
        raise InvalidPayload(f"{what} is {len(data)} bytes; at most {PAYLOAD_BYTES_MAX} travel")
    return data
