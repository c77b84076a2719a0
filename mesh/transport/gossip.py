"""Gossip: one XPUB that everybody may listen to, one SUB that listens to everybody we dialled.

Messages are single frames without a header. They say who they are from themselves; nothing here proves it.
"""

import asyncio
from collections.abc import Callable

import zmq

from mesh.effects import Channel
from mesh.ids import NodeId
from mesh.transport.address import Address
from mesh.transport.link import RANKS, RETRY_MS, Surroundings, drop_rest
from mesh.transport.sockets import HANDSHAKE_FAILED, LISTENER_EVENTS, Monitor, Watch

_SUBSCRIBED_TO_ALL = b"\x01"
_UNSUBSCRIBED = b"\x00"


class Publisher:
    """What this node tells whoever listens. A newcomer makes it repeat its last words, as those were said too early."""

    def __init__(self, socket: "zmq.Socket[bytes]", monitor: Monitor, around: Surroundings) -> None:
        """`socket` is a bound XPUB, monitored since before it was bound."""
        self.socket = socket
        self.rank = RANKS[Channel.GOSSIP]
        self._pump = around.pump
        self._tally = around.tally
        self._last: bytes | None = None
        self._watch = Watch(monitor, self._read_monitor)
        self._pump.watch(self._watch)
        self._pump.watch(self)

    def publish(self, data: bytes) -> None:
        """To all listeners; those whose queue is full miss it."""
        self._last = data
        try:
            self.socket.send(data, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            self._tally.count("send_failed", f"publishing: {error}")
            return
        self._pump.sent(self)

    def drain(self, budget: int) -> bool:
        """Read up to `budget` subscriptions. True if there may be more."""
        newcomers = False
        read = 0
        while read < budget:
            try:
                frame = self.socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            read += 1
            if frame.more:
                drop_rest(self.socket)
            if frame.bytes == _SUBSCRIBED_TO_ALL and not frame.more:
                newcomers = True
            elif frame.bytes != _UNSUBSCRIBED:
                self._tally.count("rubbish", f"{len(frame.bytes)} bytes on the gossip port")
        if newcomers and self._last is not None:
            self.publish(self._last)
        return read == budget

    def _read_monitor(self, budget: int) -> bool:
        read = 0
        for event in self._watch.monitor.read(budget):
            read += 1
            if event.event & HANDSHAKE_FAILED:
                self._tally.count("handshake_failed", f"on the gossip port ({event.value})")
        return read == budget

    def close(self) -> None:
        self._pump.unwatch(self._watch)
        self._pump.unwatch(self)
        self._watch.monitor.close()
        self.socket.close(0)


class Subscriber:
    """What the nodes we dialled publish.

    One socket for all of them. libzmq reconnects by itself, except after a handshake failed: then it never tries that
    address again, so we do.
    """

    def __init__(self, around: Surroundings, received: Callable[[bytes], None]) -> None:
        """Raises zmq.ZMQError: out of descriptors."""
        self.rank = RANKS[Channel.GOSSIP]
        self._around = around
        self._received = received
        self._addresses: dict[NodeId, Address] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._failed: dict[Address, None] = {}
        self.socket = around.sockets.dialler(Channel.GOSSIP, None)
        try:
            monitor = Monitor(around.sockets, self.socket, LISTENER_EVENTS)
        except zmq.ZMQError:
            self.socket.close(0)
            raise
        self.socket.subscribe(b"")
        self._watch = Watch(monitor, self._read_monitor)
        around.pump.watch(self._watch)
        around.pump.watch(self)

    def dial(self, peer: NodeId, address: Address) -> None:
        """Listen to `peer` at `address`, and nowhere else."""
        if self._addresses.get(peer) == address:
            return
        self.undial(peer)
        taken = address in self._addresses.values()
        self._addresses[peer] = address
        if not taken:
            self._connect(address)

    def undial(self, peer: NodeId) -> None:
        address = self._addresses.pop(peer, None)
        if address is not None and address not in self._addresses.values():
            self._disconnect(address)
            self._failed.pop(address, None)

    def drain(self, budget: int) -> bool:
        """Read up to `budget` publications. True if there may be more."""
        for _ in range(budget):
            try:
                frame = self.socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return False
            if frame.more:
                drop_rest(self.socket)
                self._around.tally.count("rubbish", "a publication of several frames")
            else:
                self._received(frame.bytes)
            if self.socket.closed:
                return False
        return True

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._around.pump.unwatch(self._watch)
        self._around.pump.unwatch(self)
        self._watch.monitor.close()
        self.socket.close(0)

    def _connect(self, address: Address) -> None:
        # Takes effect for this connection, not for those that exist.
        self.socket.set(zmq.IPV6, int(address.is_v6))
        self.socket.connect(address.endpoint(Channel.GOSSIP))

    def _disconnect(self, address: Address) -> None:
        try:
            self.socket.disconnect(address.endpoint(Channel.GOSSIP))
        except zmq.ZMQError as error:
            self._around.tally.count("disconnect_failed", f"gossip from {address}: {error}")

    def _read_monitor(self, budget: int) -> bool:
        read = 0
        for event in self._watch.monitor.read(budget):
            read += 1
            if event.event & HANDSHAKE_FAILED:
                self._around.tally.count("gossip_handshake_failed", f"from {event.endpoint} ({event.value})")
                self._mark_failed(event.endpoint)
        return read == budget

    def _mark_failed(self, endpoint: str) -> None:
        """Of an address given by name, libzmq may name what it resolved to: then all of those are dialled anew."""
        addresses = list(self._addresses.values())
        exact = [address for address in addresses if address.endpoint(Channel.GOSSIP) == endpoint]
        self._failed |= dict.fromkeys(exact or [address for address in addresses if not address.is_literal])
        if self._failed and self._retry is None:
            pause_ms = self._around.rng.uniform(*RETRY_MS)
            self._retry = self._around.loop.call_later(pause_ms / 1_000, self._dial_failed)

    def _dial_failed(self) -> None:
        self._retry = None
        while self._failed:
            address = self._failed.popitem()[0]
            self._disconnect(address)
            self._connect(address)
