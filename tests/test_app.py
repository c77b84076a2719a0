"""What users write handlers with: signatures kept, payloads mapped, contexts made by hand."""

import asyncio
import functools
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import mesh
from mesh import Context, Key, Mesh, RateLimit, Retry
from mesh.errors import InvalidPayload

if TYPE_CHECKING:
    from mesh.app import Context as Ctx

app = Mesh("tests")
treated = Mesh("treated")


@app.task(capability="code", priority=3, max_attempts=7)
async def write_sort(ctx: Context, prompt: str, lines: int = 10) -> str:
    """Write a sort."""
    return f"{ctx.task_id}: {prompt} in {lines}"


@app.task()
def add(left: int, right: int = 2) -> int:
    return left + right


@app.task(executor="process")
def crunch(numbers: list[int], *, ctx: Context) -> int:
    return sum(numbers) + ctx.attempt


@app.task()
async def later(ctx: "Ctx", value: Any) -> Any:
    return value


@app.task()
async def unmarked(ctx, value=None):  # type: ignore[no-untyped-def]
    return [ctx.task_id, value]


@app.task()
def anything(first: Any, /) -> Any:
    return first


@app.task()
async def gathers(**rest: Any) -> Any:
    return rest


class Taken:
    """A mesh that notes what is submitted."""

    def __init__(self) -> None:
        self.last: tuple[Any, ...] = ()

    async def submit(self, capability: str, payload: Any, **options: Any) -> str:
        self.last = (capability, payload, options)
        return "handle"


# --- declaring --------------------------------------------------------------------------------------------------------


def test_a_declared_handler_tells_what_it_is() -> None:
    assert (write_sort.capability, write_sort.priority, write_sort.max_attempts) == ("code", 3, 7)
    assert (add.capability, add.priority, add.max_attempts, add.executor) == ("add", 5, 3, "auto")
    assert [task.runs_on for task in (write_sort, add, crunch)] == ["loop", "thread", "process"]
    assert write_sort.__name__ == "write_sort"
    assert write_sort.__doc__ == "Write a sort."
    assert repr(write_sort) == "<task code of write_sort>"
    assert app.capabilities == ("code", "add", "crunch", "later", "unmarked", "anything", "gathers")
    assert app.tasks["code"] is write_sort
    assert repr(app) == "Mesh('tests')"


def test_a_declared_handler_is_still_a_function() -> None:
    assert asyncio.run(write_sort(Context("t1"), "bubbles", lines=3)) == "t1: bubbles in 3"
    assert write_sort.handler(Context("t1"), "x").close() is None
    assert add(1) == 3


