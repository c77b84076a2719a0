"""`mesh dlq`: tasks that failed for good, and what to do with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nodes.cli.bulk import each
from nodes.cli.command import OK, MeshGroup, Shared
from nodes.cli.printing import clock, print_json, print_table, say
from nodes.cli.session import read, stale_option, talk
from nodes.cli.task import print_task

if TYPE_CHECKING:
    from mesh.client import MeshClient


@click.group("dlq", cls=MeshGroup)
def dlq() -> None:
    """Tasks that failed for good.

    \b
    mesh dlq list
    mesh dlq retry --all
    """


@dlq.command("list")
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True)
@click.option("--after", default="", metavar="ID", help="Go on after this id.")
@stale_option()
@click.pass_obj
def list_(shared: Shared, limit: int, after: str, stale: bool) -> int:
    """The dead letters."""

    async def work(mesh: MeshClient) -> int:
        page = await read(
            shared,
            lambda alone, left: mesh.dead_letters(after=after, limit=limit, stale=alone, timeout=left),
            stale=stale,
        )
        if shared.as_json:
            print_json(page)
        else:
            print_table(
                ("ID", "CAPABILITY", "ATTEMPTS", "AT", "ERROR"),
                [(one.id, one.capability, one.attempts, clock(one.at), one.error) for one in page.dead_letters],
            )
            if page.next:
                say(f"more: --after {page.next}")
        return OK

    return talk(shared, work)


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
        print_task(shared, found)
        return OK

    return talk(shared, work)


@dlq.command("retry")
@click.argument("task_ids", metavar="ID...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.pass_obj
def retry(shared: Shared, task_ids: tuple[str, ...], every: bool) -> int:
    """Put dead letters back in the queue, their attempts forgotten."""
    if bool(task_ids) == every:
        raise click.UsageError("name the dead letters, or say --all")

    async def work(mesh: MeshClient) -> int:
        ids = await _all_ids(mesh, shared) if every else list(task_ids)
        return await each(shared, "retried", ids, lambda one: mesh.retry(one, timeout=shared.left_s()))

    return talk(shared, work)


@dlq.command("drop")
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--reason", default="", help="Kept with the task.")
@click.pass_obj
def drop(shared: Shared, task_ids: tuple[str, ...], reason: str) -> int:
    """Give dead letters up for good: they end as failed."""

    async def work(mesh: MeshClient) -> int:
        return await each(
            shared, "dropped", task_ids, lambda task_id: mesh.drop(task_id, reason, timeout=shared.left_s())
        )

    return talk(shared, work)


async def _all_ids(mesh: MeshClient, shared: Shared) -> list[str]:
    ids: list[str] = []
    after = ""
    while True:
        page = await mesh.dead_letters(after=after, limit=1_000, timeout=shared.left_s())
        ids += [letter.id for letter in page.dead_letters]
        if not page.next or page.next == after:
            return ids
        after = page.next
