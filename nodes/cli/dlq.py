"""`mesh dlq`: tasks that failed for good, and what to do with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nodes.cli.bulk import be_sure, each, print_touched
from nodes.cli.command import OK, MeshGroup, Shared
from nodes.cli.printing import clock, print_json, print_table, say
from nodes.cli.session import read, stale_option, talk
from nodes.cli.showing import print_task
from nodes.cli.task import other_payload

if TYPE_CHECKING:
    from mesh.client import MeshClient


@click.group("dlq", cls=MeshGroup)
def dlq() -> None:
    """Tasks that failed for good.

    \b
    mesh dlq list --group
    mesh dlq retry --all --error TimeoutError
    """


@dlq.command("list")
@click.option("--group", is_flag=True, help="By what they died of, the most frequent first.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True)
@click.option("--after", default="", metavar="ID", help="Go on after this id.")
@stale_option()
@click.pass_obj
def list_(shared: Shared, group: bool, limit: int, after: str, stale: bool) -> int:
    """The dead letters."""

    async def work(mesh: MeshClient) -> int:
        return await (_groups(shared, mesh, stale) if group else _page(shared, mesh, limit, after, stale))

    return talk(shared, work)


async def _page(shared: Shared, mesh: MeshClient, limit: int, after: str, stale: bool) -> int:
    page = await read(
        shared,
        lambda alone, left: mesh.dead_letters(after=after, limit=limit, stale=alone, timeout=left),
        stale=stale,
    )
    if shared.as_json:
        print_json(page)
        return OK
    print_table(
        ("ID", "CAPABILITY", "ATTEMPTS", "AT", "ERROR"),
        [(one.id, one.capability, one.attempts, clock(one.at), one.error) for one in page.dead_letters],
    )
    if page.next:
        say(f"more: --after {page.next}")
    return OK


async def _groups(shared: Shared, mesh: MeshClient, stale: bool) -> int:
    found = await read(shared, lambda alone, left: mesh.dead_letter_groups(stale=alone, timeout=left), stale=stale)
    if shared.as_json:
        print_json(found)
        return OK
    print_table(
        ("COUNT", "CAPABILITY", "FIRST", "LAST", "EXAMPLE", "ERROR"),
        [
            (one.count, one.capability, clock(one.first_at), clock(one.last_at), one.example, one.error)
            for one in found.groups
        ],
    )
    return OK


@dlq.command("show")
@click.argument("task_id", metavar="ID")
@click.pass_obj
def show(shared: Shared, task_id: str) -> int:
    """One dead letter, with every attempt."""

    async def work(mesh: MeshClient) -> int:
        from mesh.errors import NotFound

        found = await read(shared, lambda stale, left: mesh.task(task_id, stale=stale, timeout=left))
        if found.state != "dead":
            raise NotFound(f"{task_id!r} is no dead letter: it is {found.state}")
        print_task(shared, found, faults=True)
        return OK

    return talk(shared, work)


@dlq.command("retry")
@click.argument("task_ids", metavar="ID...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option("--capability", default="", metavar="NAME", help="With --all: only those of this one.")
@click.option("--error", default="", metavar="TEXT", help="With --all: only those with this in their error.")
@click.option("--payload", metavar="JSON|@FILE|-", help="Instead of its own; for one task.")
@click.pass_obj
def retry(
    shared: Shared, task_ids: tuple[str, ...], every: bool, capability: str, error: str, payload: str | None
) -> int:
    """Put dead letters back in the queue, their attempts forgotten."""
    _check_which(task_ids, every, capability, error)
    if payload is not None and len(task_ids) != 1:
        raise click.UsageError("--payload is for one task: name it")
    with_payload: dict[str, Any] = other_payload(payload)

    async def work(mesh: MeshClient) -> int:
        if every:
            touched = await mesh.retry_many(capability=capability, error=error, timeout=shared.left_s())
            return print_touched(shared, "retried", touched)
        return await each(
            shared, "retried", task_ids, lambda one: mesh.retry(one, timeout=shared.left_s(), **with_payload)
        )

    return talk(shared, work)


@dlq.command("drop")
@click.argument("task_ids", metavar="ID...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
@click.option("--capability", default="", metavar="NAME", help="With --all: only those of this one.")
@click.option("--error", default="", metavar="TEXT", help="With --all: only those with this in their error.")
@click.option("--reason", default="", help="Kept with each task.")
@click.pass_obj
def drop(
    shared: Shared, task_ids: tuple[str, ...], every: bool, yes: bool, capability: str, error: str, reason: str
) -> int:
    """Give dead letters up for good: they end as failed."""
    _check_which(task_ids, every, capability, error)

    async def work(mesh: MeshClient) -> int:
        if not every:
            return await each(
                shared, "dropped", task_ids, lambda task_id: mesh.drop(task_id, reason, timeout=shared.left_s())
            )
        which: dict[str, Any] = {"capability": capability, "error": error, "limit": _touched_max()}
        if not yes:
            be_sure("drop", (await mesh.drop_many(**which, dry_run=True, timeout=shared.left_s())).count, yes)
        return print_touched(shared, "dropped", await mesh.drop_many(**which, reason=reason, timeout=shared.left_s()))

    return talk(shared, work)


def _check_which(task_ids: tuple[str, ...], every: bool, capability: str, error: str) -> None:
    if bool(task_ids) == every:
        raise click.UsageError("name the dead letters, or say --all")
    if not every and (capability or error):
        raise click.UsageError("--capability and --error say which of all: say --all too")


def _touched_max() -> int:
    from mesh.client.orders import TOUCHED_MAX

    return TOUCHED_MAX
