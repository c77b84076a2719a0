"""How the two ends of a link introduce themselves, and the one byte by which everything else is told apart.

    dialler                                     listener
      | HELLO  who I am, a nonce, a proof          |
      |------------------------------------------->|
      |     WELCOME  who I am, a proof over it     |
      |<-------------------------------------------|    or REFUSED and one sentence
      | MESSAGE 1, 2, 3 ...      MESSAGE 1, 2, 3 ...|    REHELLO: I do not know you (any more)

A MESSAGE is a kind byte, a 32-bit little-endian number that counts up by one per direction of a link, and the payload.
A hole in the numbers shows that libzmq reconnected underneath and lost something. One frame for all: a
second one for the header costs 1 us per small message, and spares 5 of 24 us at 100 KB, of which there are few.
"""

import hmac
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias, TypeVar

import msgspec

from mesh.effects import Channel
from mesh.ids import NodeId
from mesh.transport.curve import Keys

PROTOCOL = 1

MESSAGE, HELLO, WELCOME, REFUSED, REHELLO = 1, 2, 3, 4, 5

header = struct.Struct("<BI")
HEADER_BYTES = header.size
NUMBER_MASK = 0xFFFF_FFFF

NODE, CLIENT = "node", "client"

_GREETING_BYTES_MAX = 2_048
_NAME_BYTES_MAX = 255
NONCE_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who speaks. A client's `cluster` may be empty: it takes whichever mesh it reaches.

    `secret` is None, or the bytes all members of the mesh share, 16 at least.
    """

    node_id: str
    cluster: str
    incarnation: int
    role: str
    secret: bytes | None = field(repr=False)


_Natural: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]


class Hello(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """First message on a link, from whoever dialled. `mac` is empty in a mesh without a secret."""

    protocol: _Natural
    cluster: str
    node_id: NodeId
    incarnation: _Natural
    role: str
    nonce: bytes
    mac: bytes


class Welcome(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The answer. `mac` covers the nonce of the HELLO it answers."""

    protocol: _Natural
    cluster: str
    node_id: NodeId
    incarnation: _Natural
    mac: bytes


_Greeting = TypeVar("_Greeting")

_encode = msgspec.msgpack.Encoder().encode
_hello = msgspec.msgpack.Decoder(Hello)
_welcome = msgspec.msgpack.Decoder(Welcome)


class Notary:
    """Signs and checks the greetings of one identity, on one channel at a time."""

    def __init__(self, identity: Identity, keys: Keys | None) -> None:
        self.identity = identity
        self._key = keys.hello if keys is not None else None

    def hello(self, channel: Channel, nonce: bytes) -> bytes:
        """A HELLO frame."""
        who = self.identity
        mac = self._mac("hello", channel, PROTOCOL, who.cluster, who.node_id, who.incarnation, who.role, nonce)
        body = Hello(PROTOCOL, who.cluster, NodeId(who.node_id), who.incarnation, who.role, nonce, mac)
        return bytes((HELLO,)) + _encode(body)

    def welcome(self, channel: Channel, nonce: bytes) -> bytes:
        """A WELCOME frame in answer to a HELLO with this nonce."""
        who = self.identity
        mac = self._mac("welcome", channel, PROTOCOL, who.cluster, who.node_id, who.incarnation, nonce)
        return bytes((WELCOME,)) + _encode(Welcome(PROTOCOL, who.cluster, NodeId(who.node_id), who.incarnation, mac))

    def hello_flaw(self, hello: Hello, channel: Channel) -> str:
        """Why this HELLO is not believed, as a sentence; empty if it is."""
        mine = self.identity
        if hello.protocol != PROTOCOL:
            return f"Protocol {hello.protocol} is not spoken here, {PROTOCOL} is."
        mac = self._mac(
            "hello", channel, hello.protocol, hello.cluster, hello.node_id, hello.incarnation, hello.role, hello.nonce
        )
        if not hmac.compare_digest(mac, hello.mac):
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

    def welcome_flaw(self, welcome: Welcome, channel: Channel, nonce: bytes, expected: NodeId | None) -> str:
        """Why this WELCOME is not believed, as a sentence; empty if it is. `expected` None: any node will do."""
        mine = self.identity
        if welcome.protocol != PROTOCOL:
            return f"It speaks protocol {welcome.protocol}, not {PROTOCOL}."
        mac = self._mac(
            "welcome", channel, welcome.protocol, welcome.cluster, welcome.node_id, welcome.incarnation, nonce
        )
        if not hmac.compare_digest(mac, welcome.mac):
            return "Its welcome is not signed with this mesh's secret."
        if mine.cluster and welcome.cluster != mine.cluster:
            return f"It belongs to mesh {welcome.cluster!r}, not {mine.cluster!r}."
        if expected is not None and welcome.node_id != expected:
            return f"It is {welcome.node_id!r}, not {expected!r}."
        return ""

    def _mac(self, *fields: object) -> bytes:
        if self._key is None:
            return b""
        return hmac.digest(self._key, _encode(fields), "sha256")


def read_hello(raw: bytes) -> Hello | None:
    """The HELLO in a frame; None if it is not one."""
    hello = _read(raw, HELLO, _hello)
    if hello is None or len(hello.nonce) != NONCE_BYTES or not _sane((hello.node_id, hello.cluster, hello.role)):
        return None
    return hello


def read_welcome(raw: bytes) -> Welcome | None:
    """The WELCOME in a frame; None if it is not one."""
    welcome = _read(raw, WELCOME, _welcome)
    return welcome if welcome is not None and _sane((welcome.node_id, welcome.cluster)) else None


def refused(reason: str) -> bytes:
    """A REFUSED frame."""
    return bytes((REFUSED,)) + reason.encode()[:_GREETING_BYTES_MAX]


def read_refused(raw: bytes) -> str:
    """The sentence in a REFUSED frame, fit to be logged."""
    text = raw[1:_GREETING_BYTES_MAX].decode(errors="replace")
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
