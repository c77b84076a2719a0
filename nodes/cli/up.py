"""`mesh up`: a whole mesh on this machine, in the foreground."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from nodes.cli.command import FAILED, OK, MeshCommand, Seconds, Shared
from nodes.cli.printing import print_json, say

if TYPE_CHECKING:
    from nodes.local_mesh import LocalMesh, LocalMeshSettings


@click.command("up", cls=MeshCommand)
@click.option("--nodes", type=click.IntRange(1, 7), default=3, show_default=True)
@click.option("--app", multiple=True, metavar="MOD:ATTR", help="User code to run (may be repeated); without it, none.")
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="Keep the data here.  [default: nowhere]"
)
@click.option("--base-port", type=click.IntRange(1, 32_000), default=21_000, show_default=True)
@click.option("--slots", type=click.IntRange(min=1), metavar="N", help="Attempts each node runs at once.")
@click.option("--heartbeat-interval-ms", type=int, metavar="MS")
@click.option("--failure-threshold", type=int, metavar="N")
@click.option(
    "--drain-s",
    type=Seconds(0, 86_400),
    default=5.0,
    show_default=True,
    metavar="S",
    help="At the end, what runs may go on.",
)
@click.pass_obj
def up(
    shared: Shared,
    nodes: int,
    app: tuple[str, ...],
    data: Path | None,
    base_port: int,
    slots: int | None,
    heartbeat_interval_ms: int | None,
    failure_threshold: int | None,
    drain_s: float,
) -> int:
    """Start nodes on this machine and keep them running. Node k is n{k+1}, on base port + 10 k.

    Ctrl-C lets what runs finish, and stops them; twice, at once.
    """
    from nodes.local_mesh import LocalMeshSettings

    settings = LocalMeshSettings(
        nodes=nodes,
        base_port=base_port,
        apps=app,
        data_dir=data,
        slots=slots,
        heartbeat_interval_ms=heartbeat_interval_ms,
        failure_threshold=failure_threshold,
        drain_s=drain_s,
        secret_file=shared.secret_file,
        quiet=False,
    )
    return asyncio.run(_up(shared, settings))


async def _up(shared: Shared, settings: LocalMeshSettings) -> int:
    from nodes.local_mesh import LocalMesh, MeshDidNotStart

    loop = asyncio.get_running_loop()
    running = asyncio.current_task()
    stop = asyncio.Event()
    asked = 0

    def on_signal() -> None:
        nonlocal asked
        asked += 1
        stop.set()
        if (asked > 1 or not local.nodes) and running is not None:
            running.cancel()  # Asked twice, or before anything runs: now.

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    local = LocalMesh(settings)
    try:
        starting = asyncio.ensure_future(local.__aenter__())
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return OK
        starting.result()
        _announce(shared, local)
        return await _stay(local, stopped)
    except MeshDidNotStart as error:
        say(f"mesh: {error}")
        return FAILED
    except asyncio.CancelledError:
        return OK if asked else FAILED
    finally:
        stop.set()
        await local.stop(grace_s=0.0 if asked > 1 else None)


def _announce(shared: Shared, local: LocalMesh) -> None:
    if shared.as_json:
        print_json(
            {
                "event": "ready",
                "nodes": [
                    {"id": node.id, "address": node.address, "pid": node.process.pid, "data_dir": str(node.data_dir)}
                    for node in local.nodes.values()
                ],
                "http": None,
            }
        )
        return
    for node in local.nodes.values():
        click.echo(f"{node.id}  {node.address}  pid {node.process.pid}  {node.data_dir}")
    say("ready; Ctrl-C stops it, twice at once")


async def _stay(local: LocalMesh, stopped: asyncio.Task[Literal[True]]) -> int:
    """Until told to stop, or no node is left."""
    while True:
        ended = asyncio.ensure_future(local.wait_until_one_ended())
        await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
            return OK
        node = ended.result()
        say(f"{node.id} ended (exit {node.process.returncode}); the others go on")
        if not any(other.alive for other in local.nodes.values()):
            say("mesh: no node is left")
            return FAILED
