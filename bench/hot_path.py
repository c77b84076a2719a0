"""A yardstick shaped like the mesh's hot path, so that a task's price can be told as a multiple of the bare minimum.

One process, nothing of the mesh in it. A client sends batches of tasks to a leader; the leader wraps the bytes once,
appends them to its log and forwards them unchanged to two followers over a ROUTER/DEALER pair; each log is an SQLite
database on a thread of its own that commits together whatever waits; a batch that two of three logs have is decoded,
entered in a table and answered. There are no elections, checks, retries, events, agents or results: what the mesh costs
above this is what those cost. It must stay as it is: figures taken with another version are not compared.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import zmq

VERSION = 1
TASKS = 6_400
BATCH = 32
WINDOW = 4
"""Batches on their way at once."""
PASSES = 3
FOLLOWERS = (b"f1", b"f2")
MAJORITY = 2
PASS_TIMEOUT_S = 60.0
DRAIN_MAX = 256

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class HotPath(msgspec.Struct):
    """The best of some passes: CPU and wall microseconds per task."""

    version: int
    cpu_us: float
    wall_us: float


async def measure() -> HotPath:
    """Takes a second or two, longer where syncing a file is slow. Raises TimeoutError if a pass takes a minute."""
    passes = []
    for _ in range(PASSES):
        async with asyncio.timeout(PASS_TIMEOUT_S):
            passes.append(await _one_pass())
    return HotPath(VERSION, round(min(cpu for cpu, _ in passes), 2), round(min(wall for _, wall in passes), 2))


async def _one_pass() -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="hot-path-") as folder, zmq.Context() as context:
        logs = [_Log(Path(folder) / f"{name}.db") for name in ("leader", "f1", "f2")]
        sockets: list[_Socket] = []
        try:
            leader = _Leader(context, logs[0], sockets)
            for name, log in zip(FOLLOWERS, logs[1:], strict=True):
                _Follower(context, name, leader.address, log, sockets)
            client = _Client(context, leader.address, sockets)
            await client.ready()
            cpu, wall = time.process_time(), time.perf_counter()
            await client.run()
            return (time.process_time() - cpu) / TASKS * 1e6, (time.perf_counter() - wall) / TASKS * 1e6
        finally:
            for socket in sockets:
                socket.close()
            for log in logs:
                log.close()


class _Socket:
    """Drained through its file descriptor, as far as it goes, whenever that says so and after every send."""

    def __init__(self, socket: zmq.Socket[bytes], on: Callable[[list[bytes]], None]) -> None:
        socket.linger = 0
        self._socket = socket
        self._on = on
        self._loop = asyncio.get_running_loop()
        self._descriptor = socket.FD
        self._armed = False
        self._loop.add_reader(self._descriptor, self._drain)
        self._arm()

    def send(self, *parts: bytes) -> None:
        if self._socket.closed:
            # The third log is told when two have ended it all.
            return
        self._socket.send_multipart(parts, zmq.NOBLOCK)
        if int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            self._arm()

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        self._socket.close()

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._armed = False
        if self._socket.closed:
            return
        try:
            for _ in range(DRAIN_MAX):
                self._on(self._socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return
        self._arm()


class _Log:
    """Appends on a thread of its own; what waits is committed together, and told to the loop together."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: SimpleQueue[tuple[int, bytes, Callable[[int], None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(path,))
        self._thread.start()

    def append(self, index: int, data: bytes, durable: Callable[[int], None]) -> None:
        """`durable` is called on the loop once everything up to `index` is on disk."""
        self._waiting.put((index, data, durable))

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _run(self, path: Path) -> None:
        database = sqlite3.connect(path, isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE log (i INTEGER PRIMARY KEY, data BLOB)")
        ending = False
        while not ending:
            taken = [self._waiting.get()]
            while not self._waiting.empty():
                taken.append(self._waiting.get())
            group = [one for one in taken if one is not None]
            ending = len(group) < len(taken)
            if not group:
                break
            database.execute("BEGIN")
            database.executemany("INSERT INTO log VALUES (?, ?)", [(index, data) for index, data, _ in group])
            database.execute("COMMIT")
            index, _, durable = group[-1]
            self._loop.call_soon_threadsafe(durable, index)
        database.close()


class _Leader:
    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], log: _Log, sockets: list[_Socket]) -> None:
        router = context.socket(zmq.ROUTER)
        router.router_mandatory = True
        self.address = f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"
        self._socket = _Socket(router, self._heard)
        sockets.append(self._socket)
        self._log = log
        self._reached = {b"": 0, **dict.fromkeys(FOLLOWERS, 0)}
        self._present: set[bytes] = set()
        self._last = self._commit = 0
        self._entries: dict[int, tuple[bytes, bytes]] = {}
        self._table: dict[str, list[Any]] = {}

    def _heard(self, parts: list[bytes]) -> None:
        sender, body = parts
        if sender not in self._reached:
            self._propose(sender, body)
        elif body:
            self._advance(sender, _decode(body))
        else:
            self._present.add(sender)

    def _propose(self, client: bytes, batch: bytes) -> None:
        if len(self._present) < len(FOLLOWERS):
            self._socket.send(client, b"not yet")
            return
        if not batch:
            self._socket.send(client, b"")
            return
        self._last += 1
        self._entries[self._last] = (client, batch)
        entry = _encode((self._last, self._commit, batch))
        for follower in FOLLOWERS:
            self._socket.send(follower, entry)
        self._log.append(self._last, entry, lambda index: self._advance(b"", index))

    def _advance(self, who: bytes, index: int) -> None:
        self._reached[who] = index
        commit = sorted(self._reached.values())[-MAJORITY]
        while self._commit < commit:
            self._commit += 1
            client, batch = self._entries.pop(self._commit)
            tasks = _decode(batch)
            for task in tasks:
                self._table[task[0]] = task
            self._socket.send(client, _encode([task[0] for task in tasks]))


