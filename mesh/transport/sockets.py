"""The one place that makes sockets.

Every option is set before the first bind or connect, because libzmq ignores most of them afterwards. The values are
measured: the library's defaults lose messages, wait for ever, or abort the process.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import zmq

from mesh.effects import Channel
from mesh.transport.address import Address
from mesh.transport.curve import ZAP_DOMAIN, Keys
from mesh.transport.handshake import HEADER_BYTES

BYTES_MAX: dict[Channel, int] = {
    Channel.CTL: 2 << 20,  # An append of append_bytes_max, and its envelope.
    Channel.DATA: 8 << 20,  # An entry of entry_bytes_max that one more command of the largest payload ran over.
    Channel.GOSSIP: 256 << 10,
    Channel.BULK: 8 << 20,  # A chunk of rows; one row may hold a payload, a checkpoint and a result.
}
"""Longest message by channel. libzmq cuts whoever sends more, authenticated or not; nothing else bounds what a stranger
can make this process hold."""

QUEUED_MAX: dict[Channel, int] = {Channel.CTL: 1_000, Channel.DATA: 1_000, Channel.GOSSIP: 1_000, Channel.BULK: 16}
"""Messages one connection queues before a send is refused. A fuse: what is sent is bounded above, by credit."""

SOCKETS_MAX = 8_192
HANDSHAKE_MS_MAX = 3_000

LISTENER_EVENTS = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
DIALLER_EVENTS = LISTENER_EVENTS | zmq.EVENT_HANDSHAKE_SUCCEEDED
HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

_monitor_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """One word of a monitor: which event, the connection's file descriptor or an error, and whom it concerns."""

    event: int
    value: int
    endpoint: str


class Monitor:
    """What becomes of a socket's connections, readable like a socket.

    The I/O thread writes these events with a blocking send, so an unread monitor of ordinary length stops every socket
    of the process. The reading end is therefore made by hand, without a limit, and the events are few kinds.
    """

    def __init__(self, sockets: "Sockets", watched: "zmq.Socket[bytes]", events: int) -> None:
        self._watched = watched
        address = f"inproc://mesh-monitor-{next(_monitor_numbers)}"
        self.socket = sockets.pair()
        try:
            watched.monitor(address, events)
            self.socket.connect(address)
        except zmq.ZMQError:
            self.socket.close(0)
            raise

    def read(self, budget: int) -> Iterator[LinkEvent]:
        """Events that wait, oldest first, `budget` at most."""
        for _ in range(budget):
            if self.socket.closed:
                return
            try:
                head, endpoint = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield LinkEvent(
                int.from_bytes(head[:2], "little"),
                int.from_bytes(head[2:], "little"),
                endpoint.decode(errors="replace"),
            )

    def close(self) -> None:
        """Before the watched socket is closed: an open monitor keeps the context from ending."""
        self._watched.disable_monitor()
        self.socket.close(0)


class Watch:
    """A monitor in the shape the pump reads."""

    rank = 0

    def __init__(self, monitor: Monitor, drain: Callable[[int], bool]) -> None:
        self.monitor = monitor
        self.socket = monitor.socket
        self.drain = drain


