"""`mesh raft`: the log, who leads it, how far each node has come."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nodes.cli.command import OK, REFUSED, STILL_RUNNING, MeshGroup, Shared
from nodes.cli.printing import print_json, print_pairs, print_table, say
from nodes.cli.session import read, stale_option, talk

if TYPE_CHECKING:
    from mesh.client import MeshClient

POLL_S = 0.05


@click.group("raft", cls=MeshGroup)
def raft() -> None:
    """The replicated log.

    \b
    mesh raft status
    mesh raft transfer n2
    mesh raft add-voter n4
    """


@raft.command("status")
@stale_option()
@click.pass_obj
def status(shared: Shared, stale: bool) -> int:
    """The log as the leader sees it; without a quorum, as one node does."""

    async def work(mesh: MeshClient) -> int:
        seen = await read(shared, lambda alone, left: mesh.raft_status(stale=alone, timeout=left), stale=stale)
        if shared.as_json:
            print_json(seen)
            return OK
        print_pairs(
            [
                ("node", f"{seen.node} ({seen.role}{'' if seen.serving else ', not serving'})"),
                ("leader", seen.leader),
                ("term", seen.term),
                ("committed", f"{seen.commit_index:,}"),
                ("applied", f"{seen.applied_index:,}"),
                ("log", f"{seen.first_index:,} to {seen.last_index:,}"),
                ("digest", seen.digest),
            ]
        )
        if seen.peers:
            click.echo()
            print_table(
                ("NODE", "ADDRESS", "ROLE", "STATE", "MATCH", "TRAILS BY"),
                [
                    (peer.id, peer.address, peer.role, peer.state, peer.match_index, peer.trails_by)
                    for peer in seen.peers
                ],
            )
        return OK

    return talk(shared, work)


@raft.command("transfer")
@click.argument("node_id", metavar="ID")
@click.pass_obj
def transfer(shared: Shared, node_id: str) -> int:
    """Make this node the leader."""

    async def work(mesh: MeshClient) -> int:
        await mesh.transfer(node_id, timeout=shared.left_s())
        while (await mesh.status(timeout=shared.left_s())).leader != node_id:
            if shared.left_s() < POLL_S:
                say(f"{node_id} does not lead yet")
                return STILL_RUNNING
            await asyncio.sleep(POLL_S)
        if shared.as_json:
            print_json({"leader": node_id})
        else:
            click.echo(f"{node_id} leads")
        return OK

    return talk(shared, work)


@raft.command("add-voter")
@click.argument("node_id", metavar="ID")
@click.pass_obj
def add_voter(shared: Shared, node_id: str) -> int:
    """Give a node that takes part a vote. Waits until it has caught up."""

    async def work(mesh: MeshClient) -> int:
        await mesh.add_voter(node_id, timeout=shared.left_s())
        return _done(shared, node_id, "voter", f"{node_id} has a vote")

    return talk(shared, work)


@raft.command("remove-voter")
@click.argument("node_id", metavar="ID")
@click.pass_obj
def remove_voter(shared: Shared, node_id: str) -> int:
    """Take a node's vote. It goes on as a learner, and gets a vote again only by add-voter."""

    async def work(mesh: MeshClient) -> int:
        await mesh.remove_voter(node_id, timeout=shared.left_s())
        return _done(shared, node_id, "learner", f"{node_id} has no vote any more")

    return talk(shared, work)


@raft.command("recover")
@click.option("--data-dir", required=True, metavar="DIR", help="Of the node that goes on. It must be stopped.")
@click.option("--i-know", is_flag=True, help="The other voters are lost for good, and what only they held with them.")
@click.pass_obj
def recover(shared: Shared, data_dir: str, i_know: bool) -> int:
    """After a majority of the voters is lost for good: let one survivor go on alone. Works on its files, offline.

    Start the survivor afterwards as before, and new nodes with empty data directories and --join. Old data
    directories of the others are not let in again.
    """
    from mesh.storage.directory import peek
    from mesh.storage.faults import StoreRefused
    from mesh.storage.forced import force_configuration

    where = Path(data_dir)
    try:
        identity = peek(where)
        if identity is None:
            raise StoreRefused(f"{where} is no data directory of a node.")
        if not i_know:
            say(
                f"mesh: this would make {identity.node_id} the only voter of mesh {identity.cluster}, and give up what "
                f"only the other voters hold. If a majority of them can still be started, start them instead. If not, "
                f"and {identity.node_id} is stopped, say it again with --i-know."
            )
            return REFUSED
        forced = force_configuration(where, identity.node_id)
    except StoreRefused as error:
        raise click.ClickException(str(error)) from None
    if shared.as_json:
        print_json(
            {
                "id": identity.node_id,
                "cluster": identity.cluster,
                "index": forced.index,
                "term": forced.term,
                "voters": list(forced.new.voter_ids),
                "were": list(forced.old.voter_ids),
            }
        )
    else:
        click.echo(f"{identity.node_id} is the only voter now; it was one of {', '.join(forced.old.voter_ids)}")
        say(f"start it as before, and new nodes with --join {forced.new.voters[0].address} and empty data directories")
    return OK


def _done(shared: Shared, node_id: str, role: str, sentence: str) -> int:
    if shared.as_json:
        print_json({"id": node_id, "role": role})
    else:
        click.echo(sentence)
    return OK
