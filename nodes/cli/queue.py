"""`mesh queue`: what waits for what, and whether it may go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from nodes.cli.bulk import be_sure, print_touched
from nodes.cli.command import OK, MeshGroup, Shared, as_usage
from nodes.cli.printing import clock, print_json, print_table, spell
from nodes.cli.session import read, stale_option, talk
from nodes.cli.treating import DURATION, priority_of

if TYPE_CHECKING:
    from mesh.client import MeshClient
    from mesh.documents import CapabilityQueue, Queues


@click.group("queue", cls=MeshGroup)
def queue() -> None:
    """What waits, by capability and by priority.

    \b
    mesh queue list
    mesh queue pause mail --reason "the server is down" --for 10m
    """


@queue.command("list")
@stale_option()
@click.pass_obj
def list_(shared: Shared, stale: bool) -> int:
    """Per capability: how many wait and run, how long the first has waited, whether it is paused; and by priority."""

    async def work(mesh: MeshClient) -> int:
        seen = await read(shared, lambda alone, left: mesh.queues(stale=alone, timeout=left), stale=stale)
        if shared.as_json:
            print_json(seen)
        else:
            _print_queues(seen)
        return OK

    return talk(shared, work)


def _print_queues(seen: Queues) -> None:
    print_table(
        ("CAPABILITY", "WAITING", "RUNNING", "OLDEST", "PAUSED"),
        [
            (one.capability, one.waiting, one.running, spell(one.oldest_wait_ms) if one.waiting else None, _pause(one))
            for one in seen.queues
        ],
    )
    click.echo()
    if seen.by_priority:
        click.echo("waiting by priority  " + ", ".join(f"{name}: {n:,}" for name, n in seen.by_priority.items()))
    click.echo(f"live {seen.live:,} of {seen.live_max:,}, dead letters {seen.dead:,} of {seen.dead_max:,}")


def _pause(seen: CapabilityQueue) -> str:
    if not seen.paused:
        return "no"
    until = f"until {clock(seen.paused_until)}" if seen.paused_until else "yes"
    return f"{until} ({seen.reason})" if seen.reason else until


@queue.command("clear")
@click.option("--priority", required=True, metavar="N|NAME")
@click.option("--reason", default="", help="Kept with each task.")
@click.option("--yes", is_flag=True, help="Do not ask, though several tasks wait.")
@click.pass_obj
def clear(shared: Shared, priority: str, reason: str, yes: bool) -> int:
    """Cancel whatever waits under a priority. What runs goes on."""
    number = priority_of(priority)

    async def work(mesh: MeshClient) -> int:
        if not yes:
            waiting = ("pending", "scheduled")
            found = await mesh.cancel_many(priority=number, state=waiting, dry_run=True, timeout=shared.left_s())
            be_sure("cancel", found.count, yes)
        return print_touched(shared, "cancelled", await mesh.clear(number, reason, timeout=shared.left_s()))

    return talk(shared, work)


@queue.command("pause")
@click.argument("capability")
@click.option("--reason", default="", help="Shown to whoever wonders.")
@click.option("--for", "span", type=DURATION, metavar="TIME", help="It goes on by itself after this, as in 10m.")
@click.pass_obj
def pause(shared: Shared, capability: str, reason: str, span: float | str | None) -> int:
    """Start no more tasks of a capability. What runs goes on, and submits are taken."""
    _check(capability)
    until_s = None if span is None else time.time() + _limit_s(span)

    async def work(mesh: MeshClient) -> int:
        await mesh.pause(capability, reason, until_s, timeout=shared.left_s())
        until_ms = None if until_s is None else int(until_s * 1_000)
        if shared.as_json:
            print_json({"capability": capability, "paused": True, "until": until_ms, "reason": reason})
        else:
            click.echo(f"{capability} is paused" + (f" until {clock(until_ms)}" if until_ms else ""))
        return OK

    return talk(shared, work)


@queue.command("resume")
@click.argument("capability")
@click.pass_obj
def resume(shared: Shared, capability: str) -> int:
    """Start tasks of it again."""
    _check(capability)

    async def work(mesh: MeshClient) -> int:
        await mesh.resume(capability, timeout=shared.left_s())
        if shared.as_json:
            print_json({"capability": capability, "paused": False})
        else:
            click.echo(f"{capability} goes on")
        return OK

    return talk(shared, work)


def _check(capability: str) -> None:
    from mesh.treatment import check_name

    with as_usage():
        check_name("capability", capability)


def _limit_s(span: float | str) -> float:
    from mesh.treatment import limit_ms

    with as_usage():
        return limit_ms("--for", span) / 1_000
