"""User code in the process of the test: coroutines on its loop, plain functions on threads.

The stand-in for a node's child processes. A handler declared with executor="process" runs on a thread here. When the
node is killed its coroutines are cancelled; a thread cannot be, so it ends when it ends, and nobody asks what came of
it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from threading import get_ident
from traceback import format_exception
from typing import Any, TypeVar

from mesh.app import Context, Done, Mesh, TaskFunction, encode_value
from mesh.client import Handle, MeshClient
from mesh.effects import CheckpointKept, StartAttempts, StopAttempts
from mesh.errors import Refused, TaskCancelled
from mesh.events import AttemptsEnded, AttemptsStarted, CheckpointOffered, Event
from mesh.messages import AttemptOrder, AttemptOutcome, Failure, Lease
from mesh.testing.virtual_time import Outside
from mesh.wire.codec import decode_value

BEGAN_AFTER_S = 0.02
"""An attempt that still runs after this is reported as begun; one that ended sooner never is."""

ERROR_CHARS_MAX = 500
DETAIL_CHARS_MAX = 8 << 10

_Result = TypeVar("_Result")


class ThreadHandle:
    """A child task, for the plain function that submitted it: what a Handle does, blocking."""

    def __init__(self, handle: Handle, attempt: "Attempt") -> None:
        self._handle = handle
        self._attempt = attempt

    @property
    def id(self) -> str:
        return self._handle.id

    def result(self, timeout: float | None = None) -> Any:
        return self._attempt.wait_for(self._handle.result(timeout))

    def status(self) -> str:
        return self._attempt.wait_for(self._handle.status())

    def cancel(self, reason: str = "") -> None:
        self._attempt.wait_for(self._handle.cancel(reason))


class Attempt:
    """One attempt while it runs; also the reach of its Context."""

    def __init__(self, attempts: "Attempts", order: AttemptOrder, what: TaskFunction[..., ..., Any, Any]) -> None:
        self.order = order
        self.lease: Lease = (order.task_id, order.token)
        self.begun = what.is_coroutine
        self.task: asyncio.Task[None] | None = None
        self.thread = 0
        """Its number outside the loop; 0 if it runs on the loop."""
        self.timer: asyncio.TimerHandle | None = None
        self.waiting: dict[int, tuple[asyncio.Future[None], bytes]] = {}
        """Checkpoints offered and not answered, by sequence."""
        self._attempts = attempts
        self.what = what
        self._sequence = 0
        self.context = Context(
            order.task_id,
            attempt=order.attempt,
            token=order.token,
            node=attempts.node_id,
            checkpoint=order.checkpoint,
            reach=self,
            deadline=order.deadline_ms / 1_000 or None,
            priority=order.priority,
        )

    def call(self) -> Any:
        """Begin to run user code."""
        payload = decode_value(self.order.payload) if self.order.payload else None
        return self.what.call(self.context if self.what.wants_context else None, payload)

    def offer(self, state: bytes) -> asyncio.Future[None]:
        """Ask the node to have a checkpoint kept; on the loop."""
        attempts = self._attempts
        future: asyncio.Future[None] = attempts.loop.create_future()
        if attempts.running.get(self.lease) is not self:
            future.set_exception(Refused(f"this attempt no longer holds {self.order.task_id}"))
            return future
        self._sequence += 1
        self.waiting[self._sequence] = (future, state)
        attempts.deliver(CheckpointOffered(self.order.task_id, self.order.token, self._sequence, state))
        return future

    def keep(self, state: bytes) -> Awaitable[None]:
        if self._attempts.is_on_loop():
            return self.offer(state)
        self.keep_blocking(state)
        return Done()

    def keep_blocking(self, state: bytes) -> None:
        if self._attempts.is_on_loop():
            raise RuntimeError("checkpoint_sync would block the event loop: `await ctx.checkpoint(state)` instead")
        self.wait_for(self._offered(state))

    async def _offered(self, state: bytes) -> None:
        await self.offer(state)

    def submit(self, capability: str, payload: object, options: dict[str, Any]) -> Any:
        attempts = self._attempts
        submitting = attempts.client().submit(capability, payload, **options)
        if attempts.is_on_loop():
            return submitting
        return ThreadHandle(self.wait_for(submitting), self)

    def wait_for(self, wanted: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine on the loop, from this attempt's thread."""
        future: Future[_Result] = asyncio.run_coroutine_threadsafe(self._aside(wanted), self._attempts.loop)
        return future.result()

    async def _aside(self, wanted: Coroutine[Any, Any, _Result]) -> _Result:
        attempts = self._attempts
        attempts.outside.pause(self.thread)
        try:
            return await wanted
        finally:
            if attempts.running.get(self.lease) is self:
                attempts.outside.go_on(self.thread)


