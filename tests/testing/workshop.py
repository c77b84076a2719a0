"""What the stories of this folder share: an app, and how an async story becomes a test."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec

from mesh import Context, Mesh

Given = ParamSpec("Given")


def on_a_loop(story: Callable[Given, Awaitable[None]]) -> Callable[Given, None]:
    """An async story as a test, on an ordinary event loop of its own."""

    @wraps(story)
    def test(*args: Given.args, **kwargs: Given.kwargs) -> None:
        async def told() -> None:
            await story(*args, **kwargs)

        asyncio.run(told())

    return test


class Workshop:
    """An app, and what its handlers did. `gate` is opened by the test."""

    def __init__(self) -> None:
        self.app = Mesh("workshop")
        self.gate = asyncio.Event()
        self.latch = threading.Event()
        self.began: list[tuple[str, int]] = []
        for handler in (self.double, self.nap, self.steps, self.wait, self.family, self.fails_once, self.latched):
            self.app.task(capability=handler.__name__)(handler)

    def double(self, number: int) -> int:
        return 2 * number

    async def nap(self, ctx: Context, seconds: float) -> str:
        self.began.append((ctx.node, ctx.attempt))
        await asyncio.sleep(seconds)
        return ctx.node

    async def steps(self, ctx: Context, count: int) -> list[int]:
        """One step a second, a checkpoint after each; what comes out does not depend on where it was interrupted."""
        done: list[int] = ctx.checkpoint_state or []
        self.began.append((ctx.node, len(done)))
        for number in range(len(done), count):
            await asyncio.sleep(1)
            done = [*done, number * number]
            await ctx.checkpoint(done)
        return done

    async def wait(self, ctx: Context) -> str:
        self.began.append((ctx.node, ctx.attempt))
        await self.gate.wait()
        return ctx.node

    def family(self, ctx: Context) -> int:
        """A plain function that waits for its child, which sleeps for an hour."""
        ctx.checkpoint("waiting")
        child = ctx.submit("nap", {"seconds": 3_600}, task_id=f"{ctx.task_id}/child")
        child.result()
        return len(child.status())

    def fails_once(self, ctx: Context) -> int:
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return ctx.attempt

    def latched(self, ctx: Context) -> bool:
        """A plain function that runs until the test opens the latch."""
        self.began.append((ctx.node, ctx.attempt))
        return self.latch.wait(20)
