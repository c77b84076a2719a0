"""Handlers that behave, and handlers that do not, for the tests of nodes/agents.py. Loaded only by agent processes."""

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from mesh import Context, Mesh, Retry
from mesh.errors import Refused, TaskCancelled

app = Mesh("tests")


@app.task()
async def echo(**payload: Any) -> Any:
    return payload


@app.task()
async def whole(value: Any) -> Any:
    return value


@app.task()
async def who(ctx: Context, note: str = "") -> list[Any]:
    return [ctx.task_id, ctx.attempt, ctx.token, ctx.node, ctx.checkpoint_state, note, os.environ["MESH_PEER"]]


@app.task()
def in_thread(ctx: Context) -> list[Any]:
    return [os.getpid(), threading.current_thread() is threading.main_thread(), ctx.task_id]


@app.task()
async def pid() -> int:
    return os.getpid()


@app.task(executor="process")
def pid_of_its_own() -> int:
    return os.getpid()


@app.task(executor="process")
async def coroutine_of_its_own(ctx: Context) -> int:
    await ctx.checkpoint({"in": "a process"})
    return os.getpid()


@app.task()
async def raises(message: str = "no such luck") -> None:
    raise ValueError(message)


@app.task()
async def raises_odd() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even a message")

    raise Odd


@app.task()
def exits(code: int = 3) -> None:
    sys.exit(code)


@app.task()
async def exits_on_the_side() -> str:
    async def side() -> None:
        sys.exit(4)

    task = asyncio.ensure_future(side())
    await asyncio.wait([task])
    return "went on"


@app.task()
async def interrupts() -> None:
    raise KeyboardInterrupt


@app.task()
async def dies(code: int = 3) -> None:
    os._exit(code)


@app.task()
async def dies_of_memory() -> None:
    ctypes.string_at(0)


@app.task(executor="process")
def dies_alone() -> None:
    ctypes.string_at(0)


@app.task()
async def unspeakable() -> object:
    return object()


@app.task()
async def surrogate() -> str:
    return "\ud800"


@app.task()
async def large(size: int) -> bytes:
    return b"x" * size


@app.task()
async def saves(ctx: Context, state: Any) -> list[Any]:
    before = ctx.checkpoint_state
    try:
        await ctx.checkpoint(state)
    except Refused as refused:
        return ["refused", str(refused)]
    return [before, ctx.checkpoint_state]


@app.task()
def saves_in_thread(ctx: Context, state: Any) -> list[Any]:
    ctx.checkpoint_sync(state)
    ctx.checkpoint([state, "again"])
    return [ctx.checkpoint_state]


@app.task()
async def saves_wrongly(ctx: Context) -> None:
    ctx.checkpoint_sync({"i": 1})


@app.task()
async def saves_greedily(ctx: Context) -> list[str]:
    """Offer more checkpoints than may wait, and only then look at the answers."""
    answers = [ctx.checkpoint(i) for i in range(18)]
    return [str(answer or "kept") for answer in await asyncio.gather(*answers, return_exceptions=True)]


@app.task()
async def waits(path: str) -> None:
    """Write what happens to it where the test can see it."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        Path(path).write_text("cancelled")
        raise


@app.task()
def waits_on_thread() -> None:
    threading.Event().wait()


@app.task()
def waits_in_thread(ctx: Context, path: str) -> None:
    try:
        ctx.checkpoint_sync("waiting for an answer that never comes")
    except TaskCancelled:
        assert ctx.cancelled
        Path(path).write_text("cancelled")
        ctx.raise_if_cancelled()


@app.task(executor="process")
def spins() -> None:
    """Hold the interpreter's lock for as long as they let us."""
    ctypes.PyDLL(None).usleep(600_000_000)


@app.task()
async def holds_the_lock() -> None:
    """Hold the interpreter's lock of the shared process: nothing there moves any more, its event loop least of all."""
    ctypes.PyDLL(None).usleep(600_000_000)


