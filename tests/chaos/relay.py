"""A process of its own that holds packets back: `python -m tests.chaos.relay TAP`, rules as JSON lines on stdin,
each answered by a line.

It is a host on the bridge. A frame sent to 02:01:00:00:A:B is on its way from node A to node B; it is late by
`delay_ms` plus something up to `jitter_ms`, or lost, and goes on to 02:00:00:00:00:B. Frames of one direction keep
their order. It ends when stdin does.
"""

import asyncio
import fcntl
import json
import os
import struct
import sys
from collections import deque
from random import Random

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
FRAME_MAX = 65_536
HELD_MAX = 20_000
"""Frames of one direction on their way. What comes on top is dropped, as a real queue does."""


class Direction:
    """One directed pair and what happens to its frames."""

    def __init__(self, a: int, b: int) -> None:
        self.to = bytes((2, 0, 0, 0, 0, b)) + bytes((2, 2, 0, 0, a, b))
        self.delay_ms = self.jitter_ms = 0
        self.loss = 0.0
        self.held: deque[tuple[float, bytes]] = deque()


class Relay:
    def __init__(self, tap: str, rng: Random) -> None:
        self._loop = asyncio.get_running_loop()
        self._rng = rng
        self._directions: dict[tuple[int, int], Direction] = {}
        self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack("16sH", tap.encode(), _IFF_TAP | _IFF_NO_PI))
        self._loop.add_reader(self._fd, self._read)

    def rule(self, line: str) -> None:
        words = json.loads(line)
        direction = self._direction(*words["pair"])
        direction.delay_ms, direction.jitter_ms = words["delay_ms"], words["jitter_ms"]
        direction.loss = words["loss"]

    def _direction(self, a: int, b: int) -> Direction:
        return self._directions.setdefault((a, b), Direction(a, b))

    def _read(self) -> None:
        for _ in range(256):
            try:
                frame = os.read(self._fd, FRAME_MAX)
            except BlockingIOError:
                return
            if frame[:4] == b"\x02\x01\x00\x00":
                self._take(self._direction(frame[4], frame[5]), frame)

    def _take(self, direction: Direction, frame: bytes) -> None:
        if self._rng.random() < direction.loss or len(direction.held) >= HELD_MAX:
            return
        due = self._loop.time() + (direction.delay_ms + self._rng.random() * direction.jitter_ms) / 1_000
        if direction.held:
            due = max(due, direction.held[-1][0])
        direction.held.append((due, direction.to + frame[12:]))
        if len(direction.held) == 1:
            self._loop.call_at(due, self._let_go, direction)

    def _let_go(self, direction: Direction) -> None:
        held, now = direction.held, self._loop.time() + 0.000_5
        while held and held[0][0] <= now:
            try:
                os.write(self._fd, held.popleft()[1])
            except BlockingIOError:
                pass  # The bridge is full: one more frame lost.
        if held:
            self._loop.call_at(held[0][0], self._let_go, direction)


async def main(tap: str) -> None:
    relay = Relay(tap, Random(1))
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        relay.rule(line.decode())
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
