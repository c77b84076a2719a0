"""What users write handlers with: `Mesh`, `@app.task` and `Context`.

    app = Mesh("research")

    @app.task(capability="code", max_attempts=3)
    async def write_sort(ctx: Context, prompt: str) -> str: ...

A payload that is a mapping becomes keyword arguments; any other becomes the single positional argument, and None
becomes no argument for a handler that needs none. A coroutine runs on the event loop of the node's agent process, a
plain function on a thread there, and a handler declared with `executor="process"` in a process of its own.
"""

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import update_wrapper
from types import MappingProxyType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload

import msgspec

from mesh.config import PAYLOAD_BYTES_MAX
from mesh.errors import InvalidPayload, TaskCancelled

Executor: TypeAlias = Literal["auto", "thread", "process"]
"""Where a handler is asked to run. `auto`: coroutines on the loop, plain functions on a thread."""

RunsOn: TypeAlias = Literal["loop", "thread", "process"]
"""Where it does run."""

PRIORITY_DEFAULT = 5
PRIORITY_MAX = 255
MAX_ATTEMPTS_DEFAULT = 3

_Called = ParamSpec("_Called")
_Sent = ParamSpec("_Sent")
_Returned = TypeVar("_Returned")
_Result = TypeVar("_Result")
_Result_co = TypeVar("_Result_co", covariant=True)


# --- what a handler is given ------------------------------------------------------------------------------------------


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
        deadline: when the attempt will be stopped; None, there is no such limit yet.
    """

    __slots__ = ("_checkpoint", "_reach", "attempt", "cancelled", "deadline", "node", "task_id", "token")

    def __init__(
        self,
        task_id: str,
        *,
        attempt: int = 1,
        token: int = 0,
        node: str = "",
        checkpoint: bytes = b"",
        reach: Reach | None = None,
    ) -> None:
        self.task_id = task_id
        self.attempt = attempt
        self.token = token
        self.node = node
        self.cancelled = False
        self.deadline: float | None = None
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

    def submit(
        self,
        capability: str,
        payload: object = None,
        *,
        task_id: str | None = None,
        priority: int | str | None = None,
        max_attempts: int | None = None,
    ) -> Any:
        """Submit a child task to the mesh this attempt runs in.

        In a coroutine: `handle = await ctx.submit(...)`. In a plain function it blocks and returns a blocking handle.
        A later attempt submits again: give a `task_id` made from `ctx.task_id` where that must not double the work.
        Raises what `submit` of the client raises; RuntimeError in a Context made by hand.
        """
        if self._reach is None:
            raise RuntimeError("this Context belongs to no mesh: there is nowhere to submit to")
        given = {"task_id": task_id, "priority": priority, "max_attempts": max_attempts}
        return self._reach.submit(capability, payload, {name: at for name, at in given.items() if at is not None})

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


# --- what a handler becomes -------------------------------------------------------------------------------------------


class Submitted(Protocol[_Result_co]):
    """A task that was accepted, as far as `TaskFunction.submit` promises it; the client's handle does more."""

    @property
    def id(self) -> str: ...

    async def result(self, timeout: float | None = None) -> _Result_co: ...

    async def status(self) -> Any: ...

    async def cancel(self) -> Any: ...


class Submits(Protocol):
    """Whoever takes tasks: the client, or its blocking twin."""

    def submit(
        self,
        capability: str,
        payload: Any,
        *,
        task_id: str | None = ...,
        priority: int | str = ...,
        max_attempts: int = ...,
    ) -> Any: ...


class _Shape:
    """What a handler's signature says about how to call it."""

    __slots__ = ("bare", "context", "leads", "named", "signature")

    def __init__(self, handler: Callable[..., Any]) -> None:
        signature = _signature(handler)
        parameters = list(signature.parameters.values())
        found = [parameter for parameter in parameters if _is_context(parameter)]
        if len(found) > 1:
            raise TypeError(f"{_name(handler)} takes a Context twice")
        self.context: str | None = found[0].name if found else None
        self.leads = bool(found) and found[0] is parameters[0] and found[0].kind is not inspect.Parameter.KEYWORD_ONLY
        if found and not self.leads and found[0].kind is inspect.Parameter.POSITIONAL_ONLY:
            raise TypeError(f"{_name(handler)} takes its Context by position, but not first")
        rest = [parameter for parameter in parameters if parameter not in found]
        self.signature = signature.replace(parameters=rest)
        unnamed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
        various = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        self.bare = all(p.default is not inspect.Parameter.empty or p.kind in various for p in rest)
        """Can be called with nothing besides a Context."""
        self.named = not any(parameter.kind in unnamed for parameter in rest)
        """Every parameter can be given by name."""


