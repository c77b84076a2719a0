"""The kill: naps are submitted, something is killed among them and started again, and what ran is counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.compare.client import ClientProcess, Failed, open_client
from bench.compare.measure import START_TIMEOUT_S
from bench.compare.peer import Peer
from bench.compare.records import Loss, Settings, Victim
from bench.compare.shelf import Shelf
from bench.compare.stage import DidNotStart, Stage

KILL_AFTER = 0.2
"""The kill comes when this part of the naps has ended."""
POLL_S = 0.02
ENDS_TIMEOUT_S = 5.0
HELD_TIMEOUT_S = 10.0
PATIENCE_S = 15.0
"""A client that gets nothing done for so long after the kill is started again, as a person would."""
AGAIN_SLACK_S = 10.0
WARM_UP_NAPS = 18
WARM_UP_NAP_S = 0.3


def tally(victim: Victim, accepted: Iterable[int], log: str, held: int | None, ended: int) -> Loss:
    """Count what became of the tasks that were accepted, from the log of starts and ends that the workers wrote.

    `held` is how many tasks the system says it still has, `ended` how many results the client got.
    """
    starts = Counter(number for word, number, _ in _lines(log) if word == "s")
    ends = Counter(number for word, number, _ in _lines(log) if word == "e")
    known = set(accepted)
    undone = sum(1 for number in known if not ends[number])
    kept = min(undone, held or 0)
    return Loss(
        victim=victim,
        accepted=len(known),
        lost=undone - kept,
        held=kept,
        doubled=sum(1 for number in known if ends[number] > 1),
        rerun=sum(1 for number in known if starts[number] > 1),
        silent=max(0, len(known) - ended),
    )


def running(log: str) -> frozenset[int]:
    """The processes that have begun more tasks than they have ended. One that runs several is in it once."""
    begun = Counter(pid for word, _, pid in _lines(log) if word == "s")
    begun.subtract(Counter(pid for word, _, pid in _lines(log) if word == "e"))
    return frozenset(pid for pid, count in begun.items() if count > 0)


def _lines(log: str) -> Iterator[tuple[str, int, int]]:
    """Word, task and process of each line that has been written to its end."""
    for line in log.splitlines(keepends=True):
        if line.endswith("\n"):
            word, number, pid = line.split()
            yield word, int(number), int(pid)


async def kill_and_count(peer: Peer, shelf: Shelf, settings: Settings, victim: Victim) -> Loss:
    """Start the system anew, and do all that."""
    async with Stage(shelf) as stage:
        try:
            async with asyncio.timeout(2 * START_TIMEOUT_S + 2 * settings.loss_timeout_s):
                argv, env = await peer.start(stage, to_kill=True)
                return await _Probe(peer, stage, settings, argv, env).run(victim)
        except TimeoutError:
            return Loss(victim, problem="not done in time")
        except (DidNotStart, Failed, OSError) as error:
            return Loss(victim, problem=str(error))
        finally:
            await peer.stop()


class _Probe:
    def __init__(self, peer: Peer, stage: Stage, settings: Settings, argv: list[str], env: dict[str, str]) -> None:
        self._peer = peer
        self._stage = stage
        self._settings = settings
        self._argv = argv
        self._env = env
        self._log: Path = stage.folder / "naps"

    async def run(self, victim: Victim) -> Loss:
        settings = self._settings
        client = await open_client(self._stage, self._argv, self._env)
        await self._warm_up(client)
        answer = await client.ask(
            "naps", settings.loss_timeout_s, tasks=settings.nap_tasks, seconds=settings.nap_s, log=str(self._log)
        )
        accepted = frozenset(answer.accepted)
        await self._until_ended(accepted, KILL_AFTER, settings.loss_timeout_s)
        await self._peer.kill(self._stage, victim, client, running(self._read()))
        killed = time.monotonic()
        reviving = asyncio.create_task(self._peer.revive(self._stage, victim))
        try:
            back_s, survived = await self._back(client, killed)
            await reviving
        finally:
            reviving.cancel()
        left_s = settings.loss_timeout_s - (time.monotonic() - killed)
        done = await self._until_ended(accepted, 1.0, max(0.0, left_s))
        done_s = round(time.monotonic() - killed, 2) if done else None
        ended = (await survived.ask("ends", ENDS_TIMEOUT_S * 2, timeout_s=ENDS_TIMEOUT_S)).ended
        held = None if done else (await survived.ask("held", HELD_TIMEOUT_S)).held
        await survived.close()
        loss = tally(victim, accepted, self._read(), held, ended)
        loss.back_s, loss.done_s = back_s, done_s
        return loss

    async def _warm_up(self, client: ClientProcess) -> None:
        """Every worker has run something before it counts."""
        bound_s, log = self._settings.loss_timeout_s, str(self._log.with_name("warm-up"))
        await client.ask("naps", bound_s, tasks=WARM_UP_NAPS, seconds=WARM_UP_NAP_S, log=log)
        await client.ask("ends", bound_s + ENDS_TIMEOUT_S, timeout_s=bound_s)

    async def _back(self, client: ClientProcess, killed: float) -> tuple[float | None, ClientProcess]:
        """When a task submitted after the kill has its result. A client that did not outlive it, or gets nothing done
        for a while, is started again; the results of what it had submitted are then nobody's.
        """
        deadline = killed + self._settings.loss_timeout_s
        while True:
            left_s = min(PATIENCE_S, max(1.0, deadline - time.monotonic()))
            try:
                answer = await client.ask("again", left_s + AGAIN_SLACK_S, timeout_s=left_s)
                if answer.seconds is not None:
                    return round(time.monotonic() - killed, 2), client
                if time.monotonic() > deadline:
                    return None, client
            except Failed:
                if time.monotonic() > deadline:
                    raise
            await client.close()
            client = await open_client(self._stage, self._argv, self._env)

    async def _until_ended(self, accepted: frozenset[int], part: float, timeout_s: float) -> bool:
        """Until that part of them has ended at least once; False: not in time."""
        deadline = time.monotonic() + timeout_s
        while True:
            ended = {number for word, number, _ in _lines(self._read()) if word == "e"}
            if len(ended & accepted) >= part * len(accepted):
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)

    def _read(self) -> str:
        try:
            return self._log.read_text()
        except OSError:
            return ""
