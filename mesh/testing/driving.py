"""Runs a VirtualTimeLoop for whoever waits for something of it, and only while somebody does.

From an ordinary event loop in the same thread (`call`), between whose own turns the slices are fitted in; or blocking,
where there is none (`run`). In the same thread, so that a test and the handlers it tries may share events and lists.

Time passes only while a call is open. A call ends before any more time passes, and whoever waited for it has a few
turns of his own loop to say what he wants next: so the same test gives the same run.
"""

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final, TypeVar

from mesh.testing.durations import in_words
from mesh.testing.virtual_time import NEVER_S, Rest, VirtualTimeLoop

SLICE_TURNS: Final = 500
"""Turns of the virtual loop between two of the outer one."""

BUSY_SLICES_MAX: Final = 20
"""What has ended is told once all else is done that can be at that time; or after so many slices without an end."""

SETTLING_TURNS: Final = 8
"""Turns of the outer loop for what was told to lead to what is wanted next, through tasks that await tasks."""

CLEANUP_S: Final = 10.0
"""How long tasks may take to clean up when they are cancelled at the end, by the virtual clock."""

_Result = TypeVar("_Result")


class Stuck(AssertionError):
    """What a test waits for did not come: not within the time of the mesh it was given, nor in real time."""


class _Call:
    """Something wanted of the virtual loop. `future` belongs to the loop that awaits it."""

    def __init__(
        self, task: "asyncio.Task[Any]", what: str, task_id: str, began_s: float, deadline_s: float, real_s: float
    ) -> None:
        self.task = task
        self.what = what
        self.task_id = task_id
        self.began_s = began_s
        self.deadline_s = deadline_s
        self.real_began_s = monotonic()
        self.real_deadline_s = self.real_began_s + real_s
        self.future: asyncio.Future[Any] | None = None


