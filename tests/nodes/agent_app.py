"""Handlers that behave, and handlers that do not, for the tests of nodes/agents.py. Loaded only by agent processes."""

import asyncio
import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mesh import Context, Mesh
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
async def saves_greedily(ctx: Context) -> str:
    answers = [ctx.checkpoint(i) for i in range(20)]
    await answers[-1]
    return "never"


@app.task()
async def waits(path: str) -> None:
    """Write what happens to it where the test can see it."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        Path(path).write_text("cancelled")
        raise


@app.task()
def waits_in_thread(ctx: Context, path: str) -> None:
    try:
        ctx.checkpoint_sync("waiting for an answer that never comes")
    except TaskCancelled:
        assert ctx.cancelled
        Path(path).write_text("cancelled")
        ctx.raise_if_cancelled()


@app.task(executor="process")
def spins(path: str = "") -> None:
    """Hold the interpreter's lock for as long as they let us."""
    if path:
        Path(path).write_text(str(os.getpid()))
    ctypes.PyDLL(None).usleep(600_000_000)


@app.task()
async def holds_the_lock(seconds: float) -> str:
    """Hold the interpreter's lock of the shared process: no other attempt there moves."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return "done"


@app.task()
async def shuts_the_door() -> None:
    """Close every descriptor, the socket to the node among them."""
    os.closerange(3, 256)
    await asyncio.sleep(600)


@app.task()
async def leaves_a_child(path: str) -> None:
    child = subprocess.Popen(["sleep", "600"])
    Path(path).write_text(str(child.pid))
    os._exit(1)


@app.task()
def speaks(ctx: Context) -> None:
    print("said on stdout")
    print("said on stderr", file=sys.stderr)
    ctx.log.warning("said to the log")


@app.task()
async def sleeps(ms: int) -> int:
    await asyncio.sleep(ms / 1_000)
    return ms


@app.task()
def sleeps_in_thread(ms: int) -> int:
    time.sleep(ms / 1_000)
    return ms


@app.task()
async def noop(**_: Any) -> None:
    return None
