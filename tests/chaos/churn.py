"""Members that come, leave, are forgotten, or lose their disk, while the mesh works."""

import asyncio
import shutil
import signal
import time
from collections import Counter
from random import Random

from mesh.client.connection import MeshClient
from mesh.errors import MeshError, NotFound
from tests.chaos.fleet import Fleet, NodeProcess

TAKEN_IN_S = 25.0
"""How long a node may take to be a healthy member, with other faults going on. Longer is noted, and is no fault."""

WHOLE_AGAIN_S = 60.0
LEFT_S = 20.0


class Churn:
    """`hurt` is shared with whoever else strikes the same fleet."""

    def __init__(
        self, fleet: Fleet, rng: Random, client: MeshClient, strikes: Counter[str], hurt: set[str], notes: list[str]
    ) -> None:
        self._fleet = fleet
        self._rng = rng
        self._client = client
        self._strikes = strikes
        self._hurt = hurt
        self._notes = notes
        self._in_doubt = False

    async def join(self) -> bool:
        """One more node than there were."""
        away = [node.id for node in self._joiners() if not node.alive and node.id not in self._hurt]
        if not away:
            return False
        joiner = self._rng.choice(away)
        await self._fleet.spawn(joiner)
        await self._until_member(joiner, "join")
        return True

    async def forget(self) -> bool:
        """A node that is gone for good, by an operator's word; what it had is destroyed."""
        there = [node.id for node in self._joiners() if node.alive and node.id not in self._hurt]
        if not there:
            return False
        gone = self._rng.choice(there)
        self._hurt.add(gone)
        try:
            await self._fleet.kill(gone)
            self._strikes["kill"] += 1
            shutil.rmtree(self._fleet.data_dir(gone))
            why, deadline = "", time.monotonic() + TAKEN_IN_S
            while time.monotonic() < deadline:
                try:
                    await self._client.forget(gone, timeout=5)
                    self._fleet.nodes[gone].process = None
                    return True
                except NotFound:  # An earlier try did it, and its answer was lost; or it never got in.
                    self._fleet.nodes[gone].process = None
                    return True
                except MeshError as error:
                    why = str(error)
                    await asyncio.sleep(0.5)
            self._notes.append(f"{gone} could not be forgotten: {why}")
            await self._fleet.spawn(gone)
        finally:
            self._hurt.discard(gone)
        return False

    async def leave(self) -> bool:
        """SIGTERM: in order, and back again a little later."""
        fleet = self._fleet
        there = [node.id for node in fleet.nodes.values() if node.up and node.id not in self._hurt]
        if len(there) <= len(fleet.founders) // 2 + 1:
            return False
        leaver = self._rng.choice(there)
        self._hurt.add(leaver)
        try:
            fleet.signal(leaver, signal.SIGTERM)
            started = time.monotonic()
            while fleet.nodes[leaver].alive and time.monotonic() < started + LEFT_S:
                await asyncio.sleep(0.1)
            if fleet.nodes[leaver].alive:
                self._notes.append(f"{leaver} did not leave within {LEFT_S:g} s of SIGTERM")
                fleet.signal(leaver, signal.SIGKILL)
            await fleet.ended(leaver)
            await asyncio.sleep(self._rng.uniform(0.0, 2.0))
            await fleet.spawn(leaver)
        finally:
            self._hurt.discard(leaver)
        return True

    async def wipe(self) -> bool:
        """A voter dies and its disk with it. One at a time: the next only once this one is a voter again."""
        fleet = self._fleet
        if self._in_doubt:
            return False
        there = [node.id for node in fleet.nodes.values() if node.up and node.id not in self._hurt]
        if len(there) <= len(fleet.founders) // 2 + 1:
            return False
        victim = self._rng.choice(there)
        self._hurt.add(victim)
        try:
            await fleet.kill(victim)
            self._strikes["kill"] += 1
            shutil.rmtree(fleet.data_dir(victim))
            beyond = await self._last_index()
            await asyncio.sleep(self._rng.uniform(0.0, 1.0))
            # As an operator would: a founder without its disk enters the mesh it founded, it does not found it again.
            fleet.nodes[victim].joins = True
            await fleet.spawn(victim)
        finally:
            self._hurt.discard(victim)
        if beyond is not None and await self._until_voter_again(victim, beyond):
            return True
        self._notes.append(f"{victim} is not known to be a voter again {WHOLE_AGAIN_S:g} s after its disk was lost")
        # Another wipe now could take the last whole copy: the fault of whoever strikes, not of the mesh.
        self._in_doubt = True
        return True

    def _joiners(self) -> list[NodeProcess]:
        return [node for node in self._fleet.nodes.values() if node.id not in self._fleet.founders]

    async def _until_member(self, node_id: str, what: str) -> None:
        """Wait until it is a healthy member, and not only its old self in the others' memory; not for ever."""
        deadline = time.monotonic() + TAKEN_IN_S
        while time.monotonic() < deadline:
            try:
                nodes = (await self._client.status(timeout=2)).nodes
            except MeshError:
                nodes = []
            pid = self._fleet.pid(node_id)
            if any(node.id == node_id and node.health == "healthy" and node.pid == pid for node in nodes):
                return
            await asyncio.sleep(0.2)
        self._notes.append(f"{node_id} is no member {TAKEN_IN_S:g} s after {what}")

    async def _last_index(self) -> int | None:
        """The end of the leader's log."""
        deadline = time.monotonic() + TAKEN_IN_S
        while time.monotonic() < deadline:
            try:
                return (await self._client.raft_status(stale=False, timeout=2)).last_index
            except MeshError:
                await asyncio.sleep(0.2)
        return None

    async def _until_voter_again(self, node_id: str, beyond: int) -> bool:
        """Whether it has a vote again, and on its new disk what was appended after the old one was lost.

        Its id among the voters alone says nothing: that may still be its old self.
        """
        deadline = time.monotonic() + WHOLE_AGAIN_S
        while time.monotonic() < deadline:
            try:
                peers = (await self._client.raft_status(stale=False, timeout=2)).peers
            except MeshError:
                peers = []
            if any(peer.id == node_id and peer.role == "voter" and peer.match_index > beyond for peer in peers):
                return True
            await asyncio.sleep(0.2)
        return False
