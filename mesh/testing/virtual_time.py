"""An event loop whose clock is virtual: it jumps to the next timer instead of waiting for it.

It runs a slice at a time, in the thread of whoever drives it (driving.py), and never by itself: between two slices
nothing happens, and no time passes. What does not run on the loop cannot be hurried: while plain functions run on
threads, or a socket is open, the clock first stands still and then goes no faster than a real one.

The same calls in the same order give the same run, threads included: what they say is heard once all of them have
spoken, in the order they were started in.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import Context
from enum import Enum
from selectors import BaseSelector, DefaultSelector, SelectorKey
from threading import Event, get_ident, local
from time import monotonic
from typing import Any, Final, TypeVar, TypeVarTuple

GRACE_S: Final = 0.5
"""Real seconds that the clock stands still for what runs outside the loop, before it goes on as a real one does."""

NEVER_S: Final = float("inf")

_Given = TypeVarTuple("_Given")
_Result = TypeVar("_Result")


class Rest(Enum):
    """Why a slice ended."""

    TURNS = "it has had its turns, and can go on"
    NEWS = "somebody on the loop asked for it"
    HORIZON = "the next timer lies beyond the horizon"
    OUTSIDE = "what runs outside the loop has to be waited for"
    NOTHING = "there is no timer, and nothing runs outside"


class Outside:
    """Threads whose work comes back to a loop. All of it is called on the loop, but for `speak_as` and `speaker`."""

    def __init__(self) -> None:
        self.running: set[int] = set()
        """Those that have something to do, by number. One that waits for the loop has not."""
        self._count = 0
        self._thread = local()

    def begin(self) -> int:
        """A thread begins to work. Returns its number."""
        self._count += 1
        self.running.add(self._count)
        return self._count

    def go_on(self, number: int) -> None:
        """What it waited for is there."""
        self.running.add(number)

    def pause(self, number: int) -> None:
        """It waits for the loop, or has ended, or nobody cares for it any more."""
        self.running.discard(number)

    def speak_as(self, number: int) -> None:
        """On the thread: this is who it is."""
        self._thread.number = number

    @property
    def speaker(self) -> int:
        """On the thread: its number; 0 if nobody gave it one."""
        return getattr(self._thread, "number", 0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """See the module. Not to be run but by its slices, on the thread it was made on.

    Attributes:
        outside: the threads it waits for. What it is given to run in executors it adds by itself.
        poked: called when work comes in between two slices, from this thread.
        outside_s: after Rest.OUTSIDE, for how many real seconds to wait, at most, before the next slice.
    """

    def __init__(self) -> None:
        self.outside = Outside()
        self.poked: Callable[[], None] = lambda: None
        self.outside_s = 0.0
        self._now_s = 0.0
        self._horizon_s = NEVER_S
        self._turns = 0
        self._rest = Rest.TURNS
        self._has_news = False
        self._home = get_ident()
        self._spoken: deque[tuple[int, asyncio.Handle]] = deque()
        """What threads want called, and which of them."""
        self._held_since_s: float | None = None
        """Real time since when the clock stands still for what runs outside."""
        self._files = _Selector(self._nothing_ready)
        super().__init__(self._files)
        self._files_own = len(self._files.get_map())

    def time(self) -> float:
        """Virtual seconds, from 0."""
        return self._now_s

    @property
    def is_at_home(self) -> bool:
        """Whether this is the thread the loop was made on."""
        return get_ident() == self._home

    # --- slices ---

    def run_slice(self, turns: int, horizon_s: float = NEVER_S) -> Rest:
        """Run until `turns` have been made, or nothing is left to do before `horizon_s`: then it is that time."""
        outer = asyncio._get_running_loop()
        self._turns, self._horizon_s, self._rest = turns, horizon_s, Rest.TURNS
        asyncio._set_running_loop(None)
        try:
            self.run_forever()
        finally:
            asyncio._set_running_loop(outer)
        return self._rest

    def end_slice(self) -> None:
        """From within a slice: end it, or the next one, before any more time passes."""
        self._has_news = True

    def wait(self, real_s: float) -> None:
        """Block until something comes in from outside, `real_s` at most."""
        self._files.inner.select(real_s)

    def fileno(self) -> int:
        """A file that is readable when something has come in from outside."""
        return self._files.fileno()

    def _nothing_ready(self, timeout_s: float | None) -> None:
        """No file is ready. There is something to call now (0), later (`timeout_s` from now), or nothing (None)."""
        self._turns -= 1
        if timeout_s == 0:
            if self._turns <= 0:
                self.stop()
            return
        if self._hear():
            return
        left_s = self._standing_s()
        if left_s > 0 and self.outside.running:
            self._wait(left_s)  # What they are about to say belongs to this moment.
        elif self._has_news:
            self._has_news = False
            self._end(Rest.NEWS)
        elif self._turns <= 0:
            self.stop()
        elif timeout_s is None:
            self._wait(NEVER_S) if left_s > -NEVER_S else self._end(Rest.NOTHING)
        elif left_s + timeout_s > 0:
            self._wait(left_s + timeout_s)
        else:
            self._pass(timeout_s)

    def _pass(self, timeout_s: float) -> None:
        """So much time passes, or what there is of it before the horizon."""
        if self._held_since_s is not None:
            self._held_since_s = monotonic() - GRACE_S
        if self._now_s + timeout_s > self._horizon_s:
            self._now_s = max(self._now_s, self._horizon_s)
            self._end(Rest.HORIZON)
        else:
            self._now_s += timeout_s

    def _wait(self, real_s: float) -> None:
        self.outside_s = real_s
        self._end(Rest.OUTSIDE)

    def _end(self, rest: Rest) -> None:
        self._rest = rest
        self.stop()

    # --- what runs outside ---

    def _hear(self) -> bool:
        """Take in what threads have said, once all of them have spoken or have kept us waiting for too long."""
        spoken = list(self._spoken)
        if not spoken or not (self.outside.running <= {number for number, _ in spoken} or self._is_over()):
            return False
        for _ in spoken:
            self._spoken.popleft()
        for _, handle in sorted(spoken, key=lambda said: said[0]):
            super().call_soon(_call, handle)
        self._held_since_s = None
        return True

    def _is_over(self) -> bool:
        """Whether the clock has stood still for long enough."""
        return self._held_since_s is not None and monotonic() >= self._held_since_s + GRACE_S

    def _standing_s(self) -> float:
        """For how many real seconds the clock still stands still; negative, since when it need not any more."""
        if not self.outside.running and len(self._files.get_map()) <= self._files_own:
            self._held_since_s = None
            return -NEVER_S
        now_s = monotonic()
        if self._held_since_s is None:
            self._held_since_s = now_s
        return self._held_since_s + GRACE_S - now_s

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Given], _Result], *args: *_Given
    ) -> "asyncio.Future[_Result]":
        """As every loop does it; the clock waits for it."""
        number = self.outside.begin()
        is_awaited = Event()

        def run() -> _Result:
            is_awaited.wait()  # What is done before it is awaited would be told by nobody's thread.
            self.outside.speak_as(number)
            return func(*args)

        if executor is None or isinstance(executor, ThreadPoolExecutor):
            future = super().run_in_executor(executor, run)
        else:
            future = super().run_in_executor(executor, func, *args)
        is_awaited.set()
        future.add_done_callback(lambda _: self.outside.pause(number))
        return future

    def call_soon_threadsafe(
        self, callback: Callable[[*_Given], object], *args: *_Given, context: Context | None = None
    ) -> asyncio.Handle:
        if self.is_at_home:
            return self.call_soon(callback, *args, context=context)
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        self._spoken.append((self.outside.speaker, handle))
        super().call_soon_threadsafe(lambda: None)  # It wakes whoever waits.
        return handle

    # --- work from this thread, between slices ---

    def call_soon(
        self, callback: Callable[[*_Given], object], *args: *_Given, context: Context | None = None
    ) -> asyncio.Handle:
        if not self.is_running():
            self.poked()
        return super().call_soon(callback, *args, context=context)


def _call(handle: asyncio.Handle) -> None:
    if not handle.cancelled():
        handle._run()


class _Selector(BaseSelector):
    """Looks at files without waiting for them, and says so when none is ready."""

    def __init__(self, nothing_ready: Callable[[float | None], None]) -> None:
        self.inner = DefaultSelector()
        self._nothing_ready = nothing_ready

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        ready = self.inner.select(0)
        if not ready:
            self._nothing_ready(timeout)
        return ready

    def fileno(self) -> int:
        return self.inner.fileno()

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        return self.inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> SelectorKey:
        return self.inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        return self.inner.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, SelectorKey]:
        return self.inner.get_map()

    def close(self) -> None:
        self.inner.close()
