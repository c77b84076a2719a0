"""One task, as whoever submitted it sees it."""

from __future__ import annotations

import time
from asyncio import Future
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.documents import Explanation, Task
from mesh.errors import MeshError, NotFound, TaskCancelled, TaskFailed, Unschedulable
from mesh.ids import TaskId
from mesh.ledger.task import CANCELLED, COMPLETED, STATE_NAMES
from mesh.messages import Action, Question, TaskEnd
from mesh.treatment import priority_number
from mesh.wire.codec import decode_value, encode

if TYPE_CHECKING:
    from mesh.client.courier import Courier

UNKNOWN = -1
"""State in a TaskEnd that says: there is no such task."""


UNSCHEDULABLE = "unschedulable"
"""How the error of a task begins that found no node in time."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of a task, as `Handle.outcome` says it.

    Attributes:
        ok: it completed.
        value: what the handler returned; None unless `ok`.
        error: what `result` would have raised; None if `ok`.
        state: completed, failed, cancelled or dead; empty if that is not known (its end did not come in time, there is
            no such task, or nobody to ask): then `error` says which.
    """

    ok: bool
    value: Any = None
    error: MeshError | None = None
    state: str = ""


class Handle:
    """A task that a quorum holds. `await handle` is its result.

    Attributes:
        id: the task's id.
        index: the log index at which it was accepted; 0 if this client did not submit it.
        end: how it ended, once that is known here.
        waiters, epoch, watched_ms, unknown: the books of mesh.client.waits.
    """

    __slots__ = ("_courier", "end", "epoch", "id", "index", "unknown", "waiters", "watched_ms")

    def __init__(self, courier: Courier, task_id: TaskId) -> None:
        self.id = task_id
        self.index = 0
        self._courier = courier
        self.end: TaskEnd | None = None
        self.waiters: list[Future[None]] | None = None
        self.epoch = 0
        self.watched_ms = 0
        self.unknown = 0

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"

    def __await__(self) -> Generator[Any, None, Any]:
        return self.result().__await__()

    async def result(self, timeout: float | None = None) -> Any:
        """What the handler returned. Waits for it, `timeout` seconds at most (None: as long as it takes).

        Raises:
            TaskFailed: the task is a dead letter, or was one and has been dropped.
            Unschedulable: a TaskFailed: because no attempt began within its `schedule_timeout`.
            TaskCancelled: it was cancelled.
            TaskTimeout: it goes on.
            NotFound: the mesh knows no such task (any more).
            MeshUnavailable: somebody else submitted it, and there was no quorum to ask whether it is there.
        """
        end = self.end
        if end is None:
            started = time.monotonic()
            if not self.index:
                # Nodes say nothing of the end of a task that is nowhere: it may yet be submitted.
                await self._courier.ask(Task, Question.TASK, task_id=self.id, timeout_s=timeout)
            left_s = None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
            end = await self._courier.end_of(self, left_s)
        if end.state == COMPLETED:
            return decode_value(end.result)
        raise _failure(end)

    async def outcome(self, timeout: float | None = None) -> Outcome:
        """What became of it, without an exception. Waits as `result` does, `timeout` seconds at most."""
        try:
            return Outcome(True, await self.result(timeout), state=STATE_NAMES[COMPLETED])
        except MeshError as error:
            state = UNKNOWN if self.end is None else self.end.state
            return Outcome(False, error=error, state="" if state == UNKNOWN else STATE_NAMES[state])

    async def status(self) -> str:
        """The state of the task: pending, scheduled, dispatched, running, completed, failed, cancelled or dead."""
        return (await self.task()).state

    async def task(self) -> Task:
        """The whole task, history included. Raises NotFound."""
        return await self._courier.ask(Task, Question.TASK, task_id=self.id)

    async def explain(self) -> Explanation:
        """Why it is where it is. Raises NotFound."""
        return await self._courier.ask(Explanation, Question.EXPLAIN, task_id=self.id)

    async def cancel(self, reason: str = "") -> None:
        """Cancel it; once this returns, it will not complete any more. Raises Refused if it has ended already."""
        await self._courier.cancel(self.id, reason)

    async def reprioritize(self, priority: int | str) -> None:
        """Give it another priority while it waits. Raises NotFound, Refused, InvalidPayload."""
        await self._courier.order(Action.REPRIORITIZE, self.id, value=encode(priority_number(priority)))

    def ended(self, end: TaskEnd) -> None:
        """The end is known: whoever waits goes on."""
        self.end = end
        waiters = self.waiters
        if waiters is not None:
            self.waiters = None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def abandoned(self, error: Exception) -> None:
        """The client closes: whoever waits hears why."""
        for waiter in self.waiters or ():
            if not waiter.done():
                waiter.set_exception(error)
        self.waiters = None


def _failure(end: TaskEnd) -> MeshError:
    if end.state == UNKNOWN:
        return NotFound(f"there is no task {end.task_id!r}, or it ended so long ago that it is forgotten")
    if end.state == CANCELLED:
        return TaskCancelled(f"{end.task_id} was cancelled" + (f": {end.error}" if end.error else ""))
    kind = Unschedulable if end.error.startswith(UNSCHEDULABLE) else TaskFailed
    return kind(
        end.task_id,
        end.error or "failed",
        remote_traceback=end.detail,
        node=end.node or None,
        attempt=end.attempts,
    )
