"""Speak to a node with ZeroMQ and MessagePack alone: what a client in any other language does.

Usage: python examples/raw_client.py HOST PORT CAPABILITY [JSON]      (PORT is the node's base port; no secret)

Prints the task's end as JSON. Tags and fields: mesh/messages.py. Frames: mesh/transport/handshake.py.
"""

import json
import secrets
import struct
import sys

import msgpack
import zmq

MESSAGE, HELLO, WELCOME = 1, 2, 3
SUBMIT_TASKS, ACCEPTED, TASKS_ENDED = 50, 51, 54
STATES = [
    "pending",
    "scheduled",
    "blocked",
    "dispatched",
    "running",
    "paused",
    "completed",
    "failed",
    "cancelled",
    "dead",
]


def main(host: str, port: int, capability: str, payload: object) -> None:
    """Submit one task, wait for its end."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, 10_000)
    socket.connect(f"tcp://{host}:{port + 1}")
    hello = [1, "", "raw-client", 1, "client", secrets.token_bytes(16), b""]
    socket.send(bytes([HELLO]) + msgpack.packb(hello))
    answer = socket.recv()
    if answer[0] != WELCOME:
        sys.exit(f"refused: {answer[1:]!r}")
    print(f"talking to {msgpack.unpackb(answer[1:])[2]}", file=sys.stderr)

    task_id = secrets.token_hex(8)
    submit = [SUBMIT_TASKS, True, [[task_id, capability, msgpack.packb(payload)]]]
    socket.send(struct.pack("<BI", MESSAGE, 1) + msgpack.packb(submit))
    while True:
        frame = socket.recv()
        kind = frame[0]
        message = msgpack.unpackb(frame[5:]) if kind == MESSAGE else []
        if message and message[0] == ACCEPTED:
            print(f"accepted in log entry {message[1]}", file=sys.stderr)
        elif message and message[0] == TASKS_ENDED:
            _, state, result, error, _, node, attempts = message[1][0]
            value = msgpack.unpackb(result) if result else None
            print(
                json.dumps(
                    {"state": STATES[state], "result": value, "error": error, "node": node, "attempts": attempts}
                )
            )
            return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4]) if len(sys.argv) > 4 else {})
