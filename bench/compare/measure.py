"""One turn of one system: started, warmed up, loaded, asked one by one, stopped."""

from __future__ import annotations

import asyncio
import os

from bench.compare.client import Failed, open_client
from bench.compare.peer import Peer
from bench.compare.records import Settings, Turn
from bench.compare.shelf import Shelf
from bench.compare.stage import DidNotStart, Stage
from bench.latency import percentile

WARM_UP_TASKS = 500
WARM_UP_LATENCY_TASKS = 30
START_TIMEOUT_S = 180.0
VERSIONS_TIMEOUT_S = 10.0


async def turn(peer: Peer, shelf: Shelf, settings: Settings) -> tuple[Turn, dict[str, str]]:
    """Its figures, or what kept us from having them; and what versions it is made of."""
    async with Stage(shelf) as stage:
        try:
            async with asyncio.timeout(START_TIMEOUT_S + settings.turn_timeout_s):
                return await _figures(peer, stage, settings)
        except TimeoutError:
            return Turn(problem=f"not done within {START_TIMEOUT_S + settings.turn_timeout_s:g} s"), {}
        except (DidNotStart, Failed, OSError) as error:
            return Turn(problem=str(error)), {}
        finally:
            await peer.stop()


async def _figures(peer: Peer, stage: Stage, settings: Settings) -> tuple[Turn, dict[str, str]]:
    argv, env = await peer.start(stage, to_kill=False)
    client = await open_client(stage, argv, env)
    bound_s = settings.turn_timeout_s
    versions = (await client.ask("versions", VERSIONS_TIMEOUT_S)).versions
    warm_up = min(WARM_UP_TASKS, settings.tasks)
    await client.ask("many", bound_s, first=0, tasks=warm_up, in_flight=settings.in_flight)
    before_s = stage.cpu_s()
    loaded = await client.ask("many", bound_s, first=warm_up, tasks=settings.tasks, in_flight=settings.in_flight)
    cpu_s = stage.cpu_s() - before_s
    if not loaded.seconds:
        raise Failed("many: the client does not say how long it took")
    first = warm_up + settings.tasks
    await client.ask("latency", bound_s, first=first, tasks=min(WARM_UP_LATENCY_TASKS, settings.latency_tasks))
    one_by_one = await client.ask("latency", bound_s, first=first + WARM_UP_LATENCY_TASKS, tasks=settings.latency_tasks)
    await client.close()
    return Turn(
        tasks_per_s=round(settings.tasks / loaded.seconds, 1),
        cpu_s_per_1000=round(cpu_s / settings.tasks * 1_000, 4),
        p50_ms=percentile(one_by_one.ms, 50),
        p99_ms=percentile(one_by_one.ms, 99),
    ), versions


def machine() -> str:
    """Processors and system, as they are written beside the figures."""
    system = os.uname()
    return f"{os.cpu_count()} processors, {system.sysname} {system.release} {system.machine}"
