"""What users write handlers with: `Mesh`, `@app.task` and `Context`.

    app = Mesh("research")

    @app.task(capability="code", max_attempts=3)
    async def write_sort(ctx: Context, prompt: str) -> str: ...

A payload that is a mapping becomes keyword arguments; any other becomes the single positional argument, and None
becomes no argument for a handler that needs none. A coroutine runs on the event loop of the node's agent process, a
plain function on a thread there, and a handler declared with `executor="process"` in a process of its own.
"""

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import update_wrapper
from types import MappingProxyType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, Unpack, cast, overload

from mesh.context import Context, Done, Reach, encode_value
from mesh.errors import InvalidPayload
from mesh.treatment import (
    ATTEMPTS_DEFAULT,
    ON_LOSS,
    OPTION_NAMES,
    PRIORITY_DEFAULT,
    PRIORITY_MAX,
    Duration,
    Key,
    RateLimit,
    Retry,
    SubmitOptions,
    check_name,
    check_options,
    chosen,
    limit_ms,
    priority_number,
)

__all__ = ["Context", "Done", "Executor", "Mesh", "Reach", "RunsOn", "TaskFunction", "encode_value"]

Executor: TypeAlias = Literal["auto", "thread", "process"]
"""Where a handler is asked to run. `auto`: coroutines on the loop, plain functions on a thread."""

RunsOn: TypeAlias = Literal["loop", "thread", "process"]
"""Where it does run."""

ALWAYS_OPTIONS = ("task_id", "priority", "max_attempts")
"""What `TaskFunction.submit` never takes for an argument of the handler."""

_Called = ParamSpec("_Called")
_Sent = ParamSpec("_Sent")
_Returned = TypeVar("_Returned")
_Result = TypeVar("_Result")
_Result_co = TypeVar("_Result_co", covariant=True)


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
        max_attempts: int | None = ...,
        **treatment: Any,
    ) -> Any: ...


