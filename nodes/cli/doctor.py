"""`mesh doctor`: what is wrong, why, and what to do, the worst first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from nodes.cli.command import FAILED, OK, MeshCommand, Shared
from nodes.cli.printing import clean, print_json, say
from nodes.cli.session import AS_ONE_NODE_KNOWS, talk

if TYPE_CHECKING:
    from mesh.client import MeshClient
    from mesh.documents import Explanation
    from nodes.cli.diagnosis import Evidence

LOOK_AGAIN_S = 1.0
"""A task for which a node is free has begun long before."""


@click.command("doctor", cls=MeshCommand)
@click.pass_obj
def doctor(shared: Shared) -> int:
    """What is wrong with the mesh, why, and what to do about it. Exit code 1 if anything is."""

    async def work(mesh: MeshClient) -> int:
        from nodes.cli.diagnosis import findings

        evidence = await _evidence(shared, mesh)
        found = findings(evidence)
        if shared.as_json:
            print_json({"ok": not found, "findings": found})
            return FAILED if found else OK
        for one in found:
            click.echo(clean(f"{one.severity}: {one.what}"))
            click.echo(clean(f"  why  {one.why}"))
            click.echo(clean(f"  do   {one.do}"))
        if not found:
            status = evidence.status
            click.echo(f"Nothing is wrong: {len(status.nodes)} nodes, led by {status.leader}.")
        return FAILED if found else OK

    return talk(shared, work)


async def _evidence(shared: Shared, mesh: MeshClient) -> Evidence:
    """Ask for everything; without a quorum, of the node that answers."""
    from nodes.cli.diagnosis import Evidence, to_explain

    status = await mesh.status(timeout=shared.left_s())
    stale = status.stale
    if stale:
        say(AS_ONE_NODE_KNOWS)
    agents, queues, settings, dead_letters, raft = await asyncio.gather(
        mesh.agents(stale=stale, timeout=shared.left_s()),
        mesh.queues(stale=stale, timeout=shared.left_s()),
        mesh.settings(stale=stale, timeout=shared.left_s()),
        mesh.dead_letter_groups(stale=stale, timeout=shared.left_s()),
        mesh.raft_status(stale=stale, timeout=shared.left_s()),
    )
    waiting = {} if stale else await _explained(shared, mesh, to_explain(agents, queues))
    return Evidence(status, agents, queues, settings, dead_letters, raft, waiting)


async def _explained(shared: Shared, mesh: MeshClient, capabilities: list[str]) -> dict[str, list[Explanation]]:
    """Of each capability a task that waits, and why; twice for those whose reason should be gone in a moment."""
    from nodes.cli.diagnosis import UNMOVED

    looks: dict[str, list[Explanation]] = {}
    for capability in capabilities:
        page = await mesh.tasks(state="pending", capability=capability, limit=1, timeout=shared.left_s())
        if page.tasks:
            looks[capability] = [await mesh.explain(page.tasks[0].id, timeout=shared.left_s())]
    again = [seen for seen in looks.values() if seen[0].reason in UNMOVED]
    if again:
        await asyncio.sleep(LOOK_AGAIN_S)
    for seen in again:
        seen.append(await mesh.explain(seen[0].id, timeout=shared.left_s()))
    return looks