def test_what_cannot_work_is_refused_when_declared() -> None:
    other = Mesh("other")
    with pytest.raises(ValueError, match="priority from 0 to 255 and max_attempts >= 1, not 5 and 0"):
        other.task(max_attempts=0)
    with pytest.raises(ValueError, match="priority from 0 to 255"):
        other.task(priority=256)
    with pytest.raises(ValueError, match="executor must be 'auto', 'thread' or 'process', not 'gpu'"):
        other.task(executor="gpu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="write_sort is a coroutine: it runs on the loop"):
        other.task(executor="thread")(write_sort.handler)
    with pytest.raises(ValueError, match=r"Mesh\('tests'\) already has a handler for 'add': add"):
        app.task(capability="add")(lambda: None)

    def counts():  # type: ignore[no-untyped-def]
        yield 1

    def two(ctx: Context, also: Context) -> None: ...

    def hidden(value: int, ctx: Context, /) -> None: ...

    with pytest.raises(TypeError, match="counts is a generator"):
        other.task()(counts)
    with pytest.raises(TypeError, match="two takes a Context twice"):
        other.task()(two)
    with pytest.raises(TypeError, match="hidden takes its Context by position, but not first"):
        other.task()(hidden)
    assert other.capabilities == ()


def test_objects_and_partials_can_be_handlers() -> None:
    class Coder:
        async def __call__(self, ctx: Context, n: int) -> int:
            return n

    other = Mesh("other")
    coder = other.task(capability="code")(Coder())
    assert (coder.runs_on, coder.wants_context) == ("loop", True)
    with pytest.raises(TypeError, match="has no name: give it a capability"):
        other.task()(functools.partial(add.handler, 1))
    half = other.task(capability="half")(functools.partial(add.handler, 1))
    assert (half.runs_on, half.call(None, {"right": 5})) == ("thread", 6)


# --- payloads ---------------------------------------------------------------------------------------------------------


def test_a_mapping_becomes_keyword_arguments_and_anything_else_the_one_argument() -> None:
    ctx = Context("t1")
    assert asyncio.run(write_sort.call(ctx, {"prompt": "a", "lines": 1})) == "t1: a in 1"
    assert asyncio.run(write_sort.call(ctx, "a")) == "t1: a in 10"
    assert add.call(None, {"left": 1}) == 3
    assert add.call(None, 5) == 7
    assert crunch.call(ctx, [1, 2]) == 4
    assert crunch.call(ctx, {"numbers": [3]}) == 4
    assert anything.call(None, [1]) == [1]
    assert asyncio.run(gathers.call(None, {"a": 1})) == {"a": 1}


def test_none_is_no_argument_for_a_handler_that_needs_none() -> None:
    ctx = Context("t1")
    assert asyncio.run(unmarked.call(ctx, None)) == ["t1", None]
    assert asyncio.run(gathers.call(None, None)) == {}
    assert asyncio.run(later.call(ctx, None)) is None
    with pytest.raises(TypeError):
        write_sort.call(ctx, {})


def test_a_context_is_known_by_its_type_its_types_name_or_its_own_name() -> None:
    assert [task.wants_context for task in (write_sort, later, unmarked, crunch)] == [True] * 4
    assert [task.wants_context for task in (add, anything, gathers)] == [False] * 3


def test_submit_sends_the_handlers_own_arguments_by_name() -> None:
    taken: Any = Taken()

    async def story() -> None:
        handle: Any = await write_sort.submit(taken, "quick", lines=4)
        assert handle == "handle"
        options = {"task_id": None, "priority": 3, "max_attempts": 7}
        assert taken.last == ("code", {"prompt": "quick", "lines": 4}, options)
        await crunch.submit(taken, [1], task_id="t1", priority="high", max_attempts=1)
        assert taken.last == ("crunch", {"numbers": [1]}, {"task_id": "t1", "priority": "high", "max_attempts": 1})
        await gathers.submit(taken, a=1, rest=2)
        assert taken.last[1] == {"a": 1, "rest": 2}
        await anything.submit(taken, 3)
        assert taken.last[1] == 3

    asyncio.run(story())


def test_arguments_that_do_not_fit_are_refused_before_anything_is_sent() -> None:
    taken = Taken()
    cases: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
        (write_sort, (), {}),
        (write_sort, ("a",), {"line": 1}),
        (add, (1, 2, 3), {}),
        (anything, ({"a": 1},), {}),
        (gathers, (1,), {}),
    ]
    for task, args, named in cases:
        with pytest.raises(InvalidPayload, match=rf"^{task.capability}[: ]"):
            task.submit(taken, *args, **named)
    assert taken.last == ()


def test_what_is_submitted_is_what_the_handler_is_called_with() -> None:
    cases: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
        (add, (1,), {"right": 4}),
        (anything, (7,), {}),
        (add, (9,), {}),
    ]
    for task, args, named in cases:
        sent = msgspec.msgpack.decode(msgspec.msgpack.encode(task.payload(*args, **named)))
        assert task.call(None, sent) == task(*args, **named)


# --- how tasks are treated ------------------------------------------------------------------------------------------


@treated.task(
    priority="high",
    retry=Retry(5, never=(ValueError, "Gone")),
    timeout="10m",
    schedule_timeout=60,
    idempotent=False,
    fallback="simple",
    concurrency=Key("payload.user"),
    rate=[RateLimit(10)],
    version="2",
)
def charge(user: str, amount: int = 1) -> None: ...


@treated.task()
def deliver(key: str, delay: int = 0) -> None: ...


@treated.task(capability="collect")
def collect(**items: Any) -> None: ...


CHARGE = {
    "retry": Retry(5, never=(ValueError, "Gone")),
    "run_timeout": "10m",
    "schedule_timeout": 60,
    "on_loss": "hold",
    "fallback": "simple",
    "concurrency": Key("payload.user"),
    "rate": (RateLimit(10),),
    "version": "2",
}


