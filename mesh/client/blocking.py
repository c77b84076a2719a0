"""The blocking twin: the same client on an event loop of its own, in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from mesh.client.connection import MeshClient
from mesh.client.handle import Handle, Outcome
from mesh.client.orders import UNCHANGED
from mesh.documents import (
    Agents,
    Crons,
    DeadLetterGroups,
    DeadLetterPage,
    EventLine,
    EventPage,
    Explanation,
    Queues,
    RaftStatus,
    SettingsView,
    Status,
    Task,
    TaskPage,
    Touched,
)
from mesh.treatment import Moment

_Result = TypeVar("_Result")


class BlockingHandle:
    """A task that a quorum holds; see mesh.client.handle.Handle."""

    __slots__ = ("_handle", "_mesh")

    def __init__(self, mesh: BlockingMesh, handle: Handle) -> None:
        self._mesh = mesh
        self._handle = handle

    def __repr__(self) -> str:
        return f"<BlockingHandle {self.id}>"

    @property
    def id(self) -> str:
        return self._handle.id

    @property
    def index(self) -> int:
        return self._handle.index

    def result(self, timeout: float | None = None) -> Any:
        return self._mesh._run(self._handle.result(timeout))

    def outcome(self, timeout: float | None = None) -> Outcome:
        return self._mesh._run(self._handle.outcome(timeout))

    def status(self) -> str:
        return self._mesh._run(self._handle.status())

    def task(self) -> Task:
        return self._mesh._run(self._handle.task())

    def explain(self) -> Explanation:
        return self._mesh._run(self._handle.explain())

    def cancel(self, reason: str = "") -> None:
        self._mesh._run(self._handle.cancel(reason))

    def reprioritize(self, priority: int | str) -> None:
        self._mesh._run(self._handle.reprioritize(priority))


class BlockingMesh:
    """A MeshClient whose methods block. May be used from several threads."""

    def __init__(self, open_client: Callable[[], Awaitable[MeshClient]]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mesh-client", daemon=True)
        self._thread.start()
        try:
            self._client = self._run(_opened(open_client))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> BlockingMesh:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything; other threads that still wait hear MeshUnavailable."""
        if self._thread.is_alive():
            self._run(self._client.close())
            self._stop()

    def submit(self, capability: str, payload: Any = None, **options: Any) -> BlockingHandle:
        """As MeshClient.submit, with all its options."""
        return BlockingHandle(self, self._run(self._client.submit(capability, payload, **options)))

    def map(self, capability: str, payloads: Iterable[Any], **options: Any) -> list[BlockingHandle]:
        handles = self._run(self._client.map(capability, list(payloads), **options))
        return [BlockingHandle(self, handle) for handle in handles]

    def handle(self, task_id: str) -> BlockingHandle:
        return BlockingHandle(self, self._run(_called(self._client.handle, task_id)))

    def as_completed(
        self, handles: Iterable[BlockingHandle], *, timeout: float | None = None
    ) -> Iterator[BlockingHandle]:
        inner = [handle._handle for handle in handles]
        for handle in self._iterate(self._client.as_completed(inner, timeout=timeout)):
            yield BlockingHandle(self, handle)

    def status(self, *, stale: bool = False, timeout: float | None = None) -> Status:
        return self._run(self._client.status(stale=stale, timeout=timeout))

    def task(self, task_id: str, *, stale: bool = False, timeout: float | None = None) -> Task:
        return self._run(self._client.task(task_id, stale=stale, timeout=timeout))

    def tasks(self, **filters: Any) -> TaskPage:
        """As MeshClient.tasks."""
        return self._run(self._client.tasks(**filters))

    def dead_letters(self, **page: Any) -> DeadLetterPage:
        """As MeshClient.dead_letters."""
        return self._run(self._client.dead_letters(**page))

    def event_page(self, after: str = "0", **page: Any) -> EventPage:
        """As MeshClient.event_page."""
        return self._run(self._client.event_page(after, **page))

    def events(self, after: int = 0, *, follow: bool = False) -> Iterator[EventLine]:
        return self._iterate(self._client.events(after, follow=follow))

    def explain(self, task_id: str, *, stale: bool = False, timeout: float | None = None) -> Explanation:
        return self._run(self._client.explain(task_id, stale=stale, timeout=timeout))

    def raft_status(self, *, stale: bool = True, timeout: float | None = None) -> RaftStatus:
        return self._run(self._client.raft_status(stale=stale, timeout=timeout))

    def queues(self, *, stale: bool = False, timeout: float | None = None) -> Queues:
        return self._run(self._client.queues(stale=stale, timeout=timeout))

    def agents(self, *, stale: bool = False, timeout: float | None = None) -> Agents:
        return self._run(self._client.agents(stale=stale, timeout=timeout))

    def crons(self, *, stale: bool = False, timeout: float | None = None) -> Crons:
        return self._run(self._client.crons(stale=stale, timeout=timeout))

    def dead_letter_groups(self, *, stale: bool = False, timeout: float | None = None) -> DeadLetterGroups:
        return self._run(self._client.dead_letter_groups(stale=stale, timeout=timeout))

    def settings(self, *, stale: bool = False, timeout: float | None = None) -> SettingsView:
        return self._run(self._client.settings(stale=stale, timeout=timeout))

    def cancel(self, task_id: str, reason: str = "", *, dependents: str = "leave") -> None:
        self._run(self._client.cancel(task_id, reason, dependents=dependents))

    def cancel_many(self, **selection: Any) -> Touched:
        """As MeshClient.cancel_many."""
        return self._run(self._client.cancel_many(**selection))

    def clear(self, priority: int | str, reason: str = "") -> Touched:
        return self._run(self._client.clear(priority, reason))

    def reprioritize(self, task_id: str, priority: int | str) -> None:
        self._run(self._client.reprioritize(task_id, priority))

    def retry(self, task_id: str, payload: Any = UNCHANGED) -> None:
        self._run(self._client.retry(task_id, payload))

    def retry_many(self, **selection: Any) -> Touched:
        """As MeshClient.retry_many."""
        return self._run(self._client.retry_many(**selection))

    def drop_many(self, **selection: Any) -> Touched:
        """As MeshClient.drop_many."""
        return self._run(self._client.drop_many(**selection))

    def drop(self, task_id: str, reason: str = "") -> None:
        self._run(self._client.drop(task_id, reason))

    def set(self, name: str, value: int) -> None:
        self._run(self._client.set(name, value))

    def strategy(self, name: str) -> None:
        self._run(self._client.strategy(name))

    def pause(self, capability: str, reason: str = "", until: Moment | float | str | None = None) -> None:
        self._run(self._client.pause(capability, reason, until))

    def resume(self, capability: str) -> None:
        self._run(self._client.resume(capability))

    def close_breaker(self, node_id: str, capability: str) -> None:
        self._run(self._client.close_breaker(node_id, capability))

    def set_cron(self, name: str, expression: str, capability: str, payload: Any = None, **options: Any) -> None:
        """As MeshClient.set_cron."""
        self._run(self._client.set_cron(name, expression, capability, payload, **options))

    def drop_cron(self, name: str) -> None:
        self._run(self._client.drop_cron(name))

    def pause_cron(self, name: str) -> None:
        self._run(self._client.pause_cron(name))

    def resume_cron(self, name: str) -> None:
        self._run(self._client.resume_cron(name))

    def transfer(self, node_id: str) -> None:
        self._run(self._client.transfer(node_id))

    def add_voter(self, node_id: str) -> None:
        self._run(self._client.add_voter(node_id))

    def remove_voter(self, node_id: str) -> None:
        self._run(self._client.remove_voter(node_id))

    def forget(self, node_id: str) -> None:
        self._run(self._client.forget(node_id))

    def drain(self, node_id: str, reason: str = "") -> None:
        self._run(self._client.drain(node_id, reason))

    def undrain(self, node_id: str) -> None:
        self._run(self._client.undrain(node_id))

    def recover(self, node_id: str, reason: str = "") -> None:
        self._run(self._client.recover(node_id, reason))

    def rebalance(self) -> None:
        self._run(self._client.rebalance())

    def save_checkpoint(self, task_id: str, state: Any) -> None:
        self._run(self._client.save_checkpoint(task_id, state))

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run on the client's loop, wait here. An interrupt here cancels it there."""
        if self._loop.is_closed():
            work.close()
            raise RuntimeError("the client is closed")
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def _iterate(self, items: AsyncIterator[_Result]) -> Iterator[_Result]:
        try:
            while True:
                try:
                    yield self._run(_next(items))
                except StopAsyncIteration:
                    return
        finally:
            if not self._is_closed:
                self._run(items.aclose())  # type: ignore[attr-defined]  # All of them are generators.

    @property
    def _is_closed(self) -> bool:
        return self._loop.is_closed()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _opened(open_client: Callable[[], Awaitable[MeshClient]]) -> MeshClient:
    return await open_client()


async def _called(function: Callable[[str], _Result], argument: str) -> _Result:
    return function(argument)


async def _next(items: AsyncIterator[_Result]) -> _Result:
    return await anext(items)
