"""The courier of a client that is used from outside the loop its mesh runs on: the same client, a bridge under it."""

import asyncio
from inspect import iscoroutinefunction
from typing import Any

from mesh.client import Handle
from mesh.client.courier import Courier
from mesh.ids import TaskId
from mesh.messages import Question, TaskEnd, TaskSpec
from mesh.testing.driving import Driver


class Bridge:
    """What a MeshClient and a Handle take for their Courier. Each of its coroutines runs on the mesh's loop.

    Attributes:
        accepted: the handle of every task that a client was told is accepted, in that order.
    """

    def __init__(self, courier: Courier, driver: Driver) -> None:
        self.accepted: dict[TaskId, Handle] = {}
        self._courier = courier
        self._driver = driver
        self._waits: dict[asyncio.Future[None], asyncio.Task[None]] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._courier, name)
        if not iscoroutinefunction(found):
            return found

        async def bridged(*args: Any, **kwargs: Any) -> Any:
            return await self._driver.call(found(*args, **kwargs), f"an answer to {name}{_told(args, kwargs)}")

        return bridged

    async def submit(self, spec: TaskSpec, timeout_s: float) -> Handle:
        what = f"the mesh to accept {spec.task_id}, a task for {spec.capability!r}"
        handle = await self._driver.call(self._courier.submit(spec, timeout_s), what)
        self.accepted[spec.task_id] = handle
        return self._mine(handle)

    def handle(self, task_id: str) -> Handle:
        return self._mine(self._courier.handle(task_id))

    async def end_of(self, handle: Handle, timeout_s: float | None) -> TaskEnd:
        return await self._driver.call(
            self._courier.end_of(handle, timeout_s), f"the result of {handle.id}", task_id=handle.id
        )

    def wait(self, handle: Handle, future: "asyncio.Future[None]", timeout_s: float | None) -> None:
        """Set the future, which belongs to whatever loop is running, once the task has ended."""

        async def tell() -> None:
            try:
                await self.end_of(handle, timeout_s)
            except Exception as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(None)

        waiting = self._waits[future] = asyncio.get_running_loop().create_task(tell())
        waiting.add_done_callback(lambda _: self._waits.pop(future, None))

    def stop_waiting(self, handle: Handle, future: "asyncio.Future[None]") -> None:
        waiting = self._waits.pop(future, None)
        if waiting is not None:
            waiting.cancel()

    def _mine(self, handle: Handle) -> Handle:
        handle._courier = self  # type: ignore[assignment]  # It does for a handle what a courier does.
        return handle


def _told(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What was asked, for a sentence: `(TASK, 't1')`."""
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, str | Question) and value]
    return f"({', '.join(value.name if isinstance(value, Question) else repr(value) for value in given)})"
