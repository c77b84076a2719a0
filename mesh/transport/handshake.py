"""How the two ends of a link introduce themselves, and the one byte by which everything else is told apart.

    dialler                                     listener
      | HELLO  who I am, a nonce, a proof          |
      |------------------------------------------->|
      |     WELCOME  who I am, a proof over it     |    or REFUSED and one sentence,
      |<-------------------------------------------|    or TURNED_AWAY, a verdict and a proof over it
      | MESSAGE 1, 2, 3 ...      MESSAGE 1, 2, 3 ...|    REHELLO: I do not know you (any more)

A MESSAGE is a kind byte, a 32-bit little-endian number that counts up by one per direction of a link, and the payload.
A hole in the numbers shows that libzmq reconnected underneath and lost something. One frame for all: a
second one for the header costs 1 us per small message, and spares 5 of 24 us at 100 KB, of which there are few.

Two protocols are spoken, this release's and the one before, so that a mesh can be upgraded node by node. Whoever dials
begins with its latest. A listener that cannot read it says REHELLO, as to anything it cannot read, and is greeted once
more in the protocol before, on the same connection. A listener answers in the protocol it was greeted in. Nothing is
remembered, so the first link after a peer's upgrade has the later protocol. Protocol 1 knows no mark, no standing and
no TURNED_AWAY.
"""

import hmac
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias, TypeVar

import msgspec

from mesh.admission import Verdict
from mesh.config import PROTOCOL
from mesh.effects import Channel
from mesh.ids import LogIndex, NodeId
from mesh.transport.address import TransportRefused
from mesh.transport.curve import Keys

PROTOCOL_MIN = PROTOCOL - 1

MESSAGE, HELLO, WELCOME, REFUSED, REHELLO, TURNED_AWAY = 1, 2, 3, 4, 5, 6

header = struct.Struct("<BI")
HEADER_BYTES = header.size
NUMBER_MASK = 0xFFFF_FFFF

NODE, CLIENT = "node", "client"

_GREETING_BYTES_MAX = 2_048
_NAME_BYTES_MAX = 255
_SENTENCE_MAX = 400
NONCE_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who speaks. A client's `cluster` may be empty: it takes whichever mesh it reaches.

    `secret` is None, or the bytes all members of the mesh share, 16 at least. `mark` names the log a node keeps (see
    mesh.admission); without one it cannot ask to be taken in. `protocol` is the latest to speak: that of the release
    before, to try how both get on. Raises TransportRefused: there is no such protocol here.
    """

    node_id: str
    cluster: str
    incarnation: int
    role: str
    secret: bytes | None = field(repr=False)
    mark: str = ""
    protocol: int = PROTOCOL

    def __post_init__(self) -> None:
        if not PROTOCOL_MIN <= self.protocol <= PROTOCOL:
            raise TransportRefused(_not_spoken(self.protocol, PROTOCOL))


_Natural: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class Hello(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """First message on a link, from whoever dialled; these are the fields of protocol 2.

    Of protocol 1, `mark` and `address` are empty and `since` is 0. Of a protocol that is not spoken here, only the
    first two fields are there. `mac` is empty in a mesh without a secret.
    """

    protocol: _Natural
    protocol_min: _Natural
    cluster: str
    node_id: NodeId
    incarnation: _Natural
    role: str
    nonce: bytes
    mark: str
    since: Annotated[LogIndex, msgspec.Meta(ge=0)]
    address: str
    mac: bytes


class Welcome(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The answer, with the same fields. `mac` covers the nonce of the HELLO it answers."""

    protocol: _Natural
    protocol_min: _Natural
    cluster: str
    node_id: NodeId
    incarnation: _Natural
    mark: str
    since: Annotated[LogIndex, msgspec.Meta(ge=0)]
    address: str
    mac: bytes


