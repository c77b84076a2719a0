"""What is done to a mesh while it works. Each fault begins and ends here; afterwards `Fleet.heal` makes all whole."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

from mesh.client.connection import MeshClient
from mesh.errors import MeshError
from tests.chaos.churn import Churn
from tests.chaos.configurations import Lane
from tests.chaos.fleet import Fleet
from tests.chaos.wires import Wires

PAUSE_S = (1.2, 2.6)
"""Longer than the silence after which a node is given up, so that what its agents finish meanwhile comes too late."""

BEYOND_MINORITY = 0.15
"""How often a fault may cost the mesh its majority."""


class Nemesis:
    """Strikes a fleet. `strikes` counts by kind; `exits` has what nodes said that ended by themselves; `notes` is
    what took longer than it should."""

    def __init__(self, fleet: Fleet, rng: Random, client: MeshClient) -> None:
        self._fleet = fleet
        self._rng = rng
        self._client = client
        self.strikes: Counter[str] = Counter()
        self.exits: list[str] = []
        self.notes: list[str] = []
        self._hurt: set[str] = set()
        churn = Churn(fleet, rng, client, self.strikes, self._hurt, self.notes)
        self._faults: dict[str, Callable[[], Awaitable[bool]]] = {
            "kill": lambda: self._kill("kill", leader=False),
            "kill leader": lambda: self._kill("kill leader", leader=True),
            "pause": lambda: self._pause("pause", leader=False),
            "pause leader": lambda: self._pause("pause leader", leader=True),
            "kill agents": self._kill_agents,
            "restart all": self._restart_all,
            "halves": lambda: self._partition(self._halves),
            "leader alone": lambda: self._partition(self._leader_alone),
            "one alone": lambda: self._partition(self._one_alone),
            "one way": lambda: self._partition(self._one_way),
            "bridge": lambda: self._partition(self._bridge),
            "ring": lambda: self._partition(self._ring),
            "slow links": lambda: self._slow(delay_ms=40, jitter_ms=60, loss=0.0),
            "lossy links": lambda: self._slow(delay_ms=5, jitter_ms=20, loss=0.05),
            "slow leader": lambda: self._slow(delay_ms=150, jitter_ms=100, loss=0.01, leader=True),
            "resets": self._reset,
            "disk full": self._disk_full,
            "disk hangs": lambda: self._disk_hangs(leader=False),
            "disk of leader hangs": lambda: self._disk_hangs(leader=True),
            "pause-kill": self._pause_kill,
            "partition-kill": self._partition_kill,
            "join": churn.join,
            "forget": churn.forget,
            "leave": churn.leave,
            "wipe": churn.wipe,
        }

    async def run(self, lane: Lane, until: Callable[[], bool]) -> None:
        """One lane: fault after fault."""
        while not until():
            await asyncio.sleep(self._rng.uniform(*lane.gap_s))
            if until():
                return
            name = self._rng.choice(lane.faults)
            if await self._faults[name]():
                self.strikes[name] += 0 if name in _COUNT_THEMSELVES else 1

    async def watch_over(self, until: Callable[[], bool]) -> None:
        """Start again whoever ends by itself, as a service manager would, and keep its last words."""
        while not until():
            await asyncio.sleep(0.2)
            for node in list(self._fleet.nodes.values()):
                if node.process is not None and not node.alive and node.id not in self._hurt:
                    self._hurt.add(node.id)
                    await self._fleet.ended(node.id)
                    self.exits.append(
                        f"{node.id} ended by itself with {node.exits[-1]}: {self._fleet.last_words(node.id)}"
                    )
                    await self._fleet.spawn(node.id)
                    self._hurt.discard(node.id)

    # --- whom to strike -----------------------------------------------------------------------------------------------

    async def leader(self) -> str | None:
        try:
            return (await self._client.status(stale=True, timeout=1)).leader
        except MeshError:
            return None

    @asynccontextmanager
    async def _victim(self, *, leader: bool) -> AsyncIterator[str | None]:
        """A node nobody else is at; None if that would cost the majority and the dice say no."""
        fleet, hurt = self._fleet, self._hurt
        fine = sorted(node.id for node in fleet.nodes.values() if node.up and node.id not in hurt)
        too_many = len(fine) <= len(fleet.founders) // 2 + 1
        chosen = None
        if fine and (not too_many or self._rng.random() < BEYOND_MINORITY):
            chosen = self._rng.choice(fine)
            if leader and (leads := await self.leader()) in fine:
                chosen = leads
        if chosen is None or chosen in hurt:
            yield None
            return
        hurt.add(chosen)
        try:
            yield chosen
        finally:
            hurt.discard(chosen)

    def _pairs(self, ones: list[int], others: list[int]) -> list[tuple[int, int]]:
        return [pair for a in ones for b in others for pair in ((a, b), (b, a))]

    def _numbers(self) -> list[int]:
        numbers = [self._fleet.nodes[name].number for name in self._fleet.started]
        self._rng.shuffle(numbers)
        return numbers

    # --- processes ----------------------------------------------------------------------------------------------------

    async def _kill(self, name: str, *, leader: bool) -> bool:
        async with self._victim(leader=leader) as victim:
            if victim is None:
                return False
            await self._fleet.kill(victim)
            self.strikes[name] += 1
            await asyncio.sleep(self._rng.uniform(0.0, 1.0))
            await self._fleet.spawn(victim)
        return True

    async def _pause(self, name: str, *, leader: bool) -> bool:
        async with self._victim(leader=leader) as victim:
            if victim is None:
                return False
            self._fleet.signal(victim, signal.SIGSTOP)
            self.strikes[name] += 1
            await asyncio.sleep(self._rng.uniform(*PAUSE_S))
            self._fleet.signal(victim, signal.SIGCONT)
        return True

    async def _kill_agents(self) -> bool:
        node = self._rng.choice(self._fleet.started)
        self.strikes["kill agents"] += self._fleet.kill_agents(node)
        return True

    async def _restart_all(self) -> bool:
        """Power goes; the nodes come back one after the other, in some order."""
        fleet, rng = self._fleet, self._rng
        names = [node.id for node in fleet.nodes.values() if node.alive and node.id not in self._hurt]
        self._hurt.update(names)
        try:
            rng.shuffle(names)
            for name in names:
                fleet.signal(name, signal.SIGKILL)
            self.strikes["restart all"] += len(names)
            await asyncio.gather(*(fleet.ended(name) for name in names))
            rng.shuffle(names)
            for name in names:
                await fleet.spawn(name)
                await asyncio.sleep(rng.uniform(0.0, 0.7))
        finally:
            self._hurt.difference_update(names)
        return True

    # --- wires --------------------------------------------------------------------------------------------------------

    async def _partition(self, shape: Callable[[], Awaitable[list[tuple[int, int]]]]) -> bool:
        wires = self._wires
        pairs = await shape()
        await asyncio.to_thread(wires.cut, pairs)
        await asyncio.sleep(self._rng.uniform(1.5, 5.0))
        await asyncio.to_thread(wires.heal)
        return True

    @property
    def _wires(self) -> Wires:
        assert self._fleet.wires is not None, "a configuration that cuts wires is not run without them"
        return self._fleet.wires

    async def _halves(self) -> list[tuple[int, int]]:
        numbers = self._numbers()
        return self._pairs(numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :])

    async def _leader_alone(self) -> list[tuple[int, int]]:
        """The leader is cut off, in a majority of five with one follower that stays with it."""
        leader = await self.leader()
        number = self._fleet.nodes[leader].number if leader in self._fleet.nodes else self._numbers()[0]
        rest = [other for other in self._numbers() if other != number]
        company = rest[: self._rng.randint(0, (len(rest) - 1) // 2)]
        return self._pairs([number, *company], [other for other in rest if other not in company])

    async def _one_alone(self) -> list[tuple[int, int]]:
        numbers = self._numbers()
        return self._pairs(numbers[:1], numbers[1:])

    async def _one_way(self) -> list[tuple[int, int]]:
        """One node hears and is not heard, or the other way round; or a single direction is dead."""
        numbers = self._numbers()
        dice = self._rng.random()
        if dice < 0.4:
            return [(numbers[0], other) for other in numbers[1:]]
        if dice < 0.8:
            return [(other, numbers[0]) for other in numbers[1:]]
        return [(numbers[0], numbers[1])]

    async def _bridge(self) -> list[tuple[int, int]]:
        """Two halves that do not see each other, and one node that sees both."""
        numbers = self._numbers()[1:]
        return self._pairs(numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :])

    async def _ring(self) -> list[tuple[int, int]]:
        """Everybody sees a majority, and no two the same one."""
        numbers = self._numbers()
        count, reach = len(numbers), len(numbers) // 4 or 1
        near = {(numbers[k], numbers[(k + step) % count]) for k in range(count) for step in range(-reach, reach + 1)}
        return [(a, b) for a in numbers for b in numbers if a != b and (a, b) not in near]

    async def _slow(self, *, delay_ms: int, jitter_ms: int, loss: float, leader: bool = False) -> bool:
        numbers = self._numbers()
        leads = await self.leader() if leader else None
        first = [self._fleet.nodes[leads].number] if leads in self._fleet.nodes else numbers[: (len(numbers) + 1) // 2]
        pairs = self._pairs(first, [number for number in numbers if number not in first])
        wires = self._wires
        await asyncio.to_thread(wires.slow, pairs, delay_ms=delay_ms, jitter_ms=jitter_ms, loss=loss)
        await asyncio.sleep(self._rng.uniform(3.0, 8.0))
        await asyncio.to_thread(wires.heal)
        return True

    async def _reset(self) -> bool:
        numbers = self._numbers()
        others = numbers[1 : self._rng.randint(2, len(numbers))]
        await asyncio.to_thread(self._wires.reset, numbers[0], others)
        return True

    # --- disks --------------------------------------------------------------------------------------------------------

    async def _disk_full(self) -> bool:
        """No room for some seconds. A node may end of it; it comes back when there is room again."""
        fleet = self._fleet
        async with self._victim(leader=self._rng.random() < 0.3) as victim:
            if victim is None:
                return False
            number = fleet.nodes[victim].number
            await asyncio.to_thread(fleet.disks.fill, number)
            await asyncio.sleep(self._rng.uniform(1.0, 4.0))
            await asyncio.to_thread(fleet.disks.empty, number)
            await asyncio.sleep(0.2)
            if not fleet.nodes[victim].alive:
                await fleet.ended(victim)
                self.strikes["ended of a full disk"] += 1
                await fleet.spawn(victim)
        return True

    async def _disk_hangs(self, *, leader: bool) -> bool:
        fleet = self._fleet
        async with self._victim(leader=leader) as victim:
            if victim is None:
                return False
            number = fleet.nodes[victim].number
            await asyncio.to_thread(fleet.disks.freeze, number)
            await asyncio.sleep(self._rng.uniform(0.5, 4.0))
            await asyncio.to_thread(fleet.disks.thaw, number)
        return True

    # --- scripts ------------------------------------------------------------------------------------------------------

    async def _pause_kill(self) -> bool:
        """Some sleep while the others go on; one that saw it all is killed, and must lead on with those who slept."""
        fleet, rng = self._fleet, self._rng
        names = [f"n{number}" for number in self._numbers()]
        few = len(names) // 2
        sleepers, witness, rest = names[:few], names[few], names[few + 1 :]
        for name in sleepers:
            fleet.signal(name, signal.SIGSTOP)
        await asyncio.sleep(rng.uniform(2.0, 4.0))

        def wake() -> None:
            for name in sleepers:
                fleet.signal(name, signal.SIGCONT)

        await self._swap(witness, rest, wake)
        self.strikes["pause"] += len(sleepers) + len(rest)
        self.strikes["kill"] += 1
        return True

    async def _partition_kill(self) -> bool:
        """The same with those who sleep cut off instead."""
        names = self._numbers()
        few = len(names) // 2
        await asyncio.to_thread(self._wires.cut, self._pairs(names[:few], names[few:]))
        await asyncio.sleep(self._rng.uniform(2.0, 4.0))
        rest = [f"n{number}" for number in names[few + 1 :]]
        await self._swap(f"n{names[few]}", rest, self._wires.heal)
        self.strikes["pause"] += len(rest)
        self.strikes["kill"] += 1
        return True

    async def _swap(self, witness: str, rest: list[str], wake: Callable[[], None]) -> None:
        """Kill the witness; stop the rest of its majority; wake the others; bring the witness back to them."""
        fleet = self._fleet
        self._hurt.add(witness)
        await fleet.kill(witness)
        for name in rest:
            fleet.signal(name, signal.SIGSTOP)
        wake()
        await fleet.spawn(witness)
        self._hurt.discard(witness)
        await asyncio.sleep(self._rng.uniform(2.5, 4.0))
        for name in rest:
            fleet.signal(name, signal.SIGCONT)


_COUNT_THEMSELVES = frozenset({"kill", "kill leader", "pause", "pause leader", "kill agents", "restart all"})
