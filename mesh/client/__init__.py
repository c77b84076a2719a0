"""Submit from anywhere: `connect` to any nodes of a mesh, or `connect_sync` where there is no event loop."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Generator
from pathlib import Path
from random import SystemRandom
from typing import Any

from mesh.client.blocking import BlockingHandle, BlockingMesh
from mesh.client.connection import MeshClient
from mesh.client.courier import Courier
from mesh.client.handle import Handle, Outcome
from mesh.client.links import Dial, Link, LinkEvents
from mesh.client.orders import UNCHANGED
from mesh.transport import ClientLink, Identity, TransportRefused
from mesh.transport.address import parse

__all__ = [
    "UNCHANGED",
    "BlockingHandle",
    "BlockingMesh",
    "Handle",
    "MeshClient",
    "Outcome",
    "connect",
    "connect_sync",
]

CONNECT_TIMEOUT_S = 10.0

# A library stays silent unless the program it is in asks for its log.
logging.getLogger("mesh").addHandler(logging.NullHandler())


class Connecting:
    """What `connect` returns: `async with` it, or await it and close the client yourself."""

    def __init__(self, peers: str, secret_file: str | Path | None, timeout: float) -> None:
        self._peers = peers
        self._secret_file = secret_file
        self._timeout = timeout
        self._client: MeshClient | None = None

    def __await__(self) -> Generator[Any, None, MeshClient]:
        return self._open().__await__()

    async def __aenter__(self) -> MeshClient:
        self._client = await self._open()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    async def _open(self) -> MeshClient:
        courier = Courier(_addresses(self._peers), _dial(self._secret_file), SystemRandom())
        await courier.open(self._timeout)
        return MeshClient(courier)


def connect(peers: str, *, secret_file: str | Path | None = None, timeout: float = CONNECT_TIMEOUT_S) -> Connecting:
    """A client of the mesh that these peers belong to.

    Args:
        peers: `host:port`, or several with commas between: the base addresses of any nodes.
        secret_file: the mesh's shared secret, if it has one.
        timeout: seconds until a node must have answered.

    Raises:
        MeshUnavailable: none did.
        TransportRefused: an address or the secret will not do.
        OSError: the secret cannot be read.
    """
    return Connecting(peers, secret_file, timeout)


def connect_sync(
    peers: str, *, secret_file: str | Path | None = None, timeout: float = CONNECT_TIMEOUT_S
) -> BlockingMesh:
    """The same for programs without an event loop; see BlockingMesh. Use it in a `with`, or close it."""
    return BlockingMesh(connect(peers, secret_file=secret_file, timeout=timeout)._open)


def _addresses(peers: str) -> list[str]:
    addresses = [str(parse(peer.strip())) for peer in peers.split(",") if peer.strip()]
    if not addresses:
        raise TransportRefused("No peer was named.")
    return addresses


def _dial(secret_file: str | Path | None) -> Dial:
    """How this client opens a link to a node."""
    loop = asyncio.get_running_loop()
    identity = Identity(
        node_id=f"client-{secrets.token_hex(8)}",
        cluster="",
        incarnation=secrets.randbits(48),
        role="client",
        secret=None if secret_file is None else Path(secret_file).read_bytes().strip(),
    )

    def dial(address: str, events: LinkEvents) -> Link:
        return ClientLink(
            address,
            identity,
            loop=loop,
            on_message=events.on_message,
            on_up=events.on_up,
            on_down=events.on_down,
        )

    return dial
