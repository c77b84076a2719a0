"""User code for the process tests. Every run of a handler leaves one line in the file its payload names."""

import asyncio
import ctypes
import os
import time
from typing import Any

from mesh import Context, Mesh

app = Mesh("process-tests")


def note(ctx: Context, path: str, what: str) -> None:
    """One atomic append: task, token, attempt, node, and what happened."""
    line = f"{ctx.task_id} {ctx.token} {ctx.attempt} {ctx.node} {what}\n".encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


@app.task(capability="work")
async def work(ctx: Context, path: str, seconds: float = 0.0, value: Any = None) -> dict[str, Any]:
    """Take some time, leave a trace, and give back what was given."""
    note(ctx, path, "begin")
    if seconds:
        await asyncio.sleep(seconds)
    note(ctx, path, "end")
    return {"node": ctx.node, "attempt": ctx.attempt, "value": value}


@app.task(capability="steps")
async def steps(ctx: Context, path: str, count: int, seconds: float) -> dict[str, Any]:
    """Go on from the last checkpoint, one step at a time."""
    state = ctx.checkpoint_state or {"done": 0}
    first = state["done"]
    note(ctx, path, f"from-{first}")
    for step in range(first, count):
        await asyncio.sleep(seconds)
        await ctx.checkpoint({"done": step + 1})
    return {"first": first, "attempt": ctx.attempt}


_gates: dict[str, "asyncio.Task[None]"] = {}


async def _opened(gate: str) -> None:
    while not os.path.exists(gate):
        await asyncio.sleep(0.05)


@app.task(capability="sleep")
async def sleep(ctx: Context, path: str, gate: str) -> None:
    """Sleep until a file is there. However many do in one process, one of them looks."""
    note(ctx, path, "begin")
    if gate not in _gates:
        _gates[gate] = asyncio.create_task(_opened(gate))
    await asyncio.shield(_gates[gate])


@app.task(capability="hold")
async def hold(ctx: Context, seconds: float) -> str:
    """Hold the interpreter: nothing else in this process runs meanwhile, not even its event loop."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return "held"


@app.task(capability="seize")
async def seize(ctx: Context, path: str) -> None:
    """Seize the interpreter's lock for ten minutes. The trace says in which process."""
    note(ctx, path, f"pid-{os.getpid()}")
    ctypes.PyDLL(None).usleep(600_000_000)


@app.task(capability="fail")
async def fail(ctx: Context, how: str) -> Any:
    """Fail in the way asked for."""
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        os.kill(os.getpid(), 11)
    if how == "unserialisable":
        return object()
    raise ValueError(f"as asked: {how}")