def tells(path: str, what: str) -> None:
    """Say something to the test, which listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as voice:
        voice.sendto(what.encode(), path)


@app.task()
async def says(path: str) -> str:
    tells(path, "said")
    return "said"


@app.task()
async def holds_the_lock_from_now_on(path: str) -> None:
    tells(path, "begun")
    ctypes.PyDLL(None).usleep(600_000_000)


@app.task()
def holds_the_lock_in_thread(path: str) -> None:
    tells(path, "begun")
    ctypes.PyDLL(None).usleep(600_000_000)


@app.task()
async def never_yields(path: str) -> None:
    tells(path, "begun")
    time.sleep(600)


@app.task()
def never_looks(path: str) -> None:
    tells(path, "begun")
    threading.Event().wait()


@app.task()
async def reads(path: str) -> str:
    """Keep the event loop waiting until somebody writes."""
    return Path(path).read_text()


@app.task()
async def heeds_the_second(path: str) -> None:
    tells(path, "begun")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        tells(path, "once")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        tells(path, "twice")
        raise


@app.task()
async def heeds_nothing(path: str) -> None:
    tells(path, "begun")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            tells(path, "cancelled")


@app.task()
def until_when(ctx: Context) -> Any:
    return ctx.deadline


@app.task(retry=Retry(never=(LookupError,)), version="2.1")
async def hopeless(what: str) -> None:
    raise KeyError(what) if what == "key" else ValueError(what)


@app.task()
async def shuts_the_door() -> None:
    """Close every descriptor, the socket to the node among them."""
    os.closerange(3, 256)
    await asyncio.sleep(600)


@app.task()
async def leaves_a_child(ctx: Context) -> None:
    child = subprocess.Popen(["sleep", "600"])
    await ctx.checkpoint(child.pid)
    os._exit(1)


@app.task()
async def speaks_rubbish() -> None:
    """Write to the node's socket as a handler should not."""
    for number in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(number))) as found:
                if found.family == socket.AF_UNIX and found.type == socket.SOCK_STREAM:
                    found.send(b"\xff\xff\xff\xff and so on")
        except OSError:
            continue
    await asyncio.sleep(600)


@app.task()
def speaks(ctx: Context) -> None:
    print("said on stdout")
    print("said on stderr", file=sys.stderr)
    ctx.log.warning("said to the log")


@app.task()
async def noop(**_: Any) -> None:
    return None


@app.task()
async def raises_surrogate() -> None:
    raise ValueError("\ud800")


@app.task()
async def cancels_itself() -> None:
    raise asyncio.CancelledError


@app.task()
async def dies_soon() -> None:
    asyncio.get_running_loop().call_later(0.001, os._exit, 0)
    await asyncio.sleep(600)


@app.task()
def waits_deaf_in_thread(ctx: Context) -> None:
    """Wait for a file of the name in the checkpoint, whatever becomes of the attempt."""
    with tempfile.TemporaryDirectory() as place:
        flag = Path(place) / "flag"
        try:
            ctx.checkpoint_sync(str(flag))
        except TaskCancelled:
            while not flag.exists():
                time.sleep(0.001)


@app.task(executor="process")
async def ignores_sigterm(ctx: Context) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    await ctx.checkpoint("deaf")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


@app.task()
async def saves_too_much(ctx: Context) -> None:
    await ctx.checkpoint(b"x" * (1 << 20))


@app.task()
async def submits(ctx: Context, count: int) -> list[Any]:
    handles = [await ctx.submit("whole", [i], task_id=f"{ctx.task_id}/{i}") for i in range(count)]
    return [await handle.result(20) for handle in handles]


@app.task()
def submits_in_thread(ctx: Context, count: int) -> list[Any]:
    handles = [ctx.submit("whole", [i], task_id=f"{ctx.task_id}/{i}", priority="high") for i in range(count)]
    return [handle.result(20) for handle in handles]
