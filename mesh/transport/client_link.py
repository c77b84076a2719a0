"""A client's link to one node. Clients dial, and bind nothing."""

import asyncio
from collections.abc import Callable
from random import Random

from mesh.effects import Channel
from mesh.ids import NodeId
from mesh.transport.address import TransportRefused, parse
from mesh.transport.curve import derive
from mesh.transport.handshake import Identity, Notary
from mesh.transport.link import Link, LinkOwner, LinkState, Surroundings
from mesh.transport.pump import Pump
from mesh.transport.sockets import BYTES_MAX, Sockets
from mesh.transport.tally import Tally


class ClientLink:
    """Dials one node's data port at once, and again whenever the link ends, until closed. One loop, one thread."""

    def __init__(
        self,
        address: str,
        identity: Identity,
        *,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[bytes], None],
        on_up: Callable[[NodeId, int], None],
        on_down: Callable[[str], None],
    ) -> None:
        """`address` is HOST:PORT of the node's first port.

        `on_message` gets what the node says; `on_up` its id and incarnation once both ends believe each other;
        `on_down` one sentence when an established link ends and also whenever an attempt fails. Raises
        TransportRefused: the address or the secret will not do.
        """
        where = parse(address)
        if where.is_wildcard:
            raise TransportRefused(f"{address!r} is not an address that can be dialled.")
        keys = derive(identity.secret) if identity.secret is not None else None
        rng = Random()
        self._tally = Tally()
        self._around = Surroundings(
            sockets=Sockets(keys, rng, io_threads=1),
            pump=Pump(loop, lambda: None),
            notary=Notary(identity, keys),
            tally=self._tally,
            rng=rng,
            loop=loop,
        )
        self._closed = False
        self._link = Link(
            self._around,
            Channel.DATA,
            where,
            LinkOwner(
                message=on_message,
                up=lambda welcome: on_up(welcome.node_id, welcome.incarnation),
                down=on_down,
            ),
            expected=None,
            patient=True,
        )

    @property
    def up(self) -> bool:
        """Whether a message would leave now."""
        return self._link.state is LinkState.UP

    @property
    def counters(self) -> dict[str, int]:
        """How often what went wrong, by kind. Only kinds that occurred are there."""
        return self._tally.counters

    def send(self, data: bytes) -> bool:
        """False: the link is not up, its queue is full, or `data` exceeds `sockets.BYTES_MAX[Channel.DATA]`."""
        if len(data) > BYTES_MAX[Channel.DATA]:
            self._tally.count("oversize", f"{len(data)} bytes to a node")
            return False
        return self._link.send(data)

    def close(self) -> None:
        """At once; what is still queued is lost. Harmless the second time."""
        if self._closed:
            return
        self._closed = True
        self._link.close()
        self._around.pump.close()
        self._around.sockets.close()
