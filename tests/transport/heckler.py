"""A client in its own process that says as much as it can for a while. Run as a script: BASE SECONDS."""

import sys
import time

import zmq

from mesh.config import PROTOCOL
from mesh.effects import Channel
from mesh.transport import CLIENT, Identity
from mesh.transport.handshake import MESSAGE, NONCE_BYTES, Notary, header


def heckle(base: str, seconds: str) -> None:
    identity = Identity(node_id="heckler", cluster="", incarnation=1, role=CLIENT, secret=None)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(f"tcp://127.0.0.1:{int(base) + Channel.DATA}")
        socket.send(Notary(identity, None).hello(Channel.DATA, b"h" * NONCE_BYTES, PROTOCOL))
        socket.recv()
        number, until = 0, time.monotonic() + float(seconds)
        while time.monotonic() < until:
            number += 1
            socket.send(header.pack(MESSAGE, number) + b"boo")
    print(number)


if __name__ == "__main__":
    heckle(*sys.argv[1:])