class Attempts:
    """Runs what one node is granted, and tells the node what becomes of it."""

    def __init__(
        self,
        node_id: str,
        app: Mesh,
        slots: int,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[Event], None],
        client: Callable[[], MeshClient],
        outside: Outside | None = None,
    ) -> None:
        """`deliver` takes events for the node; `client` gives the client that child tasks are submitted with; `outside`
        is told which threads have something to do.
        """
        self.node_id = node_id
        self.loop = loop
        self.deliver = deliver
        self.client = client
        self.outside = outside or Outside()
        self.running: dict[Lease, Attempt] = {}
        self._app = app
        self._thread = get_ident()
        self._pool = ThreadPoolExecutor(max_workers=max(1, slots), thread_name_prefix=f"{node_id} task")
        self._stopped: set[asyncio.Task[None]] = set()
        """Cancelled and perhaps still cleaning up: the loop itself holds no strong reference."""

    def is_on_loop(self) -> bool:
        return get_ident() == self._thread

    def start(self, effect: StartAttempts) -> None:
        for order in effect.orders:
            what = self._app.tasks.get(order.capability)
            if what is None:
                error = f"UnknownCapability: {self.node_id} does not offer {order.capability!r}"
                outcome = AttemptOutcome(order.task_id, order.token, b"", error, failure=Failure.NOT_RUN)
                self.loop.call_soon(self.deliver, AttemptsEnded([outcome]))
                continue
            attempt = Attempt(self, order, what)
            self.running[attempt.lease] = attempt
            attempt.timer = self.loop.call_later(BEGAN_AFTER_S, self._report_begun, attempt)
            if what.is_coroutine:
                attempt.task = asyncio.Task(self._on_loop(attempt), loop=self.loop, name=order.task_id)
            else:
                attempt.thread = self.outside.begin()
                self._pool.submit(self._in_thread, attempt)

    def stop(self, effect: StopAttempts) -> None:
        for lease in effect.leases:
            attempt = self.running.pop(lease, None)
            if attempt is not None:
                self._cancel(attempt)

    def kept(self, effect: CheckpointKept) -> None:
        """An answer to one checkpoint answers the earlier ones too: a later state replaces them."""
        attempt = self.running.get((effect.task_id, effect.token))
        if attempt is None:
            return
        for sequence in [sequence for sequence in attempt.waiting if sequence <= effect.sequence]:
            future, state = attempt.waiting.pop(sequence)
            if effect.kept:
                attempt.context.kept(state)
            if future.done():
                continue
            if effect.kept:
                future.set_result(None)
            else:
                sentence = f"the checkpoint of {effect.task_id} was refused: this attempt no longer holds the task"
                future.set_exception(Refused(sentence))

    def end(self) -> None:
        """The node is gone, and with it everything it ran."""
        for attempt in list(self.running.values()):
            self._cancel(attempt)
        self.running.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _cancel(self, attempt: Attempt) -> None:
        attempt.context.cancelled = True
        self.outside.pause(attempt.thread)
        if attempt.timer is not None:
            attempt.timer.cancel()
        if self.loop.is_closed():
            return
        for future, _ in attempt.waiting.values():
            if not future.done():
                future.set_exception(TaskCancelled(f"attempt {attempt.order.attempt} was stopped"))
                future.exception()  # Whoever awaited it may be gone as well; nobody need be told of that.
        if attempt.task is not None and not attempt.task.done():
            self._stopped.add(attempt.task)
            attempt.task.add_done_callback(self._stopped.discard)
            attempt.task.cancel()

    async def _on_loop(self, attempt: Attempt) -> None:
        try:
            value = await attempt.call()
            outcome = _success(attempt.order, value)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # By us, or because the loop ends: the node that would be told is gone as well.
            outcome = _failed(attempt, error)
        except (Exception, SystemExit) as error:
            outcome = _failed(attempt, error)
        self._ended(attempt, outcome)

    def _in_thread(self, attempt: Attempt) -> None:
        self.outside.speak_as(attempt.thread)
        attempt.begun = True
        try:
            outcome = _success(attempt.order, attempt.call())
        except BaseException as error:  # It is this attempt's failure, not the thread's end.
            outcome = _failed(attempt, error)
        try:
            self.loop.call_soon_threadsafe(self._ended, attempt, outcome)
        except RuntimeError:
            return  # The loop is closed: nobody asks.

    def _ended(self, attempt: Attempt, outcome: AttemptOutcome) -> None:
        if self.running.get(attempt.lease) is not attempt:
            return  # It was stopped, and nobody asks.
        del self.running[attempt.lease]
        self.outside.pause(attempt.thread)
        if attempt.timer is not None:
            attempt.timer.cancel()
        self.deliver(AttemptsEnded([outcome]))

    def _report_begun(self, attempt: Attempt) -> None:
        if attempt.begun:
            self.deliver(AttemptsStarted([attempt.lease]))
        else:
            attempt.timer = self.loop.call_later(BEGAN_AFTER_S, self._report_begun, attempt)


def _success(order: AttemptOrder, value: Any) -> AttemptOutcome:
    return AttemptOutcome(order.task_id, order.token, encode_value(value, "result"))


def _failed(attempt: Attempt, error: BaseException) -> AttemptOutcome:
    """The outcome of an attempt that raised: `ValueError: what it says`, and the traceback's end."""
    said = " ".join(str(error).split())
    line = f"{type(error).__name__}: {said}" if said else type(error).__name__
    detail = "".join(format_exception(error))[-DETAIL_CHARS_MAX:]
    never: tuple[type[BaseException], ...] = attempt.what.never
    order = attempt.order
    return AttemptOutcome(
        order.task_id, order.token, b"", _sendable(line[:ERROR_CHARS_MAX]), _sendable(detail), isinstance(error, never)
    )


def versions_of(app: Mesh) -> tuple[tuple[str, str], ...]:
    """(capability, version) of the handlers that have one, sorted."""
    told = ((name, task.version) for name, task in app.tasks.items())
    return tuple(sorted((name, version) for name, version in told if version))


def _sendable(text: str) -> str:
    """Lone surrogates cannot be sent as UTF-8; show them escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
