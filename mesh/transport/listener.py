"""The other side of links: one bound ROUTER, and who has introduced themselves on it.

A routing id is libzmq's name for a connection and says nothing about who is behind it; only a HELLO does. What a
connection sends before one is dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import zmq

from mesh.effects import Channel
from mesh.ids import ClientId, NodeId
from mesh.transport.door import Refusal
from mesh.transport.handshake import (
    CLIENT,
    HEADER_BYTES,
    MESSAGE,
    NUMBER_MASK,
    REHELLO_FRAME,
    Hello,
    Notary,
    header,
    refused,
)
from mesh.transport.link import RANKS, drop_rest
from mesh.transport.pump import Pump
from mesh.transport.sockets import HANDSHAKE_FAILED, Monitor, Watch, send_again
from mesh.transport.tally import Tally

CLIENTS_MAX = 4_096
"""Client links one node serves; the next is refused."""


@dataclass(slots=True, eq=False)
class Inbound:
    """One accepted connection after its `hello`. `client` is None for a node's; `descriptor` is the connection's, as
    the monitor will name it when it ends."""

    routing_id: bytes
    node_id: NodeId
    hello: Hello
    client: ClientId | None
    descriptor: int
    received: int = 0
    sent: int = 0


class Doorkeeper(Protocol):
    """Who may come in, and who hears about it: the transport behind a listener."""

    def refusal(self, hello: Hello) -> Refusal | None:
        """Why a node whose HELLO is well signed is turned away all the same; None if it is not."""
        ...

    def next_client(self) -> ClientId: ...

    def from_peer(self, peer: NodeId, data: bytes) -> None: ...

    def from_client(self, client: ClientId, data: bytes) -> None: ...

    def client_gone(self, client: ClientId) -> None: ...


class PortListener:
    """Serves one port from `bound` until `close`."""

    def __init__(
        self,
        socket: "zmq.Socket[bytes]",
        monitor: Monitor,
        channel: Channel,
        notary: Notary,
        pump: Pump,
        tally: Tally,
        door: Doorkeeper,
    ) -> None:
        """`socket` is a bound ROUTER, monitored since before it was bound."""
        self.socket = socket
        self.rank = RANKS[channel]
        self._channel = channel
        self._notary = notary
        self._pump = pump
        self._tally = tally
        self._door = door
        self._accepted: dict[bytes, Inbound] = {}
        self._nodes: dict[NodeId, Inbound] = {}
        self._clients: dict[ClientId, Inbound] = {}
        self._descriptors: dict[int, Inbound] = {}
        self._leaving: dict[Inbound, None] = {}
        self._watch = Watch(monitor, self._read_monitor)
        pump.watch(self._watch)
        pump.watch(self)

    def close(self) -> None:
        self._pump.unwatch(self._watch)
        self._pump.unwatch(self)
        self._watch.monitor.close()
        self.socket.close(0)

    # --- sending and reading: the busy part

    def send_node(self, to: NodeId, data: bytes) -> bool:
        """False if that node has no link here, or its queue is full."""
        inbound = self._nodes.get(to)
        return inbound is not None and self._send(inbound, data)

    def send_client(self, to: ClientId, data: bytes) -> bool:
        """False if that client is gone, or its queue is full."""
        inbound = self._clients.get(to)
        return inbound is not None and self._send(inbound, data)

    def has_node(self, node: NodeId) -> bool:
        return node in self._nodes

    def has_client(self, client: ClientId) -> bool:
        return client in self._clients

    def _send(self, inbound: Inbound, data: bytes) -> bool:
        number = (inbound.sent + 1) & NUMBER_MASK
        if not self._post(inbound.routing_id, header.pack(MESSAGE, number) + data):
            return False
        inbound.sent = number
        return True

    def _post(self, routing_id: bytes, frame: bytes) -> bool:
        try:
            self.socket.send(routing_id, zmq.NOBLOCK | zmq.SNDMORE)
            self.socket.send(frame, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno == zmq.EAGAIN and send_again(self.socket, routing_id, frame):
                self._pump.sent(self)
                return True
            self._tally.count("send_failed", f"on an accepted {self._channel.name.lower()} link: {error}")
            return False
        self._pump.sent(self)
        return True

    def drain(self, budget: int) -> bool:
        """Read up to `budget` messages. True if there may be more."""
        recv = self.socket.recv
        for _ in range(budget):
            try:
                routing_id = recv(zmq.NOBLOCK)
            except zmq.Again:
                self._see_off()
                return False
            except zmq.ZMQError:
                return False  # Closed, by what the message before caused.
            frame = recv(zmq.NOBLOCK, copy=False)
            raw = frame.bytes
            inbound = self._accepted.get(routing_id)
            if frame.more:
                drop_rest(self.socket)
                self._rubbish(routing_id, "a message of several frames")
            elif inbound is None or len(raw) < HEADER_BYTES or raw[0] != MESSAGE:
                self._introduced(routing_id, raw, frame)
            elif header.unpack_from(raw)[1] != (inbound.received + 1) & NUMBER_MASK:
                self._tally.count("gap", f"on an accepted {self._channel.name.lower()} link of {inbound.node_id!r}")
                self._estranged(routing_id)
            else:
                inbound.received = (inbound.received + 1) & NUMBER_MASK
                if inbound.client is None:
                    self._door.from_peer(inbound.node_id, raw[HEADER_BYTES:])
                else:
                    self._door.from_client(inbound.client, raw[HEADER_BYTES:])
        return True

    # --- who comes

    def _introduced(self, routing_id: bytes, raw: bytes, frame: zmq.Frame) -> None:
        """What is not a message of a known link: a HELLO, or rubbish."""
        hello = self._notary.read_hello(raw)
        if hello is None:
            self._rubbish(routing_id, f"{len(raw)} bytes that are no greeting")
            return
        if self._notary.can_say_it_again(hello):
            self._tally.count("later_protocol", f"a greeting in protocol {hello.protocol}")
            self._estranged(routing_id)
            return
        if routing_id in self._accepted:
            self._forget(self._accepted[routing_id])
        flaw = self._notary.hello_flaw(hello, self._channel)
        refusal = Refusal(flaw) if flaw else self._refusal(hello)
        if refusal is not None:
            self._refuse(routing_id, hello, refusal)
            return
        # A descriptor is used again as soon as it is free: hear of ends that came before this beginning.
        self._read_monitor(CLIENTS_MAX)
        if self._post(routing_id, self._notary.welcome(self._channel, hello)):
            self._accept(routing_id, hello, int(frame.get(zmq.SRCFD)))

    def _refusal(self, hello: Hello) -> Refusal | None:
        if hello.role == CLIENT:
            full = len(self._clients) >= CLIENTS_MAX
            return Refusal(f"This node serves {CLIENTS_MAX} clients already.") if full else None
        present = self._nodes.get(hello.node_id)
        if present is not None and present.hello.mark == hello.mark and present.hello.incarnation > hello.incarnation:
            return Refusal(f"A newer incarnation of {hello.node_id!r}, {present.hello.incarnation}, is here.")
        return self._door.refusal(hello)

    def _refuse(self, routing_id: bytes, hello: Hello, refusal: Refusal) -> None:
        self._tally.count("hello_refused", f"{hello.role!r} {hello.node_id!r}: {refusal.sentence}")
        if refusal.verdict is None or hello.protocol == 1:
            self._post(routing_id, refused(refusal.sentence))
        else:
            notary, verdict = self._notary, refusal.verdict
            self._post(routing_id, notary.turned_away(self._channel, hello, verdict, refusal.index, refusal.sentence))

    def _accept(self, routing_id: bytes, hello: Hello, descriptor: int) -> None:
        client = self._door.next_client() if hello.role == CLIENT else None
        inbound = Inbound(routing_id, hello.node_id, hello, client, descriptor)
        self._accepted[routing_id] = inbound
        self._descriptors[descriptor] = inbound
        if client is not None:
            self._clients[client] = inbound
            return
        older = self._nodes.get(hello.node_id)
        if older is not None:
            self._replace(older, inbound)
        self._nodes[hello.node_id] = inbound

    def _replace(self, older: Inbound, newer: Inbound) -> None:
        if older.hello.incarnation < newer.hello.incarnation:
            self._post(older.routing_id, refused(f"Replaced by incarnation {newer.hello.incarnation}."))
        self._forget(older)

    # --- who goes

    def cut(self, is_welcome: Callable[[Hello], bool]) -> None:
        """Forget the links of nodes that are not welcome any more; what they send from now on is dropped."""
        for inbound in [inbound for inbound in self._nodes.values() if not is_welcome(inbound.hello)]:
            self._estranged(inbound.routing_id)

    def _read_monitor(self, budget: int) -> bool:
        read = 0
        for event in self._watch.monitor.read(budget):
            read += 1
            if event.event & HANDSHAKE_FAILED:
                self._tally.count("handshake_failed", f"on the {self._channel.name.lower()} port ({event.value})")
            elif event.event == zmq.EVENT_DISCONNECTED and event.value in self._descriptors:
                # Its last words may still wait in the socket; it is seen off once they are read.
                self._leaving[self._descriptors.pop(event.value)] = None
                self._pump.again(self)
        return read == budget

    def _see_off(self) -> None:
        while self._leaving:
            self._forget(self._leaving.popitem()[0])

    def _rubbish(self, routing_id: bytes, what: str) -> None:
        self._tally.count("rubbish", f"{what} on the {self._channel.name.lower()} port")
        self._estranged(routing_id)

    def _estranged(self, routing_id: bytes) -> None:
        """Whoever it was, it has to introduce itself anew."""
        inbound = self._accepted.get(routing_id)
        if inbound is not None:
            self._forget(inbound)
        self._post(routing_id, REHELLO_FRAME)

    def _forget(self, inbound: Inbound) -> None:
        if self._accepted.get(inbound.routing_id) is not inbound:
            return
        del self._accepted[inbound.routing_id]
        if self._descriptors.get(inbound.descriptor) is inbound:
            del self._descriptors[inbound.descriptor]
        if self._nodes.get(inbound.node_id) is inbound:
            del self._nodes[inbound.node_id]
        if inbound.client is not None:
            del self._clients[inbound.client]
            self._door.client_gone(inbound.client)
