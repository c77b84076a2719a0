"""`mesh events`: what has happened, in the order of the log."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from nodes.cli.command import OK, MeshCommand, Shared
from nodes.cli.printing import clean, clock, print_json, say
from nodes.cli.session import AS_ONE_NODE_KNOWS, read, stale_option, talk

if TYPE_CHECKING:
    from mesh.client import MeshClient
    from mesh.documents import EventLine, EventPage

POLL_S = 0.2
INDEX_MAX = 10**18 - 1
"""A cursor with more digits is none to a node, which would tell everything."""


@click.command("events", cls=MeshCommand)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens next.")
@click.option(
    "--after", type=click.IntRange(0, INDEX_MAX), default=0, metavar="INDEX", help="Only what is later in the log."
)
@click.option("--task", "task_id", metavar="ID", help="Only what concerns this task.")
@click.option("--node", "node_id", metavar="ID", help="Only what concerns this node.")
@click.option("--type", "kind", metavar="EVENT", help="Only events of this name.")
@stale_option()
@click.pass_obj
def events(
    shared: Shared,
    follow: bool,
    after: int,
    task_id: str | None,
    node_id: str | None,
    kind: str | None,
    stale: bool,
) -> int:
    """What has happened, oldest first. With --json, one document a line."""

    def wanted(event: EventLine) -> bool:
        return (
            (task_id is None or event.task == task_id)
            and (node_id is None or event.node == node_id)
            and (kind is None or event.event == kind)
        )

    async def work(mesh: MeshClient) -> int:
        cursor = str(after)
        if stale:
            say(AS_ONE_NODE_KNOWS)
        while True:  # Up to what is committed now, a page at a time.
            if stale:
                page = await _page(mesh, cursor, True, shared.left_s())
            else:
                page = await read(shared, partial(_page, mesh, cursor))
            for event in page.events:
                if wanted(event):
                    _print(shared, event)
            if not page.next or page.next == cursor:
                break
            cursor = page.next
        if follow:
            # Any node's word will do from here on: the cursor sees to it that nothing is missed or told twice.
            async for event in mesh.events(int(cursor), follow=True, poll_s=POLL_S, stale=True):
                if wanted(event):
                    _print(shared, event)
        return OK

    return talk(shared, work)


async def _page(mesh: MeshClient, cursor: str, stale: bool, left_s: float) -> EventPage:
    return await mesh.event_page(cursor, stale=stale, timeout=left_s)


def _print(shared: Shared, event: EventLine) -> None:
    if shared.as_json:
        print_json(event)
        return
    about = " ".join(
        part
        for part in (
            event.task and f"task={event.task}",
            event.node and f"node={event.node}",
            event.attempt and f"attempt={event.attempt}",
            event.detail,
        )
        if part
    )
    click.echo(clean(f"{event.index:>8}  {clock(event.at)}  {event.event:<18} {about}"))
