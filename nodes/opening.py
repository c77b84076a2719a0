"""From settings to an open data directory: whose it is, which mesh it belongs to, and what if it is damaged."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from mesh.durable import Recovered
from mesh.events import Event
from mesh.ids import Term
from mesh.storage.directory import Identity, peek
from mesh.storage.faults import StoreDamaged, StoreRefused
from mesh.storage.quarantine import set_aside
from mesh.storage.store import Store
from nodes.joining import Found, find_mesh
from nodes.settings import NodeSettings
from nodes.telemetry import LOG

Post = Callable[[Event], None]


@dataclass(slots=True)
class Opened:
    """A node's disk, ready to run from. `voters` is the founding configuration; empty for a node that joins.

    `found` is the mesh as a seed described it, if one was asked. `trouble` is one sentence for the status, or empty.
    """

    store: Store
    recovered: Recovered
    cluster: str
    voters: tuple[tuple[str, str], ...]
    found: Found | None
    trouble: str

    def take_recovered(self) -> Recovered:
        """What the disk held, once: nobody keeps a million rows that have become tasks."""
        recovered, self.recovered = self.recovered, _TAKEN
        return recovered


_TAKEN = Recovered(None, [], Term(0), None, [], [], 0)


async def open_directory(settings: NodeSettings, post: Post) -> Opened:
    """Open the data directory; one that is damaged is set aside if there are peers to recover from.

    Raises:
        StoreRefused: it cannot be used as it is; the sentence says what to do.
        StoreDamaged: it is damaged, and this node knows no other.
    """
    known: Identity | None = None
    try:
        known = peek(settings.directory)
        return await _open(settings, known, post, "")
    except StoreDamaged as error:
        if not settings.seeds:
            raise StoreDamaged(
                f"{error.finding} This node knows no other that it could recover from (name one with --join, if there "
                f"is)."
            ) from None
        aside = set_aside(settings.directory, error.finding, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        finding = " ".join(error.finding.split())
        trouble = f"Its data was damaged, lies in {aside} now, and comes anew from its peers: {finding}"
        LOG.error("%s", trouble)
        return await _open(settings, peek(settings.directory), post, trouble)


async def _open(settings: NodeSettings, known: Identity | None, post: Post, trouble: str) -> Opened:
    """Founders begin with their list; whoever joins or comes back without its log learns it all from the leader."""
    is_founder = not settings.join and not (known is not None and known.rejoining)
    cluster = known.cluster if known is not None else ""
    if is_founder and settings.voters:
        _refuse_other_list(settings, known)
        cluster = settings.cluster
    elif is_founder:
        is_founder = cluster in ("", settings.cluster)  # Otherwise it goes on in the mesh it belongs to.
        cluster = cluster or settings.cluster
    elif not cluster and settings.voters:
        cluster = settings.cluster
    found = None
    if not cluster and not settings.join:
        raise StoreRefused(
            f"{settings.directory} waits to be filled by the mesh this node belonged to: name nodes of it with --join."
        )
    if not cluster:
        found = await find_mesh(settings.join, settings.secret_file)
        cluster = found.cluster
    store = Store(
        settings.directory,
        node_id=settings.id,
        cluster=cluster,
        post=post,
        first_incarnation=int(time.time()),
        rejoining=not is_founder,
    )
    try:
        recovered = store.recover()
    except BaseException:
        store.close()
        raise
    return Opened(store, recovered, cluster, settings.founding if is_founder else (), found, trouble)


def _refuse_other_list(settings: NodeSettings, known: Identity | None) -> None:
    if known is not None and known.node_id == settings.id and known.cluster not in ("", settings.cluster):
        raise StoreRefused(
            f"{settings.directory} belongs to another mesh ({known.cluster}) than the one --voters founds "
            f"({settings.cluster}): give the list this one was founded with, or neither --voters nor --join."
        )


def refuse_other_mesh(opened: Opened, found: Found, settings: NodeSettings) -> None:
    """Raises StoreRefused if the seeds belong to another mesh than the data directory."""
    if found.cluster != opened.cluster:
        raise StoreRefused(
            f"{settings.directory} belongs to mesh {opened.cluster}, but {', '.join(settings.seeds)} to mesh "
            f"{found.cluster}: name other nodes with --join, or another --data-dir."
        )
