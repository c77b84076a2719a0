"""How a node finds the mesh it is to take part in: it asks, as a client, whoever it was given."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.client import connect
from mesh.documents import Status
from mesh.errors import MeshError, MeshUnavailable
from mesh.ids import NodeId
from nodes.telemetry import LOG

CONNECT_TIMEOUT_S = 2.0
"""For one try: to reach a seed."""
ANSWER_TIMEOUT_S = 5.0
"""To hear from it."""
PAUSE_S = 0.5
ASK_AGAIN_S = 2.0
"""A node that is not taken in yet looks this often who is there."""
PATIENT_LOOKS = 3
"""So often it looks before it says that it waits."""


@dataclass(frozen=True, slots=True)
class Found:
    """A mesh, as one of its nodes described it. `nodes` are (id, HOST:PORT) of all that may be dialled."""

    cluster: str
    nodes: tuple[tuple[NodeId, str], ...]


async def find_mesh(seeds: Sequence[str], secret_file: Path | None) -> Found:
    """Ask until a seed answers: whoever starts a node wants it to run, and the seeds may only be starting.

    Raises:
        MeshError: an address or the secret will not do.
        OSError: the secret cannot be read.
    """
    peers = ",".join(seeds)
    links = logging.getLogger("mesh.transport")
    try:
        while True:
            try:
                return await ask(peers, secret_file)
            except MeshUnavailable as error:
                if not links.level:
                    LOG.warning("waiting for a node to join at %s: %s", peers, error)
                    links.setLevel(logging.ERROR)  # Each try has new links, which would say the same again.
            await asyncio.sleep(PAUSE_S)
    finally:
        links.setLevel(logging.NOTSET)


async def ask(peers: str, secret_file: Path | None) -> Found:
    """One try. Raises MeshUnavailable when nobody answers, and what find_mesh does."""
    async with connect(peers, secret_file=secret_file, timeout=CONNECT_TIMEOUT_S) as mesh:
        status = await mesh.status(stale=True, timeout=ANSWER_TIMEOUT_S)
    return Found(status.cluster, _reachable(status))


def _reachable(status: Status) -> tuple[tuple[NodeId, str], ...]:
    """Those that have not gone for good; members may be failed and come back."""
    return tuple((NodeId(node.id), node.address) for node in status.nodes if node.admin != "left" and node.address)


async def knock(
    node_id: str,
    seeds: Sequence[str],
    secret_file: Path | None,
    found: Found | None,
    is_taken_in: Callable[[], bool],
    dial: Callable[[Found], bool],
) -> None:
    """Until this node is taken in, let it dial whoever is there: by that they hear of it. Members are dialled anyway.

    `found` is what is known already. Given up when `dial` says so.
    """
    said = ""
    looks = 0
    while not is_taken_in():
        if not seeds:
            LOG.warning("does not take part in a mesh yet; name some nodes of one with --join")
            return
        found = found or await _look(seeds, secret_file)
        if found is not None and not dial(found):
            return
        await asyncio.sleep(ASK_AGAIN_S)
        looks += 1
        why = _why_not(node_id, found, is_early=looks < PATIENT_LOOKS)
        if why not in ("", said) and not is_taken_in():
            LOG.warning("%s", why)
            said = why
        found = None


def _why_not(node_id: str, found: Found | None, *, is_early: bool) -> str:
    """What a node waits for that has knocked and is not taken in; empty where it may just take its time."""
    if found is None:
        return "waiting to be taken in; nobody answers just now"
    there = dict(found.nodes).get(NodeId(node_id))
    if there is None and is_early:
        return ""
    if there is None:
        return f"waiting to be taken in by mesh {found.cluster}; it needs a quorum for that"
    return (
        f"mesh {found.cluster} has a {node_id} at {there} with another log; this one takes its place once that has "
        f"failed, or at once after `mesh node forget {node_id}`"
    )


async def _look(seeds: Sequence[str], secret_file: Path | None) -> Found | None:
    """Who is there; None if nobody answers just now."""
    try:
        return await ask(",".join(seeds), secret_file)
    except (MeshError, OSError) as error:
        LOG.info("nobody to knock at: %s", error)
        return None
