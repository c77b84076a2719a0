"""`mesh agent`: nodes as runners of tasks, and how they are chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nodes.cli.command import OK, MeshGroup, Shared, as_usage
from nodes.cli.printing import clock, print_json, print_pairs, print_table, spell
from nodes.cli.session import read, stale_option, talk

if TYPE_CHECKING:
    from mesh.client import MeshClient
    from mesh.documents import Agents, AgentView


@click.group("agent", cls=MeshGroup)
def agent() -> None:
    """Nodes as runners of tasks.

    \b
    mesh agent list
    mesh agent strategy resource_based
    """


@agent.command("list")
@stale_option()
@click.pass_obj
def list_(shared: Shared, stale: bool) -> int:
    """All of them: how they are, how busy, what they offer, and whom a breaker keeps from what."""

    async def work(mesh: MeshClient) -> int:
        seen = await _agents(shared, mesh, stale)
        if shared.as_json:
            print_json(seen)
            return OK
        print_table(
            (
                *("NODE", "TYPE", "STATUS", "HEALTH", "SCORE", "LOAD", "CPU", "MEMORY", "CAPABILITIES", "BREAKERS"),
                "CAUSES",
            ),
            [
                (
                    *(one.id, one.type, one.status, one.health, f"{one.health_score:.2f}"),
                    *(f"{one.running}/{one.slots}", f"{one.cpu:.0%}", f"{one.memory:.0%}"),
                    ",".join(one.capabilities) or None,
                    ",".join(f"{breaker.capability}:{breaker.state}" for breaker in one.breakers) or None,
                    "; ".join(one.causes) or None,
                )
                for one in seen.agents
            ],
        )
        click.echo(f"\nchosen by {seen.strategy}")
        return OK

    return talk(shared, work)


@agent.command("show")
@click.argument("node_id", metavar="ID")
@stale_option()
@click.pass_obj
def show(shared: Shared, node_id: str, stale: bool) -> int:
    """One of them, in full."""

    async def work(mesh: MeshClient) -> int:
        from mesh.errors import NotFound

        seen = await _agents(shared, mesh, stale)
        found = next((one for one in seen.agents if one.id == node_id), None)
        if found is None:
            raise NotFound(f"there is no node {node_id!r}; there are {', '.join(one.id for one in seen.agents)}")
        if shared.as_json:
            print_json(found)
        else:
            _print_agent(found)
        return OK

    return talk(shared, work)


def _print_agent(found: AgentView) -> None:
    print_pairs(
        [
            ("id", found.id),
            ("address", found.address),
            ("type", found.type),
            ("status", found.status),
            ("health", found.health),
            ("score", f"{found.health_score:.2f}"),
            *(("", cause) for cause in found.causes),
            ("slots", f"{found.running} of {found.slots} taken"),
            ("cpu", f"{found.cpu:.0%}"),
            ("memory", f"{found.memory:.0%}"),
            ("capabilities", ", ".join(found.capabilities) or None),
            ("versions", _pairs(found.versions)),
            ("labels", _pairs(found.labels)),
            ("takes", _pairs({name: spell(mean_ms) for name, mean_ms in found.mean_ms.items()})),
        ]
    )
    if found.breakers:
        click.echo()
        print_table(
            ("BREAKER", "STATE", "FAILURES", "TRIED AGAIN"),
            [(one.capability, one.state, one.failures, clock(one.until)) for one in found.breakers],
        )


def _pairs(found: dict[str, Any]) -> str | None:
    return ", ".join(f"{name}={value}" for name, value in sorted(found.items())) or None


@agent.command("strategy")
@click.argument("name", required=False)
@click.pass_obj
def strategy(shared: Shared, name: str | None) -> int:
    """How a node is chosen among those that may have a task; with NAME, from now on.

    NAME is least_connections, round_robin, weighted_round_robin, resource_based, geographic or random.
    """
    if name is not None:
        _check_strategy(name)

    async def work(mesh: MeshClient) -> int:
        if name is None:
            known = (await _agents(shared, mesh, stale=False)).strategy
        else:
            await mesh.strategy(name, timeout=shared.left_s())
            known = name
        if shared.as_json:
            print_json({"strategy": known})
        else:
            click.echo(known)
        return OK

    return talk(shared, work)


@agent.command("close-breaker")
@click.argument("node_id", metavar="NODE")
@click.argument("capability")
@click.pass_obj
def close_breaker(shared: Shared, node_id: str, capability: str) -> int:
    """Trust a node with a capability again."""

    async def work(mesh: MeshClient) -> int:
        await mesh.close_breaker(node_id, capability, timeout=shared.left_s())
        if shared.as_json:
            print_json({"id": node_id, "capability": capability, "breaker": "closed"})
        else:
            click.echo(f"{node_id} is trusted with {capability} again")
        return OK

    return talk(shared, work)


async def _agents(shared: Shared, mesh: MeshClient, stale: bool) -> Agents:
    return await read(shared, lambda alone, left: mesh.agents(stale=alone, timeout=left), stale=stale)


def _check_strategy(name: str) -> None:
    from mesh.client.orders import STRATEGIES
    from mesh.treatment import chosen

    with as_usage():
        chosen("a strategy", name, STRATEGIES)
