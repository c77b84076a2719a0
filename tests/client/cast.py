"""A mesh of three real processes on this machine, and a way to play a story on it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from nodes.local_mesh import LocalMesh, LocalMeshSettings, free_base_port

STORY_TIMEOUT_S = 45.0


@asynccontextmanager
async def three_nodes(data_dir: Path, base_port: int = 0) -> AsyncIterator[LocalMesh]:
    """n1, n2 and n3, healthy, offering what app.py has."""
    settings = LocalMeshSettings(
        nodes=3,
        base_port=base_port or free_base_port(3),
        apps=(f"{Path(__file__).with_name('app.py')}:app",),
        data_dir=data_dir,
        heartbeat_interval_ms=200,
    )
    async with LocalMesh(settings) as local:
        yield local


def play(story: Callable[[], Awaitable[None]]) -> None:
    """Run a story to its end, or fail after a while. Warnings of the event loop fail the test too."""

    async def bounded() -> None:
        async with asyncio.timeout(STORY_TIMEOUT_S):
            await story()

    asyncio.run(bounded(), debug=False)