class Driver:
    """See the module. `why` says why the mesh is where it is, or one of its tasks, in a sentence or two."""

    def __init__(
        self, loop: VirtualTimeLoop, *, patience_s: float, real_patience_s: float, why: Callable[[str], str]
    ) -> None:
        self.loop = loop
        self._patience_s = patience_s
        self._real_patience_s = real_patience_s
        self._why = why
        self._calls: list[_Call] = []
        self._running: _Call | None = None
        self._host: asyncio.AbstractEventLoop | None = None
        self._is_due = False
        self._settling = 0
        self._busy = 0
        self._alarm: asyncio.TimerHandle | None = None
        loop.poked = self._wake

    # --- from another loop ---

    async def call(
        self, work: Coroutine[Any, Any, _Result], what: str, *, task_id: str = "", takes_s: float = 0.0
    ) -> _Result:
        """Run a coroutine on the virtual loop while time passes there; `what` names what is waited for.

        It may take `takes_s` of the mesh's time and the patience besides. Raises Stuck, and whatever it raises. On the
        virtual loop itself it is simply awaited.
        """
        host = asyncio.get_running_loop()
        if self.loop.is_closed() or not self.loop.is_at_home:
            work.close()
            raise RuntimeError(
                "this mesh is closed" if self.loop.is_closed() else "this mesh belongs to another thread"
            )
        if host is self.loop:
            return await self._inside(work, what, task_id, takes_s)
        if self._host is not host:
            self._move_to(host)
        call = self._begin(work, what, task_id, takes_s)
        future: asyncio.Future[_Result] = host.create_future()
        call.future = future
        self._calls.append(call)
        self._settling = SETTLING_TURNS
        self._wake()
        try:
            return await future
        finally:
            if call in self._calls:  # Whoever waited is cancelled.
                self._calls.remove(call)
                call.task.cancel()
                if not self._calls:
                    self._stop_watching()

    def _wake(self) -> None:
        """There is something to do: be called in the outer loop's next turn."""
        if self._is_due or not self._calls or self._host is None:
            return
        self._stop_watching()
        self._is_due = True
        self._host.call_soon(self._turn)

    def _move_to(self, host: asyncio.AbstractEventLoop) -> None:
        """The loop we were called from has ended; what was awaited there nobody awaits any more."""
        for call in self._calls:
            call.task.cancel()
        self._calls.clear()
        self._host, self._is_due, self._alarm = host, False, None

    def _watch(self, host: asyncio.AbstractEventLoop, real_s: float) -> None:
        """Nothing can be done before something comes in from outside, or `real_s` have passed."""
        self._alarm = host.call_later(max(0.0, real_s), self._wake)
        host.add_reader(self.loop.fileno(), self._wake)

    def _stop_watching(self) -> None:
        if self._alarm is not None and self._host is not None:
            self._alarm.cancel()
            self._alarm = None
            self._host.remove_reader(self.loop.fileno())

    def _turn(self) -> None:
        self._is_due = False
        if self._settling:
            self._settling -= 1
            self._wake()
            return
        rest = self.loop.run_slice(SLICE_TURNS, min((call.deadline_s for call in self._calls), default=0.0))
        self._busy = self._busy + 1 if rest is Rest.TURNS else 0
        is_calm = rest not in (Rest.TURNS, Rest.OUTSIDE) or self._busy >= BUSY_SLICES_MAX
        for call in self._calls[:]:
            stuck = None if call.task.done() else self._stuck(call)
            if stuck is not None or (is_calm and call.task.done()):
                self._calls.remove(call)
                self._settling = SETTLING_TURNS
                _hand_over(call, stuck)
        if self._settling or rest in (Rest.TURNS, Rest.NEWS, Rest.HORIZON):
            self._wake()
        elif self._calls and self._host is not None:
            real_s = min(call.real_deadline_s for call in self._calls) - monotonic()
            outside_s = self.loop.outside_s if rest is Rest.OUTSIDE else NEVER_S
            self._watch(self._host, min(real_s, outside_s))

    # --- blocking ---

    def run(self, work: Coroutine[Any, Any, _Result], what: str) -> _Result:
        """The same where no event loop runs: returns when it is done. Raises Stuck, and whatever it raises."""
        if self.loop.is_closed():
            work.close()
            raise RuntimeError("this mesh is closed")
        if asyncio._get_running_loop() is not None:
            work.close()
            raise RuntimeError(
                "this would block the running event loop: use `async with mesh.testing.local(...)` there"
            )
        call = self._running = self._begin(work, what, "", 0.0)
        try:
            while not call.task.done():
                rest = self.loop.run_slice(SLICE_TURNS, call.deadline_s)
                if call.task.done():
                    break
                stuck = self._stuck(call, is_over=rest is Rest.NOTHING)
                if stuck is not None:
                    raise stuck
                if rest is Rest.OUTSIDE:
                    self.loop.wait(max(0.0, min(self.loop.outside_s, call.real_deadline_s - monotonic())))
        except BaseException:
            call.task.cancel()
            raise
        finally:
            self._running = None
        return call.task.result()  # type: ignore[no-any-return]  # The task is that of `work`.

    async def _inside(self, work: Coroutine[Any, Any, _Result], what: str, task_id: str, takes_s: float) -> _Result:
        """Part of what `run` runs: it knows better what is waited for."""
        call = self._running
        if call is None or asyncio.current_task() is not call.task:
            return await work
        before = call.what, call.task_id
        call.what, call.task_id = what, task_id
        call.deadline_s = max(call.deadline_s, self.loop.time() + takes_s + self._patience_s)
        try:
            return await work
        finally:
            call.what, call.task_id = before

    # --- both ---

    def _begin(self, work: Coroutine[Any, Any, Any], what: str, task_id: str, takes_s: float) -> _Call:
        task = self.loop.create_task(work, name=what)
        task.add_done_callback(lambda _: self.loop.end_slice())
        now_s = self.loop.time()
        return _Call(task, what, task_id, now_s, now_s + takes_s + self._patience_s, self._real_patience_s)

    def _stuck(self, call: _Call, *, is_over: bool = False) -> Stuck | None:
        """Why not to wait any longer, if so."""
        now_s, real_now_s = self.loop.time(), monotonic()
        if now_s < call.deadline_s and real_now_s < call.real_deadline_s and not is_over:
            return None
        took = (
            f"{in_words(now_s - call.began_s)} of the mesh's time ({real_now_s - call.real_began_s:.1f} s of real time)"
        )
        outside = len(self.loop.outside.running)
        running = f" {outside} plain function(s) still run on threads, and the clock goes by theirs." if outside else ""
        return Stuck(f"waited {took} for {call.what}.{running} {self._why(call.task_id)}".rstrip())


async def cleared() -> None:
    """Cancel every other task of the running loop, and wait until they have cleaned up, within reason."""
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=CLEANUP_S)
    await asyncio.get_running_loop().shutdown_asyncgens()


def _hand_over(call: _Call, stuck: Stuck | None) -> None:
    """Tell whoever waits what came of it."""
    task, future = call.task, call.future
    assert future is not None, "it was called from another loop"
    if stuck is not None:
        task.cancel()
    error = stuck or (None if task.cancelled() else task.exception())
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    elif task.cancelled():
        future.cancel()
    else:
        future.set_result(task.result())