class _Follower:
    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        name: bytes,
        leader: str,
        log: _Log,
        sockets: list[_Socket],
    ) -> None:
        dealer = context.socket(zmq.DEALER)
        dealer.routing_id = name
        dealer.connect(leader)
        self._socket = _Socket(dealer, self._heard)
        sockets.append(self._socket)
        self._log = log
        self._socket.send(b"")

    def _heard(self, parts: list[bytes]) -> None:
        (entry,) = parts
        index, _, _ = _decode(entry)
        self._log.append(index, entry, lambda durable: self._socket.send(_encode(durable)))


class _Client:
    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], leader: str, sockets: list[_Socket]) -> None:
        dealer = context.socket(zmq.DEALER)
        dealer.connect(leader)
        self._socket = _Socket(dealer, self._heard)
        sockets.append(self._socket)
        self._sent = 0
        self._waiting: set[str] = set()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ready(self) -> None:
        """Until the leader has heard from everybody. It is asked again and again, before anything is timed."""
        self._socket.send(b"")
        await self._ready

    async def run(self) -> None:
        """Until every task has been answered."""
        for _ in range(WINDOW):
            self._send()
        await self._done

    def _heard(self, parts: list[bytes]) -> None:
        (body,) = parts
        if not body:
            self._ready.set_result(None)
        elif body == b"not yet":
            self._socket.send(b"")
        else:
            self._waiting.difference_update(_decode(body))
            self._send()
            if self._sent == TASKS and not self._waiting:
                self._done.set_result(None)

    def _send(self) -> None:
        if self._sent == TASKS:
            return
        tasks = []
        for number in range(self._sent, self._sent + BATCH):
            name = f"t{number:08d}"
            self._waiting.add(name)
            tasks.append((name, "noop", 5, _encode({"n": number, "data": "x" * 60})))
        self._sent += BATCH
        self._socket.send(_encode(tasks))
