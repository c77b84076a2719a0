"""`mesh cron`: tasks that are submitted again and again, at set times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nodes.cli.command import OK, MeshGroup, Shared, as_usage
from nodes.cli.payload import payload_argument
from nodes.cli.printing import clock, print_json, print_table
from nodes.cli.session import read, stale_option, talk
from nodes.cli.treating import DURATION, priority_of, treatment, treatment_options

if TYPE_CHECKING:
    from mesh.client import MeshClient
    from mesh.documents import Crons, CronView


@click.group("cron", cls=MeshGroup)
def cron() -> None:
    """Schedules.

    \b
    mesh cron set nightly "0 3 * * *" report '{"kind": "daily"}' --zone Europe/Berlin
    mesh cron set often "@every 30s" poll
    """


@cron.command("list")
@stale_option()
@click.pass_obj
def list_(shared: Shared, stale: bool) -> int:
    """The schedules, and when each fires next."""

    async def work(mesh: MeshClient) -> int:
        seen = await _crons(shared, mesh, stale)
        if shared.as_json:
            print_json(seen)
            return OK
        print_table(
            ("NAME", "EXPRESSION", "ZONE", "CAPABILITY", "NEXT", "OVERLAP", "CATCH UP", "FIRED", "SKIPPED", "LAST"),
            [
                (
                    *(one.name, one.expression, one.zone, one.capability, _next(one)),
                    *(one.overlap, one.catch_up, one.fired, one.skipped, one.last_task),
                )
                for one in seen.crons
            ],
        )
        return OK

    return talk(shared, work)


@cron.command("set")
@click.argument("name")
@click.argument("expression")
@click.argument("capability")
@click.argument("payload", required=False, metavar="[JSON|@FILE|-]")
@click.option("--zone", default="UTC", show_default=True, metavar="NAME", help="Whose clock is meant.")
@click.option(
    "--overlap",
    default="skip",
    show_default=True,
    metavar="skip|allow|queue_one|cancel_old",
    help="If its last task has not ended.",
)
@click.option(
    "--catch-up",
    default="one",
    show_default=True,
    metavar="none|one|all",
    help="Of firings missed while nobody led.",
)
@click.option("--jitter", type=DURATION, default="0", metavar="TIME", help="Each firing is late by up to this.")
@click.option("--paused", is_flag=True, help="It does not fire.")
@click.option("--priority", default="5", metavar="N|NAME")
@click.option("--max-attempts", type=click.IntRange(min=1), default=3, show_default=True, metavar="N")
@treatment_options(of_one_task=False)
@click.pass_obj
def set_(
    shared: Shared,
    /,
    name: str,
    expression: str,
    capability: str,
    payload: str | None,
    zone: str,
    overlap: str,
    catch_up: str,
    jitter: float | str,
    paused: bool,
    priority: str,
    max_attempts: int,
    **flags: Any,
) -> int:
    """Submit a task at set times; change the schedule of this name, if there is one.

    EXPRESSION is minute, hour, day, month and weekday ("*/5 9-17 * * 1-5"), or "@every 30s" and the like. Further
    options are as for `mesh task submit`, for each task.
    """
    value = payload_argument(payload)
    number = priority_of(priority)
    options = treatment(flags, max_attempts)
    _check(name, expression, zone, overlap, catch_up, capability, value, options)

    async def work(mesh: MeshClient) -> int:
        await mesh.set_cron(
            name,
            expression,
            capability,
            value,
            zone=zone,
            priority=number,
            max_attempts=max_attempts,
            overlap=overlap,
            catch_up=catch_up,
            jitter=jitter,
            paused=paused,
            timeout=shared.left_s(),
            **options,
        )
        return await _show(shared, mesh, name)

    return talk(shared, work)


@cron.command("drop")
@click.argument("name")
@click.pass_obj
def drop(shared: Shared, name: str) -> int:
    """End a schedule. Tasks it has submitted go on."""

    async def work(mesh: MeshClient) -> int:
        await mesh.drop_cron(name, timeout=shared.left_s())
        if shared.as_json:
            print_json({"name": name, "dropped": True})
        else:
            click.echo(f"{name} is dropped")
        return OK

    return talk(shared, work)


@cron.command("pause")
@click.argument("name")
@click.pass_obj
def pause(shared: Shared, name: str) -> int:
    """Let a schedule rest."""

    async def work(mesh: MeshClient) -> int:
        await mesh.pause_cron(name, timeout=shared.left_s())
        return await _show(shared, mesh, name)

    return talk(shared, work)


@cron.command("resume")
@click.argument("name")
@click.pass_obj
def resume(shared: Shared, name: str) -> int:
    """Let it fire again, from now on: what it would have fired meanwhile is not made up for."""

    async def work(mesh: MeshClient) -> int:
        await mesh.resume_cron(name, timeout=shared.left_s())
        return await _show(shared, mesh, name)

    return talk(shared, work)


async def _crons(shared: Shared, mesh: MeshClient, stale: bool) -> Crons:
    return await read(shared, lambda alone, left: mesh.crons(stale=alone, timeout=left), stale=stale)


async def _show(shared: Shared, mesh: MeshClient, name: str) -> int:
    """The schedule as it is now."""
    from mesh.errors import NotFound

    seen = await _crons(shared, mesh, stale=False)
    found = next((one for one in seen.crons if one.name == name), None)
    if found is None:
        raise NotFound(f"{name!r} was changed, and has been dropped by somebody since")
    if shared.as_json:
        print_json(found)
    else:
        click.echo(f"{name} is paused" if found.paused else f"{name} fires next at {clock(found.next)}")
    return OK


def _next(seen: CronView) -> str:
    return "paused" if seen.paused else clock(seen.next)


def _check(
    name: str,
    expression: str,
    zone: str,
    overlap: str,
    catch_up: str,
    capability: str,
    value: Any,
    options: dict[str, Any],
) -> None:
    """What cannot be is refused before anybody is asked; whether an expression can, the mesh says."""
    from mesh.client.options import standing_options
    from mesh.client.payload import encode_payload
    from mesh.treatment import CATCH_UP, OVERLAP, check_name, chosen

    with as_usage():
        check_name("name of a schedule", name)
        check_name("capability", capability)
        check_name("schedule's expression", expression)
        check_name("time zone", zone)
        chosen("--overlap", overlap, OVERLAP)
        chosen("--catch-up", catch_up, CATCH_UP)
        standing_options(capability, value, options)
    encode_payload(value)
