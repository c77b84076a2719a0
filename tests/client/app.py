"""What the nodes of these tests can do."""

import asyncio
from typing import Any

from mesh import Context, Mesh

app = Mesh("tests")


@app.task(capability="echo")
async def echo(**payload: Any) -> dict[str, Any]:
    return payload


@app.task(capability="fail")
async def fail(why: str) -> None:
    raise ValueError(why)


@app.task(capability="nap")
async def nap(ctx: Context, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return ctx.node
