"""Our side of a connection we dialled: one DEALER, one peer, one channel, one state machine.

    DOWN --redial--> DIALLING --transport handshake done--> GREETED --WELCOME--> UP
      ^                  |                                     |                  |
      +------------------+-- handshake failed, refused, silent-+-- broken, gap ---+

Every way back to DOWN closes the socket and makes a new one after a random pause: a socket whose handshake failed never
tries again by itself, and a new one cannot hold messages of an old session.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random

import zmq

from mesh.effects import Channel
from mesh.ids import NodeId
from mesh.transport.address import Address
from mesh.transport.handshake import (
    HEADER_BYTES,
    HELLO,
    MESSAGE,
    NONCE_BYTES,
    NUMBER_MASK,
    PROTOCOL_MIN,
    REFUSED,
    REHELLO_FRAME,
    Notary,
    TurnAway,
    Welcome,
    header,
    printable,
    read_refused,
    read_turned_away,
)
from mesh.transport.pump import Pump
from mesh.transport.sockets import DIALLER_EVENTS, HANDSHAKE_FAILED, Monitor, Sockets, Watch, send_again
from mesh.transport.tally import Tally

WELCOME_MS_MAX = 1_000
"""Whoever has not answered a HELLO by then is dialled anew: it may be no node at all."""

BULK_DIAL_MS_MAX = 3_000
"""A bulk link that is not up by then is given up; the next message dials again."""

REDIAL_MS = (50, 150)
"""Pause after a link broke, drawn anew each time so that a restarted node is not stormed."""

RETRY_MS = (500, 2_000)
"""Pause after a link was refused, or never got as far as that."""

HELLO_RETRY_MS = 1

RANKS = {Channel.CTL: 1, Channel.DATA: 2, Channel.GOSSIP: 3, Channel.BULK: 4}


class LinkState(Enum):
    DOWN = "down"
    DIALLING = "dialling"
    GREETED = "greeted"
    UP = "up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every link of a transport shares."""

    sockets: Sockets
    pump: Pump
    notary: Notary
    tally: Tally
    rng: Random
    loop: asyncio.AbstractEventLoop


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOwner:
    """Whom a link tells. `message` gets payloads, `up` what the peer said of itself, `down` one sentence.

    `down` also tells of attempts that failed before the link was ever up. `veto` may refuse a peer with a sentence.
    `turned_away` hears that the peer refused us by its roll, after `down` heard the sentence.
    """

    message: Callable[[bytes], None]
    up: Callable[[Welcome], None]
    down: Callable[[str], None]
    veto: Callable[[Welcome], str] = lambda welcome: ""
    turned_away: Callable[[TurnAway], None] = lambda answer: None