def _signature(handler: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(handler, eval_str=True)
    except Exception:  # An annotation that cannot be evaluated here may be anything; then its text must do.
        return inspect.signature(handler)


def _is_context(parameter: inspect.Parameter) -> bool:
    said = parameter.annotation
    if isinstance(said, str):
        said = Context if said.strip("'\"").rpartition(".")[2] == "Context" else said
    return said is Context or parameter.name == "ctx"


def _name(handler: Callable[..., Any]) -> str:
    return getattr(handler, "__qualname__", None) or repr(handler)


def _is_coroutine(handler: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


class TaskFunction(Generic[_Called, _Sent, _Returned, _Result]):
    """A handler and how its tasks are to be treated. Calling it just runs the handler, here and now.

    Attributes:
        capability: what a node that has it offers.
        priority: of tasks submitted through it; lower goes first.
        max_attempts: how often such a task is tried before it is a dead letter.
        executor: as declared.
        runs_on: as resolved.
        handler: the function itself.
    """

    __name__: str

    def __init__(
        self,
        handler: Callable[_Called, _Returned],
        *,
        capability: str,
        priority: int,
        max_attempts: int,
        executor: Executor,
    ) -> None:
        self.handler = handler
        self.capability = capability
        self.priority = priority
        self.max_attempts = max_attempts
        self.executor: Executor = executor
        self.is_coroutine = _is_coroutine(handler)
        self.runs_on: RunsOn = (
            "process" if executor == "process" else "loop" if self.is_coroutine and executor == "auto" else "thread"
        )
        self._shape = _Shape(handler)
        update_wrapper(self, handler)

    def __call__(self, *args: _Called.args, **kwargs: _Called.kwargs) -> _Returned:
        return self.handler(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.capability} of {_name(self.handler)}>"

    @property
    def wants_context(self) -> bool:
        return self._shape.context is not None

    def call(self, context: Context | None, payload: Any) -> Any:
        """Call the handler as an attempt does. `context` may be None only if `wants_context` is False."""
        shape = self._shape
        handler = cast(Callable[..., Any], self.handler)
        if isinstance(payload, dict):
            if shape.context is None:
                return handler(**payload)
            return handler(context, **payload) if shape.leads else handler(**payload, **{shape.context: context})
        args = () if payload is None and shape.bare else (payload,)
        if shape.context is None:
            return handler(*args)
        return handler(context, *args) if shape.leads else handler(*args, **{shape.context: context})

    def payload(self, *args: Any, **kwargs: Any) -> Any:
        """The payload that makes an attempt call the handler with these arguments.

        Raises InvalidPayload if they do not fit the handler, or cannot be told apart once sent: a handler with
        positional-only parameters or *args can only be sent one value, and not a mapping.
        """
        shape = self._shape
        try:
            bound = shape.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidPayload(f"{self.capability}: {error}") from None
        if shape.named:
            extra = [p.name for p in shape.signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
            sent = dict(bound.arguments)
            for name in extra:
                sent |= sent.pop(name, {})
            return sent
        if len(bound.args) != 1 or bound.kwargs or isinstance(bound.args[0], Mapping):
            raise InvalidPayload(f"{self.capability} takes arguments without names: send it one value, not a mapping")
        return bound.args[0]

    @overload
    def submit(self, mesh: Submits, /, *args: _Sent.args, **kwargs: _Sent.kwargs) -> Awaitable[Submitted[_Result]]: ...
    @overload
    def submit(
        self,
        mesh: Submits,
        /,
        *args: Any,
        task_id: str,
        priority: int | str = ...,
        max_attempts: int = ...,
        **kwargs: Any,
    ) -> Awaitable[Submitted[_Result]]: ...
    @overload
    def submit(
        self, mesh: Submits, /, *args: Any, priority: int | str, max_attempts: int = ..., **kwargs: Any
    ) -> Awaitable[Submitted[_Result]]: ...
    @overload
    def submit(
        self, mesh: Submits, /, *args: Any, max_attempts: int, **kwargs: Any
    ) -> Awaitable[Submitted[_Result]]: ...

    def submit(self, mesh: Submits, /, *args: Any, **kwargs: Any) -> Any:
        """Submit a task for this handler: its own arguments, without the Context.

        `handle = await write_sort.submit(mesh, prompt="write sort", task_id="t1")`. With `connect_sync` nothing is to
        be awaited: the handle itself comes back. The arguments are checked by type as long as no option (`task_id`,
        `priority`, `max_attempts`) is given. A handler with a parameter of such a name must be sent it by position.

        Raises InvalidPayload for arguments that do not fit, and what `submit` of the client raises.
        """
        task_id = kwargs.pop("task_id", None)
        priority = kwargs.pop("priority", None)
        max_attempts = kwargs.pop("max_attempts", None)
        return mesh.submit(
            self.capability,
            self.payload(*args, **kwargs),
            task_id=task_id,
            priority=self.priority if priority is None else priority,
            max_attempts=self.max_attempts if max_attempts is None else max_attempts,
        )


class _Decorator(Protocol):
    """What `app.task(...)` gives: it keeps the handler's signature, and tells the Context from what is submitted."""

    @overload
    def __call__(
        self, handler: Callable[Concatenate[Context, _Sent], Coroutine[Any, Any, _Result]], /
    ) -> TaskFunction[Concatenate[Context, _Sent], _Sent, Coroutine[Any, Any, _Result], _Result]: ...
    @overload
    def __call__(
        self, handler: Callable[_Sent, Coroutine[Any, Any, _Result]], /
    ) -> TaskFunction[_Sent, _Sent, Coroutine[Any, Any, _Result], _Result]: ...
    @overload
    def __call__(
        self, handler: Callable[Concatenate[Context, _Sent], _Result], /
    ) -> TaskFunction[Concatenate[Context, _Sent], _Sent, _Result, _Result]: ...
    @overload
    def __call__(self, handler: Callable[_Sent, _Result], /) -> TaskFunction[_Sent, _Sent, _Result, _Result]: ...


class Mesh:
    """The handlers one program offers to the mesh. A node loads it by `MODULE:NAME` and offers its capabilities."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tasks: dict[str, TaskFunction[..., ..., Any, Any]] = {}

    def __repr__(self) -> str:
        return f"Mesh({self.name!r})"

    @property
    def tasks(self) -> Mapping[str, TaskFunction[..., ..., Any, Any]]:
        """Capability -> handler, in the order they were declared."""
        return MappingProxyType(self._tasks)

    @property
    def capabilities(self) -> tuple[str, ...]:
        return tuple(self._tasks)

    def task(
        self,
        *,
        capability: str | None = None,
        priority: int = PRIORITY_DEFAULT,
        max_attempts: int = MAX_ATTEMPTS_DEFAULT,
        executor: Executor = "auto",
    ) -> _Decorator:
        """Declare a handler.

        Args:
            capability: what tasks ask for; the function's name if not given.
            priority: of tasks submitted through the decorated object, from 0 (first) to 255.
            max_attempts: likewise, 1 and up.
            executor: `auto`, `thread` (plain functions only) or `process` (CPU-bound work, or work that must be
                stoppable: only a process can be killed).

        Raises ValueError or TypeError, at import, for what cannot work.
        """
        if not 0 <= priority <= PRIORITY_MAX or max_attempts < 1:
            raise ValueError(
                f"need priority from 0 to {PRIORITY_MAX} and max_attempts >= 1, not {priority} and {max_attempts}"
            )
        if executor not in ("auto", "thread", "process"):
            raise ValueError(f"executor must be 'auto', 'thread' or 'process', not {executor!r}")

        def declare(handler: Callable[..., Any]) -> TaskFunction[..., ..., Any, Any]:
            name = capability or getattr(handler, "__name__", "")
            if not name:
                raise TypeError(f"{handler!r} has no name: give it a capability")
            _check(handler, executor)
            if name in self._tasks:
                raise ValueError(f"{self!r} already has a handler for {name!r}: {_name(self._tasks[name].handler)}")
            task: TaskFunction[..., ..., Any, Any] = TaskFunction(
                handler, capability=name, priority=priority, max_attempts=max_attempts, executor=executor
            )
            self._tasks[name] = task
            return task

        return cast(_Decorator, declare)


def _check(handler: Callable[..., Any], executor: Executor) -> None:
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise TypeError(f"{_name(handler)} is a generator; a handler returns one value")
    if executor == "thread" and _is_coroutine(handler):
        raise ValueError(f"{_name(handler)} is a coroutine: it runs on the loop, or with executor='process'")
