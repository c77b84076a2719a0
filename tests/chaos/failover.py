"""`python -m tests.chaos.failover`: how long a mesh takes to get over a death, with nothing else to do.

From the signal, or from the moment the wires are cut, to the answer of a submit that is made at once; and to the last
of a dead node's tasks being dispatched to another. Defaults: three nodes, heartbeats of a second, fsync on.
"""

import argparse
import asyncio
import math
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from mesh.client.connection import MeshClient
from tests.chaos.arena import enter
from tests.chaos.fleet import Fleet
from tests.chaos.record import machine, replace_part

HEARTBEAT_MS = 1_000
NAPS = 60
NAP_S = 0.8
HEALTHY_S = 30.0
ROUND_S = 60.0
REST_S = 1.0
"""After all are healthy again: links between followers are no part of health, and may take a moment more."""


@dataclass(slots=True)
class Measure:
    """Milliseconds of many rounds, and what they are to be. `most_ms` is for 99 of 100, or for all if `always`."""

    what: str
    median_ms: float
    most_ms: float
    always: bool = False
    values: list[float] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        """The smallest value that this share of the rounds did not exceed."""
        ordered = sorted(self.values)
        return ordered[max(0, math.ceil(len(ordered) * share) - 1)]

    @property
    def met(self) -> bool:
        most = max(self.values) if self.always else self.quantile(0.99)
        return self.quantile(0.5) <= self.median_ms and most <= self.most_ms

    def row(self) -> str:
        limit = f"median {self.median_ms:g}, {'always' if self.always else 'p99'} {self.most_ms:g}"
        middle, high = self.quantile(0.5), self.quantile(0.99)
        return (
            f"| {self.what} | {len(self.values)} | {middle:.0f} | {self.quantile(0.9):.0f} | {high:.0f} | "
            f"{max(self.values):.0f} | {limit} | {'yes' if self.met else '**no**'} |"
        )


class Rounds:
    """One mesh, hurt again and again, always from rest."""

    def __init__(self, fleet: Fleet, client: MeshClient) -> None:
        self._fleet = fleet
        self._client = client
        self._count = 0

    async def repeat(self, measure: Measure, rounds: int, once: Callable[[], Awaitable[float]]) -> None:
        for _ in range(rounds):
            self._count += 1
            await self._fleet.wait_healthy(HEALTHY_S)
            await asyncio.sleep(REST_S)
            async with asyncio.timeout(ROUND_S):
                measure.values.append(await once())
        print(measure.row(), file=sys.stderr, flush=True)

    async def leader_killed(self) -> float:
        leader = await self._leader()
        started = time.perf_counter()
        self._fleet.signal(leader, signal.SIGKILL)
        taken_ms = await self._submit_ms(started)
        await self._fleet.ended(leader)
        await self._fleet.spawn(leader)
        return taken_ms

    async def leader_stopped(self) -> float:
        leader = await self._leader()
        started = time.perf_counter()
        self._fleet.signal(leader, signal.SIGSTOP)
        taken_ms = await self._submit_ms(started)
        self._fleet.signal(leader, signal.SIGCONT)
        return taken_ms

    async def leader_cut_off(self) -> float:
        """The leader still hears the client, and the client it; but no other node."""
        wires = self._fleet.wires
        assert wires is not None, "measured only where wires can be cut"
        number = self._fleet.nodes[await self._leader()].number
        others = [node.number for node in self._fleet.nodes.values() if node.number != number]
        started = time.perf_counter()
        await asyncio.to_thread(wires.cut, [pair for b in others for pair in ((number, b), (b, number))])
        taken_ms = await self._submit_ms(started)
        await asyncio.to_thread(wires.heal)
        return taken_ms

    async def node_killed(self) -> float:
        return await self._moved_ms(signal.SIGKILL)

    async def node_stopped(self) -> float:
        return await self._moved_ms(signal.SIGSTOP)

    async def _moved_ms(self, number: signal.Signals) -> float:
        """Until the last of what a node held was dispatched to another, by the events' own time."""
        fleet, client = self._fleet, self._client
        leader = await self._leader()
        since = (await client.raft_status()).commit_index
        payload = {"n": 1, "path": str(fleet.trace), "seconds": NAP_S}
        submits = (
            client.submit("traced", payload, task_id=f"nap-{self._count}-{k}", max_attempts=9) for k in range(NAPS)
        )
        handles = await asyncio.gather(*submits)
        while (await client.status()).tasks.running < NAPS:
            await asyncio.sleep(0.01)
        victim = next(node for node in fleet.founders if node != leader)
        at_ms = time.time() * 1_000
        fleet.signal(victim, number)
        await asyncio.gather(*(handle.result(timeout=ROUND_S) for handle in handles))
        fleet.signal(victim, signal.SIGCONT)
        if number == signal.SIGKILL:
            await fleet.ended(victim)
            await fleet.spawn(victim)
        lines = [line async for line in client.events(max(0, since - 1))]
        moved = [line.at for line in lines if line.event == "task_reassigned" and line.detail == f"from {victim}"]
        assert moved, f"{victim} held some of {NAPS} tasks"
        return max(moved) - at_ms

    async def _leader(self) -> str:
        while True:
            status = await self._client.status()
            if status.leader and not status.stale:
                return status.leader
            await asyncio.sleep(0.02)

    async def _submit_ms(self, started: float) -> float:
        handle = await self._client.submit("quick", {"n": 1}, task_id=f"after-{self._count}", timeout=ROUND_S)
        taken_ms = (time.perf_counter() - started) * 1_000
        await handle.result(timeout=ROUND_S)
        return taken_ms