def test_what_is_declared_is_kept_and_is_how_its_tasks_are_treated() -> None:
    taken: Any = Taken()
    assert (charge.priority, charge.max_attempts, charge.version, charge.never) == (3, 5, "2", (ValueError,))
    assert charge.treatment == CHARGE
    assert (add.treatment, add.version, add.never) == ({}, "", ())

    async def story() -> None:
        await charge.submit(taken, "ana")
        plain = {"task_id": None, "priority": 3, "max_attempts": 5}
        assert taken.last == ("charge", {"user": "ana"}, plain | CHARGE)

        # Otherwise for one of them; None does without.
        once = charge.options(task_id="t1", retry=Retry(2), concurrency=None, delay="5s", priority=None)
        await once.submit(taken, user="eva", amount=2)
        own = {"task_id": "t1", "priority": 3, "max_attempts": 2}
        otherwise = CHARGE | {"retry": Retry(2), "concurrency": None, "delay": "5s"}
        assert taken.last == ("charge", {"user": "eva", "amount": 2}, own | otherwise)

        await charge.options(retry=Retry(2), max_attempts=9).submit(taken, "ana")
        assert taken.last[2]["max_attempts"] == 9

    asyncio.run(story())


def test_options_and_arguments_of_a_handler_never_clash() -> None:
    """What is given to `submit` is an option unless the handler has such a parameter; `options` takes nothing else."""
    taken: Any = Taken()
    plain = {"task_id": None, "priority": 5, "max_attempts": 3}

    async def story() -> None:
        sent: Any = deliver  # Options beside arguments are beyond what a type checker can tell apart.
        await sent.submit(taken, key="a", delay=2, run_timeout="1m", task_id="t1")
        assert taken.last == ("deliver", {"key": "a", "delay": 2}, plain | {"task_id": "t1", "run_timeout": "1m"})
        await deliver.options(key="k", delay=1).submit(taken, key="a", delay=2)
        assert taken.last == ("deliver", {"key": "a", "delay": 2}, plain | {"key": "k", "delay": 1})
        await collect.submit(taken, location="eu", rate=3)
        assert taken.last == ("collect", {"location": "eu", "rate": 3}, plain)
        await collect.options(location="eu").submit(taken, priority=3)
        assert taken.last == ("collect", {"priority": 3}, plain | {"location": "eu"})

    asyncio.run(story())
    with pytest.raises(TypeError, match=r"^options\(\) got an unexpected keyword argument 'prio'$"):
        deliver.options(prio=3)  # type: ignore[call-arg]


def test_a_loss_may_be_said_to_matter_in_another_way() -> None:
    other = Mesh("other")
    held = other.task(capability="a", idempotent=False)(add.handler)
    dead = other.task(capability="b", idempotent=False, on_loss="dlq")(add.handler)
    assert (held.treatment, dead.treatment) == ({"on_loss": "hold"}, {"on_loss": "dlq"})
    one = other.task(capability="c", rate=RateLimit(1), progress_timeout="5s")(add.handler)
    assert one.treatment == {"rate": RateLimit(1), "progress_timeout": "5s"}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"priority": "soon"}, "no priority is called 'soon'"),
        ({"timeout": "soon"}, "timeout is seconds, or text like"),
        ({"schedule_timeout": 0}, "schedule_timeout is longer than 0"),
        ({"on_loss": "lost"}, "on_loss is one of rerun, dlq, hold"),
        ({"concurrency": "gpu"}, "concurrency is a mesh.Key, not 'gpu'"),
        ({"rate": (5,)}, "rate is a mesh.RateLimit, not (5,)"),
        ({"version": "a\nb"}, "a version has only printable characters"),
        ({"fallback": ""}, "a fallback is text of 1 to 200 characters"),
    ],
)
def test_a_treatment_that_cannot_be_is_refused_when_declared(said: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError) as refused:
        Mesh("other").task(**said)
    assert str(refused.value).startswith(why)


# --- the package ------------------------------------------------------------------------------------------------------


def test_importing_mesh_loads_nothing_else() -> None:
    """Neither asyncio, nor msgspec, nor zmq: a name is paid for when it is used."""
    code = "import sys; import mesh; print(*[m for m in ('asyncio', 'msgspec', 'zmq', 'mesh.app') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "\n"


def test_the_public_names_are_there() -> None:
    assert sorted(mesh.__all__) == [
        "Context",
        "Key",
        "Mesh",
        "Outcome",
        "RateLimit",
        "Retry",
        "connect",
        "connect_sync",
        "errors",
    ]
    assert all(getattr(mesh, name) is not None for name in mesh.__all__)
    assert set(mesh.__all__) <= set(dir(mesh))
    with pytest.raises(AttributeError, match="module 'mesh' has no attribute 'nonsense'"):
        _ = mesh.nonsense