class Sockets:
    """Makes every socket of one transport, in one context of its own.

    `keys` None means no authentication; who binds decides whether that is allowed.
    """

    def __init__(self, keys: Keys | None, rng: Random, *, io_threads: int = 2) -> None:
        self._keys = keys
        self._rng = rng
        self._io_threads = io_threads
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads)
        self.context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)

    def listener(self, channel: Channel, address: Address) -> "zmq.Socket[bytes]":
        """A ROUTER (an XPUB for gossip), not yet bound. Raises zmq.ZMQError: out of descriptors."""
        options = self._common(channel, address) | {
            zmq.BACKLOG: 128 if channel is Channel.BULK else 4_096,
            **self._server_key(),
        }
        if channel is Channel.GOSSIP:
            return self._made(zmq.XPUB, options | {zmq.XPUB_VERBOSE: 1})
        # Mandatory: a send to nobody is an error, not a silence. No handover: nobody can take another's routing id.
        return self._made(zmq.ROUTER, options | {zmq.ROUTER_MANDATORY: 1, zmq.ROUTER_HANDOVER: 0})

    def dialler(self, channel: Channel, address: Address | None, *, patient: bool = False) -> "zmq.Socket[bytes]":
        """A DEALER (a SUB for gossip), not yet connected. `patient` redials less and less often.

        `address` None: there will be several. Raises zmq.ZMQError: out of descriptors.
        """
        quick = not patient and channel is not Channel.GOSSIP
        options = self._common(channel, address) | {
            zmq.IMMEDIATE: 1,  # Nothing queues for a peer that is not there, to reach its next incarnation.
            zmq.CONNECT_TIMEOUT: 2_000 if channel is Channel.BULK else 1_000,
            # libzmq doubles without jitter: the jitter is in where it starts.
            zmq.RECONNECT_IVL: self._rng.randint(50, 150) if quick else self._rng.randint(100, 500),
            zmq.RECONNECT_IVL_MAX: 0 if quick else 1_000,
            **self._client_key(),
        }
        if channel is Channel.BULK:
            options |= {zmq.RECONNECT_IVL: -1, zmq.RECONNECT_IVL_MAX: 0}  # Its owner dials anew when it needs one.
        return self._made(zmq.SUB if channel is Channel.GOSSIP else zmq.DEALER, options)

    def pair(self) -> "zmq.Socket[bytes]":
        """The reading end of a monitor."""
        return self._made(zmq.PAIR, {zmq.LINGER: 0, zmq.RCVHWM: 0, zmq.RCVTIMEO: 0, zmq.SNDTIMEO: 0})

    def judge(self) -> "zmq.Socket[bytes]":
        """The socket libzmq asks who may connect."""
        return self._made(zmq.REP, {zmq.LINGER: 0, zmq.RCVTIMEO: 0, zmq.SNDTIMEO: 0})

    def close(self) -> None:
        """Wait until all sockets are gone, those too that an error left open. Takes milliseconds: none lingers."""
        self.context.destroy(0)

    def _common(self, channel: Channel, address: Address | None) -> dict[int, int | bytes]:
        return {
            zmq.LINGER: 0,
            zmq.SNDHWM: QUEUED_MAX[channel],
            zmq.RCVHWM: QUEUED_MAX[channel],
            zmq.MAXMSGSIZE: BYTES_MAX[channel] + HEADER_BYTES,
            zmq.HANDSHAKE_IVL: HANDSHAKE_MS_MAX,
            zmq.HEARTBEAT_IVL: 0,  # With a full pipe they kill a healthy connection, and in 4.3.5 the process.
            zmq.TCP_KEEPALIVE: 1,
            zmq.TCP_KEEPALIVE_IDLE: 15,
            zmq.TCP_KEEPALIVE_INTVL: 5,
            zmq.TCP_KEEPALIVE_CNT: 3,
            zmq.AFFINITY: 2 if channel is Channel.BULK and self._io_threads > 1 else 1,
            zmq.IPV6: int(address is not None and address.is_v6),
            zmq.SNDTIMEO: 0,  # Never block the loop, not even by mistake.
            zmq.RCVTIMEO: 0,
        }

    def _server_key(self) -> dict[int, int | bytes]:
        if self._keys is None:
            return {}
        return {
            zmq.CURVE_SERVER: 1,
            zmq.CURVE_SECRETKEY: self._keys.private,
            # Both, or libzmq lets everybody in while nobody judges.
            zmq.ZAP_DOMAIN: ZAP_DOMAIN,
            zmq.ZAP_ENFORCE_DOMAIN: 1,
        }

    def _client_key(self) -> dict[int, int | bytes]:
        if self._keys is None:
            return {}
        return {
            zmq.CURVE_SERVERKEY: self._keys.public,
            zmq.CURVE_PUBLICKEY: self._keys.public,
            zmq.CURVE_SECRETKEY: self._keys.private,
        }

    def _made(self, kind: int, options: dict[int, int | bytes]) -> "zmq.Socket[bytes]":
        made = self.context.socket(kind)
        try:
            for option, value in options.items():
                made.set(option, value)
        except zmq.ZMQError:
            made.close(0)
            raise
        return made


def send_again(socket: "zmq.Socket[bytes]", *frames: bytes) -> bool:
    """Once more, after a send was refused because the queue is full, as far as the socket knew.

    While messages come in and go out without a pause, libzmq looks only once in a while at what the I/O thread has
    taken off the queue. Asking for its events makes it look. False if the queue is full, or the receiver is gone.
    """
    socket.get(zmq.EVENTS)
    try:
        socket.send_multipart(frames, zmq.NOBLOCK)
    except zmq.ZMQError:
        return False
    return True