async def measure(kills: int, pauses: int, root: Path) -> list[Measure]:
    """All of it on one mesh."""
    limit_ms = 3 * HEARTBEAT_MS + 1_000
    leader_killed = Measure("leader killed -> next submit accepted", 150, 600)
    leader_stopped = Measure("leader stopped -> next submit accepted", 1_500, 1_500)
    cut_off = Measure("leader cut off -> next submit accepted", 1_500, 1_500)
    node_killed = Measure("node killed -> all its tasks dispatched elsewhere", 200, limit_ms, always=True)
    node_stopped = Measure("node stopped -> all its tasks dispatched elsewhere", limit_ms, limit_ms, always=True)
    found = [leader_killed, leader_stopped, node_killed, node_stopped]
    async with Fleet(root, nodes=3, heartbeat_ms=HEARTBEAT_MS) as fleet:
        await fleet.wait_healthy(HEALTHY_S)
        async with fleet.client() as client:
            rounds = Rounds(fleet, client)
            await rounds.repeat(leader_killed, kills, rounds.leader_killed)
            await rounds.repeat(leader_stopped, pauses, rounds.leader_stopped)
            if fleet.wires is not None:
                await rounds.repeat(cut_off, pauses, rounds.leader_cut_off)
                found.append(cut_off)
            await rounds.repeat(node_killed, pauses, rounds.node_killed)
            await rounds.repeat(node_stopped, pauses, rounds.node_stopped)
    return found


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.failover", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of the leader")
    parser.add_argument("--pauses", type=int, default=20, help="rounds of everything else")
    parser.add_argument("--record", action="store_true", help="write the figures to RESULTS.md")
    chosen = parser.parse_args(words)
    enter(words, module="tests.chaos.failover")
    with tempfile.TemporaryDirectory(prefix="mesh-chaos-", ignore_cleanup_errors=True) as root:
        found = asyncio.run(measure(chosen.kills, chosen.pauses, Path(root)))
    head = [
        "| milliseconds | rounds | median | p90 | p99 | longest | wanted | met |",
        "|---|---:|---:|---:|---:|---:|---|---|",
    ]
    text = "\n".join([f"Three nodes, heartbeats of {HEARTBEAT_MS} ms, fsync on, {machine()}.", "", *head])
    text += "\n" + "\n".join(one.row() for one in found)
    print(text)
    if chosen.record:
        replace_part("After a death", text)
    return 0 if all(one.met for one in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
