"""The transport of a node: four bound ports, the links it dialled, and the links it accepted, behind one face.

Messages may be lost, doubled across links, or late; they are never altered, and never attributed to the wrong node.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import zmq

from mesh.admission import Roll
from mesh.effects import Channel
from mesh.events import ClientGone, ClientMessage, Event, GossipReceived, LinkDown, LinkUp, PeerMessage, TurnedAway
from mesh.ids import ClientId, LogIndex, NodeId
from mesh.transport.address import Address, TransportRefused, parse
from mesh.transport.curve import ZapResponder, derive
from mesh.transport.door import Door, Refusal
from mesh.transport.gossip import Publisher, Subscriber
from mesh.transport.handshake import CLIENT, Hello, Identity, Notary, TurnAway, Welcome
from mesh.transport.link import Link, LinkOwner, LinkState, Surroundings
from mesh.transport.listener import PortListener
from mesh.transport.pump import Pump
from mesh.transport.sockets import BYTES_MAX, LISTENER_EVENTS, Monitor, Sockets
from mesh.transport.tally import Tally

_log = logging.getLogger("mesh.transport")


@dataclass(slots=True, eq=False)
class _Peer:
    """A node we dial. `is_announced` from LinkUp to LinkDown."""

    address: Address
    links: dict[Channel, Link]
    is_announced: bool = False


class Transport:
    """Everything a node's process needs of ZeroMQ. Lives on one loop, in one thread, in one process."""

    def __init__(
        self,
        identity: Identity,
        *,
        bind: str,
        advertise: str,
        deliver: Callable[[Event], None],
        turn_ended: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Opens nothing that others could see yet.

        `bind` and `advertise` are HOST:PORT of the first of four ports; `advertise` is what others are told to dial.
        `deliver` gets PeerMessage, ClientMessage, GossipReceived, LinkUp, LinkDown, Knocked, TurnedAway and
        ClientGone; `turn_ended` is called once after everything that was readable has been delivered. Raises
        TransportRefused: an address, the secret, or both together will not do.
        """
        self._identity = identity
        self._bind = parse(bind)
        self._keys = derive(identity.secret) if identity.secret is not None else None
        advertised = parse(advertise)
        _check_exposure(self._bind, advertised, secret=self._keys is not None)
        self._deliver = deliver
        self._tally = Tally()
        rng = Random()
        self._around = Surroundings(
            sockets=Sockets(self._keys, rng),
            pump=Pump(loop, turn_ended),
            notary=Notary(identity, self._keys, str(advertised)),
            tally=self._tally,
            rng=rng,
            loop=loop,
        )
        self._listeners: dict[Channel, PortListener] = {}
        self._publisher: Publisher | None = None
        self._subscriber: Subscriber | None = None
        self._judge: ZapResponder | None = None
        self._peers: dict[NodeId, _Peer] = {}
        self._by_hand: dict[NodeId, None] = {}
        self._door = Door(self._peers, self._tally, lambda: loop.time() * 1_000, self._tell)
        self._last_client = 0
        self._closed = False
        self._process = os.getpid()
        self._thread = threading.get_ident()

    @property
    def counters(self) -> dict[str, int]:
        """How often what went wrong, by kind. Only kinds that occurred are there."""
        return self._tally.counters

    # --- opening and closing

    def bind(self) -> None:
        """Open the four ports.

        Raises TransportRefused, with everything closed again: a port is taken, or no socket is left.
        """
        self._check_place()
        address = self._bind.resolved()
        _check_exposure(address, None, secret=self._keys is not None)
        sockets, pump = self._around.sockets, self._around.pump
        try:
            if self._keys is not None:
                self._judge = ZapResponder(sockets.judge(), self._keys, self._tally)
                pump.watch(self._judge)
            for channel in Channel:
                self._open(channel, address)
            self._subscriber = Subscriber(self._around, self._gossiped)
            for peer, known in self._peers.items():
                self._subscriber.dial(peer, known.address)
        except zmq.ZMQError as error:
            self.close()
            raise TransportRefused(f"Cannot open {address}: {error}.") from None
        except TransportRefused:
            self.close()
            raise

    def _open(self, channel: Channel, address: Address) -> None:
        around = self._around
        socket = around.sockets.listener(channel, address)
        try:
            monitor = Monitor(around.sockets, socket, LISTENER_EVENTS)
        except zmq.ZMQError:
            socket.close(0)
            raise
        try:
            socket.bind(address.endpoint(channel))
        except zmq.ZMQError as error:
            monitor.close()
            socket.close(0)
            raise TransportRefused(
                f"Port {address.base + channel} of {address.host} cannot be bound: {error}."
            ) from None
        if channel is Channel.GOSSIP:
            self._publisher = Publisher(socket, monitor, around)
        else:
            self._listeners[channel] = PortListener(
                socket, monitor, channel, around.notary, around.pump, self._tally, self
            )

    def close(self) -> None:
        """Close every port and link at once; what is still queued is lost.

        Harmless the second time, and in a forked child.
        """
        if self._closed or os.getpid() != self._process:
            return
        self._closed = True
        for peer in self._peers.values():
            for link in peer.links.values():
                link.close()
        self._peers.clear()
        for listener in self._listeners.values():
            listener.close()
        for part in (self._publisher, self._subscriber):
            if part is not None:
                part.close()
        if self._judge is not None:
            self._around.pump.unwatch(self._judge)
            self._judge.socket.close(0)
        self._around.pump.close()
        self._around.sockets.close()

    # --- whom we talk to

    def admit(self, roll: Roll, since: LogIndex) -> None:
        """Keep links to all members but ourselves, and judge by `roll` who dials us and who answers us.

        Replaces the roll given before: nodes that left it are undialled, links that it does not allow are cut, in
        either direction. `since` is what our own greetings say. Before the first roll nobody is let in but nodes that
        were dialled; those are kept until a roll has ourselves in it, because a newcomer must go on asking somebody.
        A member without an address is let in and not dialled.
        """
        self._check_place()
        self._around.notary.since = since
        self._door.admit(roll)
        me = self._identity.node_id
        if any(member.node_id == me for member in roll.members):
            self._by_hand.clear()
        members = {member.node_id: member.address for member in roll.everybody if member.node_id != me}
        for peer in [peer for peer in self._peers if peer not in members and peer not in self._by_hand]:
            self._drop(peer)
        for listener in self._listeners.values():
            listener.cut(self._door.lets_in)
        for link in [link for known in self._peers.values() for link in known.links.values()]:
            link.reconsider()
        # What was told just now may have led to a later roll already.
        if self._door.roll is roll:
            for peer, address in members.items():
                if address:
                    self._keep(peer, address)

    def dial(self, peer: NodeId, address: str) -> None:
        """Keep links to a node, at HOST:PORT of its first port, whatever the roll says while we are not in it.

        The same again changes nothing; another address moves them. An address that
        cannot be dialled is counted and left alone: it may come from a peer.
        """
        self._check_place()
        if self._keep(peer, address):
            self._by_hand[peer] = None

    def _keep(self, peer: NodeId, address: str) -> bool:
        try:
            where = parse(address)
        except TransportRefused as error:
            self._tally.count("bad_address", f"{peer!r}: {error}")
            return False
        if where.is_wildcard or peer == self._identity.node_id:
            self._tally.count("bad_address", f"{peer!r} cannot be dialled at {address!r}.")
            return False
        known = self._peers.get(peer)
        if known is not None and known.address == where:
            return True
        made = _Peer(where, {})
        self._peers[peer] = made
        for channel in (Channel.CTL, Channel.DATA):
            self._link(peer, made, channel)
        if self._subscriber is not None:
            self._subscriber.dial(peer, where)
        if known is not None:
            self._hang_up(peer, known)
        return True

    def undial(self, peer: NodeId) -> None:
        """End the links to a node, and those it dialled unless the roll has it. LinkDown is delivered if it was up."""
        self._by_hand.pop(peer, None)
        self._drop(peer)
        for listener in self._listeners.values():
            listener.cut(self._door.lets_in)

    def _drop(self, peer: NodeId) -> None:
        known = self._peers.pop(peer, None)
        if known is None:
            return
        if self._subscriber is not None:
            self._subscriber.undial(peer)
        if self._door.roll is None:
            self._door.forget(peer)
        self._hang_up(peer, known)

    def _link(self, peer: NodeId, made: _Peer, channel: Channel) -> None:
        owner = LinkOwner(
            message=lambda data: self.from_peer(peer, data),
            up=lambda welcome: self._came_up(peer, channel, welcome),
            down=lambda _: self._went_down(peer, channel),
            veto=self._door.welcome_flaw,
            turned_away=lambda answer: self._was_turned_away(peer, channel, answer),
        )
        made.links[channel] = Link(self._around, channel, made.address, owner, expected=peer)

    def _hang_up(self, peer: NodeId, known: _Peer) -> None:
        for link in known.links.values():
            link.close()
        if known.is_announced:
            self._tell(LinkDown(peer))

    # --- what we say

    def send(self, to: NodeId, channel: Channel, data: bytes) -> bool:
        """Send to a node, over our own link to it if that is up, else over its link to us on the same channel.

        False, and counted: it has neither, its queue is full, or `data` exceeds `sockets.BYTES_MAX[channel]`. Never
        waits. The first bulk message to a node opens the link and is itself lost, unless the node has one to us.
        """
        assert threading.get_ident() == self._thread, "sockets belong to the thread that made the transport"
        assert channel is not Channel.GOSSIP, "gossip is published, not sent"
        if len(data) > BYTES_MAX[channel]:
            self._tally.count("oversize", f"{len(data)} bytes to {to!r} on {channel.name.lower()}")
            return False
        peer = self._peers.get(to)
        link = peer.links.get(channel) if peer is not None else None
        if link is not None and link.state is LinkState.UP:
            return link.send(data)
        listener = self._listeners.get(channel)
        if listener is not None and listener.has_node(to):
            return listener.send_node(to, data)
        if channel is Channel.BULK and peer is not None and link is None:
            self._link(to, peer, channel)
        self._tally.count("no_link", f"to {to!r} on {channel.name.lower()}")
        return False

    def reply(self, client: ClientId, data: bytes) -> bool:
        """Send to a client. False, and counted: it is gone, its queue is full, or `data` is too long."""
        assert threading.get_ident() == self._thread, "sockets belong to the thread that made the transport"
        if len(data) > BYTES_MAX[Channel.DATA]:
            self._tally.count("oversize", f"{len(data)} bytes to client {client}")
            return False
        listener = self._listeners.get(Channel.DATA)
        if listener is None or not listener.has_client(client):
            self._tally.count("no_link", f"to client {client}")
            return False
        return listener.send_client(client, data)

    def publish(self, data: bytes) -> None:
        """Tell whoever listens. The last words are repeated when somebody new begins to."""
        assert threading.get_ident() == self._thread, "sockets belong to the thread that made the transport"
        if len(data) > BYTES_MAX[Channel.GOSSIP]:
            self._tally.count("oversize", f"{len(data)} bytes of gossip")
        elif self._publisher is not None:
            self._publisher.publish(data)

    # --- what we hear: called by links and listeners

    def from_peer(self, peer: NodeId, data: bytes) -> None:
        self._tell(PeerMessage(peer, data))

    def from_client(self, client: ClientId, data: bytes) -> None:
        self._tell(ClientMessage(client, data))

    def client_gone(self, client: ClientId) -> None:
        self._tell(ClientGone(client))

    def next_client(self) -> ClientId:
        self._last_client += 1
        return ClientId(self._last_client)

    def refusal(self, hello: Hello) -> Refusal | None:
        """Whether a node that introduced itself is one of ours, and not an earlier self of one."""
        if hello.role == CLIENT:
            return None
        refusal = self._door.refusal(hello)
        known = self._peers.get(hello.node_id)
        if refusal is None and known is not None:
            # It knows us now, or we it: no need to wait until a link that was refused is due again.
            for link in list(known.links.values()):
                link.hurry()
        return refusal

    def _gossiped(self, data: bytes) -> None:
        self._tell(GossipReceived(data))

    def _tell(self, event: Event) -> None:
        self._around.pump.told()
        self._deliver(event)

    def _came_up(self, peer: NodeId, channel: Channel, welcome: Welcome) -> None:
        known = self._peers[peer]
        self._door.note(welcome)
        # LinkUp invites traffic on both channels, so both are up before it is told.
        both = known.links[Channel.CTL], known.links[Channel.DATA]
        if not known.is_announced and all(link.state is LinkState.UP for link in both):
            known.is_announced = True
            self._tell(LinkUp(peer, welcome.incarnation, welcome.mark))

    def _went_down(self, peer: NodeId, channel: Channel) -> None:
        known = self._peers[peer]
        if channel is Channel.BULK:
            del known.links[channel]
        elif channel is Channel.CTL and known.is_announced:
            known.is_announced = False
            self._tell(LinkDown(peer))

    def _was_turned_away(self, peer: NodeId, channel: Channel, answer: TurnAway) -> None:
        if channel is Channel.CTL:  # The other channels are told the same.
            self._tell(TurnedAway(peer, int(answer.verdict), answer.index))

    def _check_place(self) -> None:
        assert not self._closed, "the transport is closed"
        assert os.getpid() == self._process, "a forked child must not use its parent's transport"
        assert threading.get_ident() == self._thread, "sockets belong to the thread that made the transport"


def _check_exposure(bind: Address, advertise: Address | None, *, secret: bool) -> None:
    if advertise is not None and advertise.is_wildcard:
        raise TransportRefused(f"{advertise} is not an address others can dial; advertise one of this machine's own.")
    # A name is judged by what it resolves to, when it is bound.
    if not secret and (bind.is_wildcard or bind.is_literal) and not bind.is_loopback:
        raise TransportRefused(f"Without a secret only loopback may be bound, not {bind.host}: anybody could join.")
