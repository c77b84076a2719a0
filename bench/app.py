"""What the nodes of `mesh bench` can do: nothing, and one thing that takes a while."""

import asyncio
from typing import Any

from mesh import Mesh

app = Mesh("bench")


@app.task(capability="noop")
async def noop(**payload: Any) -> dict[str, Any]:
    """The price of a task is all overhead when the task is nothing."""
    return payload


@app.task(capability="nap", max_attempts=10)
async def nap(seconds: float) -> float:
    """Something a node can be killed in the middle of."""
    await asyncio.sleep(seconds)
    return seconds
