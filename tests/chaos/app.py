"""What the nodes of a chaos run can do. Every result can be checked by whoever knows the payload."""

import asyncio
import os
from typing import Any

from mesh import Context, Mesh
from tests.chaos.expect import answer_to

app = Mesh("chaos")


def note(ctx: Context, path: str, what: str) -> None:
    """One atomic append: task, token, attempt, node, and what happened."""
    line = f"{ctx.task_id} {ctx.token} {ctx.attempt} {ctx.node} {what}\n".encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


@app.task(capability="quick")
async def quick(n: int, pad: str = "") -> list[int]:
    """Nothing but overhead; the answer shows that the payload arrived whole."""
    return answer_to(n, pad)


@app.task(capability="traced")
async def traced(ctx: Context, n: int, path: str, seconds: float) -> list[int]:
    """A side effect at both ends of some time: what the lines say must agree with what the ledger says."""
    note(ctx, path, "begin")
    await asyncio.sleep(seconds)
    note(ctx, path, "end")
    return [*answer_to(n, ""), ctx.token]


@app.task(capability="steps")
async def steps(ctx: Context, n: int, path: str, seconds: float) -> list[int]:
    """Goes on from its last checkpoint; the trace shows where each attempt began."""
    first = (ctx.checkpoint_state or {"done": 0})["done"]
    note(ctx, path, f"from-{first}")
    for step in range(first, 5):
        await asyncio.sleep(seconds / 5)
        await ctx.checkpoint({"done": step + 1})
    note(ctx, path, "end")
    return [*answer_to(n, ""), ctx.token]


@app.task(capability="stumble")
async def stumble(ctx: Context, n: int) -> list[int]:
    """Fails the first time."""
    if ctx.attempt == 1:
        raise ValueError("the first attempt fails")
    return answer_to(n, "")


@app.task(capability="doomed")
async def doomed(n: int) -> Any:
    """Fails every time: its end is a dead letter."""
    raise ValueError(f"{n} is doomed")
