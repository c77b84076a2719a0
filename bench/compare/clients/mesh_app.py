"""What the nodes can do: nothing, and one thing a node can be killed in the middle of."""

import asyncio
from typing import Any

from bench.compare.clients.words import note
from mesh import Mesh

app = Mesh("compare")


@app.task(capability="noop")
async def noop(**payload: Any) -> dict[str, Any]:
    """The price of a task is all overhead when the task is nothing."""
    return payload


@app.task(capability="nap", max_attempts=10)
async def nap(n: int, seconds: float, log: str) -> int:
    """Note the start, sleep, note the end."""
    note(log, "s", n)
    await asyncio.sleep(seconds)
    note(log, "e", n)
    return n
