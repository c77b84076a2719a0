"""Who may connect: one key pair for the whole mesh, made from its secret, and the judge libzmq asks.

Whoever holds the secret has the pair, and nobody else gets through a handshake. The pair serves as server key and as
client key, so each end proves the secret to the other. libzmq lets everybody in when no judge answers, unless a domain
is set and enforced; `sockets` sets both, and the judge is bound before any port is.

Sources: RFC 27 (ZAP), libzmq zmq_curve(7).
"""

import hashlib
import hmac
from dataclasses import dataclass

import zmq
from zmq.utils import z85

from mesh.transport.address import TransportRefused
from mesh.transport.tally import Tally

SECRET_BYTES_MIN = 16
ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"mesh"

_ZAP_FRAMES = 7
"""version, request id, domain, address, routing id, mechanism, and for CURVE the client's public key."""


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """`public` and `private` are the CURVE pair in Z85; `hello` signs greetings (HMAC-SHA256)."""

    public: bytes
    private: bytes
    hello: bytes


def derive(secret: bytes) -> Keys:
    """The keys of the mesh that has this secret. The same secret gives the same keys everywhere.

    Raises TransportRefused: the secret is shorter than 16 bytes, or libzmq was built without CURVE.
    """
    if len(secret) < SECRET_BYTES_MIN:
        raise TransportRefused(f"The secret has {len(secret)} bytes; {SECRET_BYTES_MIN} random ones are the least.")
    if not zmq.has("curve"):
        raise TransportRefused("This build of libzmq has no CURVE, so a secret cannot protect anything.")
    private = z85.encode(_derived(secret, b"mesh-curve"))
    return Keys(zmq.curve_public(private), private, _derived(secret, b"mesh-hello"))


def _derived(secret: bytes, purpose: bytes) -> bytes:
    extracted = hashlib.blake2b(secret, digest_size=64, person=b"mesh-extract").digest()
    return hashlib.blake2b(purpose, digest_size=32, key=extracted).digest()


class ZapResponder:
    """Answers libzmq's question whether a connection may pass: yes to the mesh's own key, no to all else."""

    rank = 0

    def __init__(self, socket: "zmq.Socket[bytes]", keys: Keys, tally: Tally) -> None:
        """`socket` is an unbound REP; it is bound here, which fails if this context has a judge already."""
        self.socket = socket
        self._key = z85.decode(keys.public)
        self._tally = tally
        socket.bind(ZAP_ENDPOINT)

    def drain(self, budget: int) -> bool:
        """Answer what waits, `budget` questions at most. True if there may be more."""
        for _ in range(budget):
            try:
                question = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return False
            self.socket.send_multipart(self._judge(question), zmq.NOBLOCK)
        return True

    def _judge(self, question: list[bytes]) -> list[bytes]:
        request = question[1] if len(question) > 1 else b""
        try:
            code, text = self._verdict(question)
        except Exception as error:  # Whatever happens here, the answer is no, and the next question is heard.
            code, text = b"500", b"the judge failed"
            self._tally.count("zap_failed", repr(error))
        if code != b"200":
            self._tally.count("unauthenticated", f"{text.decode()} ({question[3:4]})")
        return [b"1.0", request, code, text, b"", b""]

    def _verdict(self, question: list[bytes]) -> tuple[bytes, bytes]:
        if len(question) != _ZAP_FRAMES:
            return b"400", b"not a question about a CURVE key"
        version, _, domain, _, _, mechanism, key = question
        if (version, domain, mechanism) != (b"1.0", ZAP_DOMAIN, b"CURVE"):
            return b"400", b"wrong version, domain or mechanism"
        if not hmac.compare_digest(key, self._key):
            return b"400", b"not this mesh's key"
        return b"200", b"OK"
