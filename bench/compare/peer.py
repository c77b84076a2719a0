"""What a system must be able to do to be compared. One class a system in peers/."""

from __future__ import annotations

from typing import Protocol

from bench.compare.client import ClientProcess
from bench.compare.records import Label, Victim
from bench.compare.shelf import Needs
from bench.compare.stage import Stage

KILL_SLOTS = 9
"""How many tasks run at once, in all, where something is killed: the naps then take a second or more, whatever runs
them. Nine, because three nodes share it; two workers share eight."""
KILL_WORKERS = 2


class Peer(Protocol):
    """One system in one configuration. Each object is started once, and at most once something of it is killed and
    revived.
    """

    label: Label
    needs: Needs

    async def start(self, stage: Stage, *, to_kill: bool) -> tuple[list[str], dict[str, str]]:
        """Start everything but the client, and say how to start that: arguments and environment.

        `to_kill`: something will be killed, so KILL_SLOTS (about) is how many tasks run at once, on KILL_WORKERS
        workers or more. Otherwise whatever is recommended for many short tasks. Raises DidNotStart.
        """

    async def kill(self, stage: Stage, victim: Victim, client: ClientProcess, busy: frozenset[int]) -> None:
        """SIGKILL the victim with all its processes; returns when they have ended. Raises Failed.

        `busy` are processes that run a task just now: a worker is best killed in the middle of something.
        """

    async def revive(self, stage: Stage, victim: Victim) -> None:
        """Start it again as an operator would, on the same data. Raises DidNotStart."""

    async def stop(self) -> None:
        """Let go of what the end of the stage does not take: most have nothing."""