class TurnAway(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The answer to a node that is not let in by the roll at `index`. `mac` covers the nonce of its HELLO.

    Signed, because a node may end for good by what this says.
    """

    cluster: str
    node_id: NodeId
    verdict: Verdict
    index: Annotated[LogIndex, msgspec.Meta(ge=0)]
    sentence: str
    mac: bytes


class _Hello1(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    protocol: _Natural
    cluster: str
    node_id: NodeId
    incarnation: _Natural
    role: str
    nonce: bytes
    mac: bytes


class _Welcome1(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    protocol: _Natural
    cluster: str
    node_id: NodeId
    incarnation: _Natural
    mac: bytes


class _Version(msgspec.Struct, array_like=True, frozen=True):
    """What every greeting begins with, those to come included."""

    protocol: _Natural


class _Versions(msgspec.Struct, array_like=True, frozen=True):
    """What every greeting since protocol 2 begins with, those to come included."""

    protocol: _Natural
    protocol_min: _Natural


_Greeting = TypeVar("_Greeting")

_encode = msgspec.msgpack.Encoder().encode
_hello1 = msgspec.msgpack.Decoder(_Hello1)
_hello2 = msgspec.msgpack.Decoder(Hello)
_welcome1 = msgspec.msgpack.Decoder(_Welcome1)
_welcome2 = msgspec.msgpack.Decoder(Welcome)
_turn_away = msgspec.msgpack.Decoder(TurnAway)
_version = msgspec.msgpack.Decoder(_Version)
_versions = msgspec.msgpack.Decoder(_Versions)


class Notary:
    """Signs and checks the greetings of one identity, on one channel at a time."""

    def __init__(self, identity: Identity, keys: Keys | None, address: str = "") -> None:
        """`address` is what others are told to dial, HOST:PORT; a client has none."""
        self.identity = identity
        self.since = LogIndex(0)
        """The latest configuration we know that has us: what our own standing says."""
        self._address = address
        self._key = keys.hello if keys is not None else None

    def hello(self, channel: Channel, nonce: bytes, protocol: int) -> bytes:
        """A HELLO frame in this protocol."""
        who = self.identity
        said: tuple[object, ...] = (who.cluster, who.node_id, who.incarnation, who.role, nonce)
        said = (1, *said) if protocol == 1 else (protocol, PROTOCOL_MIN, *said, *self._standing())
        return bytes((HELLO,)) + _encode((*said, self._mac("hello", channel, *said)))

    def welcome(self, channel: Channel, hello: Hello) -> bytes:
        """A WELCOME frame in answer to this HELLO, and in its protocol."""
        who = self.identity
        said: tuple[object, ...] = (who.cluster, who.node_id, who.incarnation)
        said = (1, *said) if hello.protocol == 1 else (hello.protocol, PROTOCOL_MIN, *said, *self._standing())
        return bytes((WELCOME,)) + _encode((*said, self._mac("welcome", channel, *said, hello.nonce)))

    def turned_away(self, channel: Channel, hello: Hello, verdict: Verdict, index: LogIndex, sentence: str) -> bytes:
        """A TURNED_AWAY frame in answer to this HELLO."""
        said = (self.identity.cluster, self.identity.node_id, verdict, index, sentence[:_SENTENCE_MAX])
        return bytes((TURNED_AWAY,)) + _encode((*said, self._mac("turned away", channel, *said, hello.nonce)))

    def read_hello(self, raw: bytes) -> Hello | None:
        """The HELLO in a frame, as far as our protocol lets us read it; None if it is not one."""
        return read_hello(raw, self.identity.protocol)

    def read_welcome(self, raw: bytes) -> Welcome | None:
        """The same for a WELCOME."""
        return read_welcome(raw, self.identity.protocol)

    def can_say_it_again(self, hello: Hello) -> bool:
        """Whether its protocol is too late for us, but not the earliest it speaks."""
        return hello.protocol > self.identity.protocol >= hello.protocol_min

    def hello_flaw(self, hello: Hello, channel: Channel) -> str:
        """Why this HELLO is not believed, as a sentence; empty if it is."""
        mine = self.identity
        if not PROTOCOL_MIN <= hello.protocol <= mine.protocol:
            return _not_spoken(hello.protocol, mine.protocol)
        if not hmac.compare_digest(self._mac("hello", channel, *_hello_said(hello)), hello.mac):
            return "The greeting is not signed with this mesh's secret."
        if hello.cluster != mine.cluster and not (hello.role == CLIENT and not hello.cluster):
            return f"This is mesh {mine.cluster!r}, not {hello.cluster!r}."
        if hello.role not in (NODE, CLIENT):
            return f"{hello.role!r} is no role here."
        if hello.role == CLIENT and channel is not Channel.DATA:
            return "Clients are served on the data port only."
        if hello.role == NODE and hello.node_id == mine.node_id:
            return f"{hello.node_id!r} is this node's own id."
        return ""

    def welcome_flaw(
        self, welcome: Welcome, channel: Channel, nonce: bytes, expected: NodeId | None, protocol: int
    ) -> str:
        """Why this WELCOME is not believed, as a sentence; empty if it is.

        `protocol` is that of the HELLO it answers. `expected` None: any node will do.
        """
        mine = self.identity
        if welcome.protocol != protocol:
            return f"It speaks protocol {welcome.protocol}, not {protocol}."
        if not hmac.compare_digest(self._mac("welcome", channel, *_welcome_said(welcome), nonce), welcome.mac):
            return "Its welcome is not signed with this mesh's secret."
        if mine.cluster and welcome.cluster != mine.cluster:
            return f"It belongs to mesh {welcome.cluster!r}, not {mine.cluster!r}."
        if expected is not None and welcome.node_id != expected:
            return f"It is {welcome.node_id!r}, not {expected!r}."
        return ""

    def turn_away_flaw(self, answer: TurnAway, channel: Channel, nonce: bytes, expected: NodeId | None) -> str:
        """Why this TURNED_AWAY is not believed, as a sentence; empty if it is."""
        said = (answer.cluster, answer.node_id, answer.verdict, answer.index, answer.sentence)
        if not hmac.compare_digest(self._mac("turned away", channel, *said, nonce), answer.mac):
            return "Its refusal is not signed with this mesh's secret."
        if answer.cluster != self.identity.cluster or answer.node_id != expected:
            return f"It is {answer.node_id!r} of mesh {answer.cluster!r}, not {expected!r}."
        return ""

    def _standing(self) -> tuple[object, ...]:
        return self.identity.mark, self.since, self._address

    def _mac(self, *fields: object) -> bytes:
        if self._key is None:
            return b""
        return hmac.digest(self._key, _encode(fields), "sha256")


def _not_spoken(protocol: int, latest: int) -> str:
    spoken = f"{latest} is" if latest == PROTOCOL_MIN else f"{latest - 1} and {latest} are"
    return f"Protocol {protocol} is not spoken here, {spoken}."


def _hello_said(hello: Hello) -> tuple[object, ...]:
    """All that a HELLO says, in the order and to the extent of its protocol, except its signature."""
    said = (hello.cluster, hello.node_id, hello.incarnation, hello.role, hello.nonce)
    if hello.protocol == 1:
        return hello.protocol, *said
    return hello.protocol, hello.protocol_min, *said, hello.mark, hello.since, hello.address


def _welcome_said(welcome: Welcome) -> tuple[object, ...]:
    said = (welcome.cluster, welcome.node_id, welcome.incarnation)
    if welcome.protocol == 1:
        return welcome.protocol, *said
    return welcome.protocol, welcome.protocol_min, *said, welcome.mark, welcome.since, welcome.address


def read_hello(raw: bytes, spoken: int = PROTOCOL) -> Hello | None:
    """The HELLO in a frame; None if it is not one. `spoken` is the latest protocol that can be read."""
    version = _read(raw, HELLO, _version)
    if version is None:
        return None
    if spoken == 1 or version.protocol == 1:
        old = _read(raw, HELLO, _hello1)
        hello = None if old is None else _lifted_hello(old)
    elif version.protocol == PROTOCOL:
        hello = _read(raw, HELLO, _hello2)
    else:
        earliest = _earliest(raw, HELLO, version.protocol)
        return Hello(version.protocol, earliest, "", NodeId(""), 0, "", b"", "", LogIndex(0), "", b"")
    if hello is None or len(hello.nonce) != NONCE_BYTES:
        return None
    return hello if _sane((hello.node_id, hello.cluster, hello.role, hello.mark, hello.address)) else None


def read_welcome(raw: bytes, spoken: int = PROTOCOL) -> Welcome | None:
    """The WELCOME in a frame; None if it is not one. `spoken` is the latest protocol that can be read."""
    version = _read(raw, WELCOME, _version)
    if version is None:
        return None
    if spoken == 1 or version.protocol == 1:
        old = _read(raw, WELCOME, _welcome1)
        welcome = None if old is None else _lifted_welcome(old)
    elif version.protocol == PROTOCOL:
        welcome = _read(raw, WELCOME, _welcome2)
    else:
        earliest = _earliest(raw, WELCOME, version.protocol)
        return Welcome(version.protocol, earliest, "", NodeId(""), 0, "", LogIndex(0), "", b"")
    sane = welcome is not None and _sane((welcome.node_id, welcome.cluster, welcome.mark, welcome.address))
    return welcome if sane else None


def _earliest(raw: bytes, kind: int, protocol: int) -> int:
    versions = _read(raw, kind, _versions)
    return protocol if versions is None else min(protocol, versions.protocol_min)


def _lifted_hello(old: _Hello1) -> Hello:
    return Hello(
        old.protocol,
        old.protocol,
        old.cluster,
        old.node_id,
        old.incarnation,
        old.role,
        old.nonce,
        mark="",
        since=LogIndex(0),
        address="",
        mac=old.mac,
    )


def _lifted_welcome(old: _Welcome1) -> Welcome:
    return Welcome(
        old.protocol,
        old.protocol,
        old.cluster,
        old.node_id,
        old.incarnation,
        mark="",
        since=LogIndex(0),
        address="",
        mac=old.mac,
    )


def read_turned_away(raw: bytes) -> TurnAway | None:
    """The TURNED_AWAY in a frame; None if it is not one, or says that nobody is turned away."""
    answer = _read(raw, TURNED_AWAY, _turn_away)
    if answer is None or answer.verdict is Verdict.ACCEPTED or not _sane((answer.cluster, answer.node_id)):
        return None
    return answer


def refused(reason: str) -> bytes:
    """A REFUSED frame."""
    return bytes((REFUSED,)) + reason.encode()[:_GREETING_BYTES_MAX]


def read_refused(raw: bytes) -> str:
    """The sentence in a REFUSED frame, fit to be logged."""
    return printable(raw[1:_GREETING_BYTES_MAX].decode(errors="replace"))


def printable(text: str) -> str:
    """What a peer said, fit to be logged."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


REHELLO_FRAME = bytes((REHELLO,))


def _read(raw: bytes, kind: int, decoder: "msgspec.msgpack.Decoder[_Greeting]") -> _Greeting | None:
    if not 0 < len(raw) <= _GREETING_BYTES_MAX or raw[0] != kind:
        return None
    try:
        return decoder.decode(raw[1:])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _sane(names: Iterable[str]) -> bool:
    return all(len(name) <= _NAME_BYTES_MAX for name in names)
