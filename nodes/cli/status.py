"""`mesh status` and `mesh members`: who is here, who leads, how much there is to do."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from nodes.cli.command import OK, MeshCommand, Shared
from nodes.cli.printing import clean, print_json, print_table
from nodes.cli.session import read, stale_option, talk

if TYPE_CHECKING:
    from mesh.client import MeshClient
    from mesh.documents import NodeView, Status

WATCH_PAUSE_S = 1.0


@click.command("status", cls=MeshCommand)
@stale_option()
@click.pass_obj
def status(shared: Shared, stale: bool) -> int:
    """The mesh on one screen. Answers without a quorum too, and says so."""

    async def work(mesh: MeshClient) -> int:
        seen = await _status(shared, mesh, stale, shared.left_s())
        if shared.as_json:
            print_json(seen)
        else:
            _print_status(seen)
        return OK

    return talk(shared, work)


@click.command("members", cls=MeshCommand)
@click.option("--watch", is_flag=True, help="Go on, a look every second.")
@stale_option()
@click.pass_obj
def members(shared: Shared, watch: bool, stale: bool) -> int:
    """The nodes, one a line. With --json and --watch, one document a line."""

    async def work(mesh: MeshClient) -> int:
        while True:
            seen = await _status(shared, mesh, stale, shared.timeout_s)
            if shared.as_json:
                print_json({"members": seen.nodes, "leader": seen.leader, "stale": seen.stale})
            else:
                if watch and sys.stdout.isatty():
                    click.clear()
                _print_nodes(seen.nodes)
            if not watch:
                return OK
            await asyncio.sleep(WATCH_PAUSE_S)

    return talk(shared, work)


async def _status(shared: Shared, mesh: MeshClient, stale: bool, left_s: float) -> Status:
    if not stale:
        return await mesh.status(timeout=left_s)
    return await read(shared, lambda _, __: mesh.status(stale=True, timeout=left_s), stale=True)


def _print_status(seen: Status) -> None:
    here = [node for node in seen.nodes if node.admin != "left"]
    healthy = sum(node.health == "healthy" for node in here)
    leader = f"led by {seen.leader}" if seen.leader else "without a leader"
    quorum = "" if seen.quorum else ", NO QUORUM: writes are refused"
    stale = f" (as {seen.served_by or 'one node'} knows it, may be out of date)" if seen.stale else ""
    click.echo(f"mesh {seen.cluster}  {leader} in term {seen.term}, {healthy} of {len(here)} healthy{quorum}{stale}")
    click.echo(f"log committed up to {seen.commit_index:,}")
    click.echo()
    _print_nodes(seen.nodes)
    click.echo()
    counts = [(name, getattr(seen.tasks, name)) for name in seen.tasks.__struct_fields__ if getattr(seen.tasks, name)]
    click.echo("tasks  " + (", ".join(f"{count:,} {name}" for name, count in counts) or "none yet"))
    for node in seen.nodes:
        if node.trouble:
            click.echo(clean(f"{node.id}: {node.trouble}"))


def _print_nodes(nodes: list[NodeView]) -> None:
    print_table(
        ("NODE", "ADDRESS", "ROLE", "HEALTH", "ADMIN", "RUNNING", "SLOTS", "HEARD", "PID", "CAPABILITIES"),
        [
            (
                node.id,
                node.address,
                "leader" if node.leader else node.role,
                node.health,
                node.admin,
                node.running,
                node.slots,
                f"{node.last_heartbeat_ms} ms",
                node.pid,
                ",".join(node.capabilities) or "-",
            )
            for node in nodes
        ],
    )