class Link:
    """One dialled connection. Dials at once, and again after every failure, until closed."""

    def __init__(
        self,
        around: Surroundings,
        channel: Channel,
        address: Address,
        owner: LinkOwner,
        *,
        expected: NodeId | None,
        patient: bool = False,
    ) -> None:
        """`expected` is who must answer; None: any node. `patient` links redial a dead address less and less often and
        tell `down` of each failed attempt."""
        self.state = LinkState.DOWN
        self.channel = channel
        self.address = address
        self.rank = RANKS[channel]
        self._around = around
        self._owner = owner
        self._expected = expected
        self._patient = patient
        self._nonce = b""
        self._protocol = around.notary.identity.protocol
        self._welcome: Welcome | None = None
        self._unwanted = False
        self._sent = 0
        self._received = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._watch: Watch | None = None
        self.socket: zmq.Socket[bytes]
        self._dial()

    # --- sending and reading: the busy part

    def send(self, data: bytes) -> bool:
        """False if the link is not up or its queue is full."""
        if self.state is not LinkState.UP:
            return False
        number = (self._sent + 1) & NUMBER_MASK
        frame = header.pack(MESSAGE, number) + data
        try:
            self.socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            if not send_again(self.socket, frame):
                self._around.tally.count("send_failed", f"to {self._whom()}: its queue is full")
                return False
        self._sent = number
        self._around.pump.sent(self)
        return True

    def drain(self, budget: int) -> bool:
        """Read up to `budget` messages. True if there may be more."""
        if self._is_down():
            return False
        socket = self.socket
        for _ in range(budget):
            try:
                frame = socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return False
            raw = frame.bytes
            if frame.more:
                drop_rest(socket)
                self._broken("rubbish", "It sent a message of several frames.", REDIAL_MS)
            elif len(raw) >= HEADER_BYTES and raw[0] == MESSAGE:
                self._take(raw)
            else:
                self._control(raw)
            if self._is_down() or self.socket is not socket:
                return False
        return True

    def _take(self, raw: bytes) -> None:
        expected = (self._received + 1) & NUMBER_MASK
        number = header.unpack_from(raw)[1]
        if self.state is not LinkState.UP:
            self._around.tally.count("rubbish", f"{self._whom()} sent a message before its welcome")
        elif number != expected:
            self._broken("gap", f"Message {number} came where {expected} was due.", REDIAL_MS)
        else:
            self._received = number
            self._owner.message(raw[HEADER_BYTES:])

    # --- the handshake

    def _control(self, raw: bytes) -> None:
        greeted = self.state is LinkState.GREETED
        if greeted and (welcome := self._around.notary.read_welcome(raw)) is not None:
            self._welcomed(welcome)
        elif greeted and (answer := read_turned_away(raw)) is not None:
            self._turned_away(answer)
        elif raw[:1] == bytes((REFUSED,)):
            self._broken("refused_by_peer", read_refused(raw), RETRY_MS)
            self._unwanted = greeted
        elif raw == REHELLO_FRAME and greeted and self._protocol > PROTOCOL_MIN:
            # All that was said is a greeting, so that is what it cannot read.
            self._around.tally.count("older_protocol", f"{self._whom()} does not read protocol {self._protocol}")
            self._protocol -= 1
            self._nonce = os.urandom(NONCE_BYTES)
            self._hello()
        elif greeted and raw[:1] == bytes((HELLO,)):
            # A connection that was given the very port it dials is its own other end (RFC 793, simultaneous open).
            self._broken("own_words", "It repeats our greeting: nobody is there but ourselves.", RETRY_MS)
        elif raw == REHELLO_FRAME:
            self._broken("rehello", "It does not know this link any more.", REDIAL_MS)
        else:
            self._around.tally.count("rubbish", f"{self._whom()} sent {len(raw)} bytes that are no message")

    def _welcomed(self, welcome: Welcome) -> None:
        notary = self._around.notary
        flaw = notary.welcome_flaw(welcome, self.channel, self._nonce, self._expected, self._protocol)
        if flaw:
            self._broken("welcome_refused", flaw, RETRY_MS)
        elif flaw := self._owner.veto(welcome):
            self._vetoed(flaw)
        else:
            self._cancel_timers()
            self.state = LinkState.UP
            self._welcome = welcome
            self._owner.up(welcome)

    def _turned_away(self, answer: TurnAway) -> None:
        flaw = self._around.notary.turn_away_flaw(answer, self.channel, self._nonce, self._expected)
        self._broken("refused_by_peer", flaw or printable(answer.sentence), RETRY_MS)
        self._unwanted = True
        if not flaw:
            self._owner.turned_away(answer)

    def _vetoed(self, flaw: str) -> None:
        self._broken("welcome_refused", flaw, RETRY_MS)
        self._unwanted = True

    def reconsider(self) -> None:
        """Whom the owner wants may have changed: end what it forbids now, and try at once what was refused before."""
        if self.state is LinkState.UP and self._welcome is not None:
            if flaw := self._owner.veto(self._welcome):
                self._vetoed(flaw)
        else:
            self.hurry()

    def hurry(self) -> None:
        """Dial now, if it waits because one of the two ends did not want the other."""
        if self.state is LinkState.DOWN and self._unwanted and self._retry is not None:
            self._retry.cancel()
            self._dial()

    def _greet(self) -> None:
        self.state = LinkState.GREETED
        self._deadline = self._after(WELCOME_MS_MAX, "no_welcome", "It did not answer a greeting in time.")
        self._hello()

    def _hello(self) -> None:
        """Right after the transport's handshake the socket may need another moment before it takes a message."""
        try:
            self.socket.send(self._around.notary.hello(self.channel, self._nonce, self._protocol), zmq.NOBLOCK)
        except zmq.Again:
            self._retry = self._around.loop.call_later(HELLO_RETRY_MS / 1_000, self._hello)
            return
        self._around.pump.sent(self)

    def _read_monitor(self, budget: int) -> bool:
        watch = self._watch
        assert watch is not None, "a monitor was read after it was closed"
        read = 0
        for event in watch.monitor.read(budget):
            read += 1
            if event.event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                if self.state is LinkState.DIALLING:
                    self._greet()
            elif event.event & HANDSHAKE_FAILED:
                text = f"The handshake failed ({event.value}): do both sides have the same secret, or none?"
                self._broken("handshake_failed", text, RETRY_MS)
            elif event.event == zmq.EVENT_CONNECT_RETRIED:
                self._owner.down(f"Nobody listens at {self.address}.")
            elif event.event == zmq.EVENT_DISCONNECTED:
                # What was not read yet is lost: libzmq drops it where IMMEDIATE is set.
                self._broken("disconnected", "The connection ended.", REDIAL_MS)
            if self._watch is not watch:
                return False
        return read == budget

    # --- sockets come and go

    def close(self) -> None:
        """For good. Tells nobody."""
        self._hang_up()

    def _dial(self) -> None:
        self._retry = None
        self._unwanted = False
        around = self._around
        try:
            self.socket = around.sockets.dialler(self.channel, self.address, patient=self._patient)
        except zmq.ZMQError as error:
            self._later("socket_failed", f"No socket for {self._whom()}: {error}")
            return
        try:
            events = DIALLER_EVENTS | (zmq.EVENT_CONNECT_RETRIED if self._patient else 0)
            monitor = Monitor(around.sockets, self.socket, events)
        except zmq.ZMQError as error:
            self.socket.close(0)
            self._later("socket_failed", f"No monitor for {self._whom()}: {error}")
            return
        self._watch = Watch(monitor, self._read_monitor)
        self._nonce = os.urandom(NONCE_BYTES)
        self._protocol = around.notary.identity.protocol
        self._sent = self._received = 0
        self.state = LinkState.DIALLING
        around.pump.watch(self._watch)
        around.pump.watch(self)
        if self.channel is Channel.BULK:
            self._deadline = self._after(BULK_DIAL_MS_MAX, "bulk_not_up", "It did not come up in time.")
        self.socket.connect(self.address.endpoint(self.channel))

    def _after(self, ms: int, kind: str, sentence: str) -> asyncio.TimerHandle:
        self._cancel_timers()
        return self._around.loop.call_later(ms / 1_000, self._broken, kind, sentence, REDIAL_MS)

    def _broken(self, kind: str, sentence: str, pause_ms: tuple[int, int]) -> None:
        """Hang up, tell, and dial again later; a bulk link is left for its owner to make anew."""
        self._around.tally.count(kind, f"link to {self._whom()}: {sentence}")
        self._hang_up()
        if self.channel is not Channel.BULK:
            self._retry = self._around.loop.call_later(self._around.rng.uniform(*pause_ms) / 1_000, self._dial)
        self._owner.down(sentence)

    def _later(self, kind: str, sentence: str) -> None:
        self._around.tally.count(kind, sentence)
        self._retry = self._around.loop.call_later(self._around.rng.uniform(*RETRY_MS) / 1_000, self._dial)

    def _hang_up(self) -> None:
        self._cancel_timers()
        if self.state is LinkState.DOWN:
            return
        assert self._watch is not None, "a link that is not down has a monitor"
        self.state = LinkState.DOWN
        self._around.pump.unwatch(self._watch)
        self._around.pump.unwatch(self)
        self._watch.monitor.close()
        self._watch = None
        self._welcome = None
        self.socket.close(0)

    def _is_down(self) -> bool:
        return self.state is LinkState.DOWN

    def _cancel_timers(self) -> None:
        for timer in (self._deadline, self._retry):
            if timer is not None:
                timer.cancel()
        self._deadline = self._retry = None

    def _whom(self) -> str:
        return f"{self._expected or 'a node'} at {self.address} ({self.channel.name.lower()})"


def drop_rest(socket: "zmq.Socket[bytes]") -> None:
    """Read the remaining frames of a message that has more than it should."""
    while socket.recv(zmq.NOBLOCK, copy=False).more:
        pass
