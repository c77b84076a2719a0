"""How a node finds the mesh it is to take part in: it asks, as a client, whoever it was given."""

import asyncio
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
ASK_AGAIN_S = 5.0
"""A node that is not taken in yet looks this often who is there."""


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
    has_said = False
    while True:
        try:
            return await ask(peers, secret_file)
        except MeshUnavailable as error:
            if not has_said:
                LOG.warning("waiting for a node to join at %s: %s", peers, error)
                has_said = True
        await asyncio.sleep(PAUSE_S)


async def ask(peers: str, secret_file: Path | None) -> Found:
    """One try. Raises MeshUnavailable when nobody answers, and what find_mesh does."""
    async with connect(peers, secret_file=secret_file, timeout=CONNECT_TIMEOUT_S) as mesh:
        status = await mesh.status(stale=True, timeout=ANSWER_TIMEOUT_S)
    return Found(status.cluster, _reachable(status))


def _reachable(status: Status) -> tuple[tuple[NodeId, str], ...]:
    """Those that have not gone for good; members may be failed and come back."""
    return tuple((NodeId(node.id), node.address) for node in status.nodes if node.admin != "left" and node.address)


async def knock(
    seeds: Sequence[str],
    secret_file: Path | None,
    found: Found | None,
    is_taken_in: Callable[[], bool],
    dial: Callable[[Found], bool],
) -> None:
    """Until this node is taken in, let it dial whoever is there: by that they hear of it. Members are dialled anyway.

    `found` is what is known already. Given up when `dial` says so.
    """
    while not is_taken_in():
        if not seeds:
            LOG.warning("does not take part in a mesh yet; name some nodes of one with --join")
            return
        found = found or await _look(seeds, secret_file)
        if found is not None and not dial(found):
            return
        found = None
        await asyncio.sleep(ASK_AGAIN_S)


async def _look(seeds: Sequence[str], secret_file: Path | None) -> Found | None:
    """Who is there; None if nobody answers just now."""
    try:
        return await ask(",".join(seeds), secret_file)
    except (MeshError, OSError) as error:
        LOG.info("nobody to knock at: %s", error)
        return None
