"""A node that hangs: its sockets stay open, so nothing but its silence tells the others."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh import documents
from tests.process.real_mesh import events_of, everybody_is_healthy, real_mesh, until

HEARTBEAT_MS = 200
MARGIN_MS = 50
"""For this machine's clock, and a last heartbeat that was on its way when its sender stopped."""


def has_failed(node_id: str) -> Callable[[documents.Status], bool]:
    return lambda status: any(node.id == node_id and node.health == "failed" for node in status.nodes)


@pytest.mark.timeout(90)
def test_a_node_that_hangs_is_failed_within_three_intervals(tmp_path: Path) -> None:
    """S0-08: by event time, five times in a row, whoever of the followers it is; each time it wakes and recovers."""

    async def story() -> None:
        noticed_ms: list[float] = []
        async with real_mesh(tmp_path, heartbeat_ms=HEARTBEAT_MS) as (mesh, client):
            for pause in range(5):
                status = await until(client, everybody_is_healthy)
                followers = [node.id for node in status.nodes if node.id != status.leader]
                victim = followers[pause % len(followers)]
                after = max((line.index for line in await events_of(client)), default=0)
                stopped_at_ms = mesh.signal(victim, signal.SIGSTOP)
                await until(client, has_failed(victim))
                mesh.signal(victim, signal.SIGCONT)
                await until(client, everybody_is_healthy)
                failed = [
                    line for line in await events_of(client) if line.index > after and line.event == "node_failed"
                ]
                assert [(line.node, line.detail) for line in failed] == [(victim, "missed 3 heartbeats")]
                noticed_ms.append(failed[0].at - stopped_at_ms)
        print(f"failed after {sorted(noticed_ms)} ms")
        assert max(noticed_ms) <= 3 * HEARTBEAT_MS + MARGIN_MS
        assert min(noticed_ms) >= 2 * HEARTBEAT_MS, "its last heartbeat was not older than one interval"

    asyncio.run(story())
