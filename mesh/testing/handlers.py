"""A handler alone, without a mesh: run once, or crashed at each of its checkpoints and run again from there."""

import asyncio
from collections.abc import Awaitable, Callable
from threading import Thread
from typing import Any, Final, NamedTuple, TypeAlias

from mesh.app import Context, Done, Mesh, TaskFunction, encode_value
from mesh.testing.driving import Driver, cleared
from mesh.testing.virtual_time import VirtualTimeLoop
from mesh.wire.codec import decode_value

PATIENCE_S: Final = 3_600.0
REAL_PATIENCE_S: Final = 30.0

Handler: TypeAlias = "TaskFunction[..., ..., Any, Any] | Callable[..., Any]"


class Ran(NamedTuple):
    """What one attempt came to: what a client would be given, and the states that were kept, in order."""

    result: Any
    checkpoints: list[Any]


class Crashed(BaseException):
    """The process of a handler is gone, as far as the handler can tell. No handler has a reason to catch it."""


def run_once(
    handler: Handler,
    payload: Any = None,
    *,
    attempt: int = 1,
    checkpoint: Any = None,
    task_id: str = "t1",
) -> Ran:
    """Run one attempt, here and now, as a node would: payload, checkpoints and result travel as they do in a mesh.

    A coroutine runs on an event loop of its own, whose clock is virtual: its sleeps cost nothing.

    Args:
        handler: what `@app.task` made, or any function that could be given to it.
        payload: as submitted.
        attempt: which try this is.
        checkpoint: the state an earlier attempt left.
        task_id: the task.

    Raises whatever the handler raises; InvalidPayload for what could not travel; Stuck if it does not end.
    """
    return _run(handler, payload, _Notebook(), attempt=attempt, checkpoint=checkpoint, task_id=task_id)


def crash_at_each_checkpoint(handler: Handler, payload: Any = None, *, task_id: str = "t1") -> list[Any]:
    """Crash a handler right after each checkpoint it keeps, and run it again from there: the result must be the same.

    First it runs undisturbed; that shows how many checkpoints there are. Then, for each of them, one attempt crashes
    there, and a second one goes on from what was kept. What the handler does to the outside world it does every time.

    Returns the results: undisturbed, and after a crash at the first, the second, ... checkpoint. Raises AssertionError
    if one differs, if there is no checkpoint to crash at, or if the handler catches the crash; and as run_once.
    """
    name = getattr(handler, "__name__", repr(handler))
    undisturbed = run_once(handler, payload, task_id=task_id)
    if not undisturbed.checkpoints:
        raise AssertionError(f"{name} keeps no checkpoint: there is nothing to crash at")
    results = [undisturbed.result]
    count = len(undisturbed.checkpoints)
    for number in range(1, count + 1):
        notebook = _Notebook(crash_at=number)
        try:
            _run(handler, payload, notebook, attempt=1, checkpoint=None, task_id=task_id)
        except Crashed:
            pass
        else:
            raise AssertionError(
                f"{name} did not crash at checkpoint {number} of {count}: it caught the crash, or kept fewer"
            )
        kept = notebook.states[-1]
        again = run_once(handler, payload, attempt=2, checkpoint=kept, task_id=task_id)
        if again.result != undisturbed.result:
            raise AssertionError(
                f"{name} crashed after checkpoint {number} of {count}, {kept!r}, and went on from it to "
                f"{again.result!r}; undisturbed it came to {undisturbed.result!r}"
            )
        results.append(again.result)
    return results


class _Notebook:
    """Keeps the checkpoints of one attempt: the Reach of its Context."""

    def __init__(self, crash_at: int = 0) -> None:
        self.states: list[Any] = []
        self.context: Context | None = None
        self.is_coroutine = False
        self._crash_at = crash_at

    def keep(self, state: bytes) -> Awaitable[None]:
        assert self.context is not None, "an attempt has begun"
        self.states.append(decode_value(state))
        self.context.kept(state)
        if self._crash_at and len(self.states) >= self._crash_at:
            raise Crashed(f"after checkpoint {len(self.states)}")
        return Done()

    def keep_blocking(self, state: bytes) -> None:
        if self.is_coroutine:
            raise RuntimeError("checkpoint_sync would block the event loop: `await ctx.checkpoint(state)` instead")
        self.keep(state)

    def submit(self, capability: str, payload: object, options: dict[str, Any]) -> Any:
        raise RuntimeError("this attempt belongs to no mesh: there is nowhere to submit to")


def _run(handler: Handler, payload: Any, notebook: _Notebook, *, attempt: int, checkpoint: Any, task_id: str) -> Ran:
    what = handler if isinstance(handler, TaskFunction) else _declared(handler)
    state = b"" if checkpoint is None else encode_value(checkpoint, "checkpoint")
    context = Context(task_id, attempt=attempt, token=attempt, node="n1", checkpoint=state, reach=notebook)
    notebook.context, notebook.is_coroutine = context, what.is_coroutine
    sent = None if payload is None else decode_value(encode_value(payload, "payload"))

    def call() -> Any:
        return what.call(context if what.wants_context else None, sent)

    result = _on_a_loop(call, getattr(what, "__name__", what.capability)) if what.is_coroutine else call()
    return Ran(decode_value(encode_value(result, "result")), notebook.states)


def _declared(handler: Callable[..., Any]) -> TaskFunction[..., ..., Any, Any]:
    app = Mesh("alone")
    app.task(capability="handler")(handler)
    return app.tasks["handler"]


def _on_a_loop(call: Callable[[], Awaitable[Any]], name: str) -> Any:
    """Run a coroutine to its end; where an event loop is running already, on a thread meanwhile."""
    if asyncio._get_running_loop() is None:
        return _on_this_thread(call, name)
    ends: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            ends.append(_on_this_thread(call, name))
        except BaseException as error:  # It is the handler's, or a Crashed; whoever called gets it.
            errors.append(error)

    thread = Thread(target=run, name=name)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return ends[0]


def _on_this_thread(call: Callable[[], Awaitable[Any]], name: str) -> Any:
    async def attempt() -> Any:
        return await call()

    loop = VirtualTimeLoop()
    driver = Driver(loop, patience_s=PATIENCE_S, real_patience_s=REAL_PATIENCE_S, why=lambda _: "")
    try:
        return driver.run(attempt(), f"{name} to end")
    finally:
        driver.run(cleared(), f"tasks of {name} to end")
        loop.close()