class _Shape:
    """What a handler's signature says about how to call it."""

    __slots__ = ("bare", "context", "leads", "named", "options", "signature")

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
        takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in rest)
        own = OPTION_NAMES if takes_any else signature.parameters
        self.options = frozenset(ALWAYS_OPTIONS) | (OPTION_NAMES - frozenset(own))
        """Options of a submit that cannot be meant for the handler."""


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
        treatment: further options of tasks submitted through it, by the name that `submit` of the client has for them.
        never: errors of these types are final.
        version: of the handler; empty if it has none.
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
        treatment: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.handler = handler
        self.capability = capability
        self.priority = priority
        self.max_attempts = max_attempts
        self.executor: Executor = executor
        self.treatment = treatment
        retry: Retry | None = treatment.get("retry")
        self.never: tuple[type[BaseException], ...] = () if retry is None else retry.types
        self.version: str = treatment.get("version", "")
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
        The client's further options may be given too, unless the handler has such a parameter, or takes any; `options`
        keeps them apart from arguments, and the arguments checked.

        Raises InvalidPayload for arguments that do not fit, and what `submit` of the client raises.
        """
        options = self._shape.options
        given = {name: kwargs.pop(name) for name in [name for name in kwargs if name in options]}
        return self._submit(mesh, self.payload(*args, **kwargs), given)

    def options(self, **options: Unpack[SubmitOptions]) -> "Submission[_Sent, _Result]":
        """Options for one submit, in place of the declared ones, and apart from the handler's arguments.

        `handle = await write_sort.options(priority="high", delay="5s").submit(mesh, "write sort")`. None, for an option
        that was declared, does without it. They are those of MeshClient.submit. Raises TypeError for another.
        """
        check_options(options, OPTION_NAMES, "options()")
        return Submission(self, options)

    def _submit(self, mesh: Submits, payload: Any, given: Mapping[str, Any]) -> Any:
        task_id, priority, max_attempts = (given.get(name) for name in ALWAYS_OPTIONS)
        treatment = dict(self.treatment)
        if given:
            treatment |= {name: value for name, value in given.items() if name not in ALWAYS_OPTIONS}
            if max_attempts is None and given.get("retry") is not None:
                max_attempts = given["retry"].max_attempts
        return mesh.submit(
            self.capability,
            payload,
            task_id=task_id,
            priority=self.priority if priority is None else priority,
            max_attempts=self.max_attempts if max_attempts is None else max_attempts,
            **treatment,
        )


class Submission(Generic[_Sent, _Result]):
    """A handler with options for its next tasks; what `TaskFunction.options` gives. May be kept and used again."""

    __slots__ = ("_given", "_task")

    def __init__(self, task: TaskFunction[..., _Sent, Any, _Result], given: Mapping[str, Any]) -> None:
        self._task = task
        self._given = given

    def submit(self, mesh: Submits, /, *args: _Sent.args, **kwargs: _Sent.kwargs) -> Awaitable[Submitted[_Result]]:
        """As TaskFunction.submit; all keywords are the handler's."""
        task = self._task
        return cast("Awaitable[Submitted[_Result]]", task._submit(mesh, task.payload(*args, **kwargs), self._given))


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
        priority: int | str = PRIORITY_DEFAULT,
        max_attempts: int = ATTEMPTS_DEFAULT,
        executor: Executor = "auto",
        retry: Retry | None = None,
        timeout: Duration | None = None,
        schedule_timeout: Duration | None = None,
        progress_timeout: Duration | None = None,
        idempotent: bool = True,
        on_loss: str | None = None,
        fallback: str | None = None,
        concurrency: Key | None = None,
        rate: RateLimit | Iterable[RateLimit] | None = None,
        version: str = "",
    ) -> _Decorator:
        """Declare a handler. But for `capability`, `executor` and `version`, all is said of tasks submitted through the
        decorated object, and may be said otherwise for each of them.

        Args:
            capability: what tasks ask for; the function's name if not given.
            priority: from 0 (first) to 255, or urgent, critical, high, normal, low.
            max_attempts: 1 and up.
            executor: `auto`, `thread` (plain functions only) or `process` (CPU-bound work, or work that must be
                stoppable: only a process can be killed).
            retry: pauses between attempts, errors that are final, and max_attempts, whatever else that is said to be.
            timeout: from the grant to the outcome of one attempt ("10m", or seconds): the `run_timeout` of a submit.
            schedule_timeout, progress_timeout, fallback, concurrency, rate: see mesh.treatment.Treatment.
            idempotent: False: that it ran twice would do harm, so a task whose node was lost is held (`on_loss`).
            on_loss: `rerun`, `dlq` or `hold`.
            version: of the handler. Its node says it has this one, and tasks submitted through it run on no other.

        Raises ValueError or TypeError, at import, for what cannot work.
        """
        number, attempts = _ranks(priority, max_attempts if retry is None else retry.max_attempts)
        treatment = _treatment(
            retry=retry,
            run_timeout=timeout,
            schedule_timeout=schedule_timeout,
            progress_timeout=progress_timeout,
            on_loss="hold" if on_loss is None and not idempotent else on_loss,
            fallback=fallback,
            concurrency=concurrency,
            rate=rate if rate is None or isinstance(rate, RateLimit) else tuple(rate),
            version=version or None,
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
                handler,
                capability=name,
                priority=number,
                max_attempts=attempts,
                executor=executor,
                treatment=MappingProxyType(treatment),
            )
            self._tasks[name] = task
            return task

        return cast(_Decorator, declare)


def _check(handler: Callable[..., Any], executor: Executor) -> None:
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise TypeError(f"{_name(handler)} is a generator; a handler returns one value")
    if executor == "thread" and _is_coroutine(handler):
        raise ValueError(f"{_name(handler)} is a coroutine: it runs on the loop, or with executor='process'")


def _ranks(priority: int | str, max_attempts: int) -> tuple[int, int]:
    try:
        number = priority_number(priority)
    except InvalidPayload as error:
        if isinstance(priority, str):
            raise ValueError(str(error)) from None
        number = -1
    if number < 0 or max_attempts < 1:
        raise ValueError(
            f"need priority from 0 to {PRIORITY_MAX} and max_attempts >= 1, not {priority} and {max_attempts}"
        )
    return number, max_attempts


def _treatment(**said: Any) -> dict[str, Any]:
    """What was said, checked as far as it can be without a payload. Raises ValueError."""
    treatment = {name: value for name, value in said.items() if value is not None}
    kinds = {"retry": Retry, "concurrency": Key, "rate": RateLimit}
    try:
        for name, value in treatment.items():
            if name.endswith("_timeout"):
                limit_ms("timeout" if name == "run_timeout" else name, value)
            elif name == "on_loss":
                chosen(name, value, ON_LOSS)
            elif name in kinds:
                several = value if isinstance(value, tuple) else (value,)
                if not all(isinstance(each, kinds[name]) for each in several):
                    raise InvalidPayload(f"{name} is a mesh.{kinds[name].__name__}, not {value!r}")
            else:
                check_name(name, value)
    except InvalidPayload as error:
        raise ValueError(str(error)) from None
    return treatment
