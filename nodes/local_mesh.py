"""A whole mesh of node processes on this machine: started, watched, killed, stopped. For `mesh up`, demo and bench."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from nodes.lifeline import VARIABLE

PORTS_PER_NODE = 10
"""Node k is on base port + 10 k; it uses the first four of its ten."""

START_TIMEOUT_S = 30.0
STOP_SLACK_S = 10.0
"""Nodes that have not ended so long after their time was over are killed."""
BASE_PORTS = range(21_500, 31_000, 100)
"""Where `free_base_port` looks. Below the range the system gives to outgoing connections."""


class MeshDidNotStart(Exception):
    """One sentence that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalMeshSettings:
    """How to start it. `data_dir` None means a temporary one, removed at the end."""

    nodes: int = 3
    founders: int | None = None
    """The first so many found the mesh, the others join it; None means all of them found it."""
    base_port: int = 21_000
    apps: tuple[str, ...] = ()
    data_dir: Path | None = None
    slots: int | None = None
    heartbeat_interval_ms: int | None = None
    failure_threshold: int | None = None
    drain_s: float = 2.0
    """When it is stopped, what runs may go on for so long."""
    secret_file: str | None = None
    quiet: bool = True
    """What the nodes say on stderr goes to a file beside their data, instead of to our stderr."""
    import_path: str | None = None
    """Put first where the nodes' user code is imported from."""
    start_timeout_s: float = START_TIMEOUT_S
    """A node that holds a million tasks takes longer than one that holds none."""


@dataclass(slots=True)
class LocalNode:
    """One node process."""

    id: str
    address: str
    data_dir: Path
    log: Path
    process: asyncio.subprocess.Process
    ready: asyncio.Future[bool]
    reader: asyncio.Task[None]
    killed: bool = field(default=False)

    @property
    def alive(self) -> bool:
        return self.process.returncode is None


class LocalMesh:
    """Node processes that belong together. `async with` it: at the end none is left."""

    def __init__(self, settings: LocalMeshSettings) -> None:
        self._settings = settings
        self._root: Path | None = None
        self._temporary = settings.data_dir is None
        self.nodes: dict[str, LocalNode] = {}

    async def __aenter__(self) -> LocalMesh:
        try:
            await self._start()
        except BaseException:
            await self.stop(grace_s=0.5)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def peers(self) -> str:
        """What to hand to `connect`."""
        return ",".join(self._address(number) for number in range(self._settings.nodes))

    def kill(self, node_id: str) -> int:
        """SIGKILL its process, now. Returns the time, in milliseconds since the epoch."""
        node = self.nodes[node_id]
        node.killed = True
        at_ms = time.time_ns() // 1_000_000
        os.kill(node.process.pid, signal.SIGKILL)
        return at_ms

    async def restart(self, node_id: str) -> None:
        """Start a node again that has ended, on the same data."""
        node = self.nodes[node_id]
        await node.process.wait()
        _kill_group(node.process.pid)
        await node.reader
        number = int(node_id.removeprefix("n")) - 1
        self.nodes[node_id] = await self._spawn(number)
        await self._wait_ready([self.nodes[node_id]], time.monotonic() + self._settings.start_timeout_s)

    async def stop(self, grace_s: float | None = None) -> None:
        """Ask all to end, wait, kill what is left, remove what was temporary."""
        nodes = list(self.nodes.values())
        for node in nodes:
            if node.alive:
                node.process.terminate()
        try:
            async with asyncio.timeout(self._settings.drain_s + STOP_SLACK_S if grace_s is None else grace_s):
                await self._have_left(nodes)
        except TimeoutError:
            pass
        finally:
            for node in nodes:
                _kill_group(node.process.pid)
        for node in nodes:
            await node.process.wait()
            await node.reader
            node.ready.cancel()
        self.nodes.clear()
        if self._temporary and self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    async def _have_left(self, nodes: list[LocalNode]) -> None:
        """Until all have ended. Those that are no majority any more can agree on nothing: they are told again, to end
        at once.
        """
        told_again = False
        while alive := [node for node in nodes if node.alive]:
            if len(alive) * 2 <= len(nodes) and not told_again:
                told_again = True
                for node in alive:
                    node.process.terminate()
            await _one_of(alive)

    async def wait_until_one_ended(self) -> LocalNode:
        """The next node process to end that was not killed from here."""
        while True:
            for node in self.nodes.values():
                if not node.alive and not node.killed:
                    node.killed = True
                    return node
            alive = [node for node in self.nodes.values() if node.alive]
            if not alive:
                await asyncio.get_running_loop().create_future()
            await _one_of(alive)

    # --- starting -----------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        settings = self._settings
        if settings.data_dir is None:
            self._root = Path(tempfile.mkdtemp(prefix="mesh-"))
        else:
            self._root = settings.data_dir.absolute()
            try:
                self._root.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise MeshDidNotStart(f"{self._root} cannot be made: {error.strerror}") from None
        deadline = time.monotonic() + settings.start_timeout_s
        for number in range(settings.nodes):
            node = await self._spawn(number)
            self.nodes[node.id] = node
        await self._wait_ready(list(self.nodes.values()), deadline)
        await self._wait_healthy(deadline)

    async def _spawn(self, number: int) -> LocalNode:
        assert self._root is not None, "a node needs a directory"
        node_id = f"n{number + 1}"
        data_dir, log = self._root / node_id, self._root / f"{node_id}.log"
        environment = os.environ | {VARIABLE: str(os.getpid()), "PYTHONUNBUFFERED": "1"}
        if self._settings.import_path:
            paths = [self._settings.import_path, environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        stderr: IO[bytes] | None = open(log, "ab") if self._settings.quiet else None  # noqa: SIM115
        try:
            # A session of its own: an interrupt on the terminal reaches us alone, and we end the nodes in order.
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "nodes",
                *self._arguments(number, data_dir),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )
        finally:
            if stderr is not None:
                stderr.close()
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[bool] = loop.create_future()
        assert process.stdout is not None, "stdout is a pipe"
        reader = loop.create_task(_read(process.stdout, ready))
        return LocalNode(node_id, self._address(number), data_dir, log, process, ready, reader)

    def _arguments(self, number: int, data_dir: Path) -> list[str]:
        settings = self._settings
        founders = range(settings.nodes if settings.founders is None else settings.founders)
        arguments = ["node", "run", "--json", "--id", f"n{number + 1}", "--bind", self._address(number)]
        if number in founders:
            arguments += ["--voters", ",".join(f"n{other + 1}@{self._address(other)}" for other in founders)]
        else:
            arguments += ["--join", ",".join(self._address(other) for other in founders)]
        arguments += ["--data-dir", str(data_dir)]
        for app in settings.apps:
            arguments += ["--app", app]
        for flag, value in (
            ("--slots", settings.slots),
            ("--heartbeat-interval-ms", settings.heartbeat_interval_ms),
            ("--failure-threshold", settings.failure_threshold),
            ("--drain-s", settings.drain_s),
            ("--secret-file", settings.secret_file),
        ):
            if value is not None:
                arguments += [flag, str(value)]
        return arguments

    def _address(self, number: int) -> str:
        return f"127.0.0.1:{self._settings.base_port + PORTS_PER_NODE * number}"

    async def _wait_ready(self, nodes: list[LocalNode], deadline: float) -> None:
        """Until every node has said that it serves. Raises MeshDidNotStart at once when one ends instead."""
        pending = {node.ready for node in nodes}
        while pending:
            left_s = max(0.0, deadline - time.monotonic())
            done, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                silent = ", ".join(node.id for node in nodes if node.ready in pending)
                raise MeshDidNotStart(f"{silent} did not serve within {self._settings.start_timeout_s:g} s")
            for node in nodes:
                if node.ready in done and not node.ready.result():
                    code = await node.process.wait()
                    raise MeshDidNotStart(f"{node.id} could not start (exit {code}){_last_words(node.log)}")

    async def _wait_healthy(self, deadline: float) -> None:
        """Until a leader serves and sees every node healthy."""
        from mesh.client import connect
        from mesh.errors import MeshUnavailable

        count, apps = self._settings.nodes, self._settings.apps
        seen = "no node answered"
        try:
            async with connect(self.peers, secret_file=self._settings.secret_file, timeout=5.0) as mesh:
                while time.monotonic() < deadline:
                    status = await mesh.status(timeout=2.0)
                    healthy = sum(
                        node.health == "healthy" and node.slots > 0 and (bool(node.capabilities) or not apps)
                        for node in status.nodes
                    )
                    if status.leader and not status.stale and healthy == count:
                        return
                    seen = f"leader {status.leader}, {healthy} of {count} nodes healthy"
                    await asyncio.sleep(0.02)
        except MeshUnavailable as error:
            seen = str(error)
        raise MeshDidNotStart(f"the mesh did not become healthy within {self._settings.start_timeout_s:g} s: {seen}")


async def _one_of(nodes: list[LocalNode]) -> None:
    """Until one of these has ended."""
    waits = [asyncio.ensure_future(node.process.wait()) for node in nodes]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _read(stdout: asyncio.StreamReader, ready: asyncio.Future[bool]) -> None:
    """Wait for the line that says the node serves; then drop what it prints, so that the pipe never fills."""
    while line := await stdout.readline():
        if not ready.done() and _says_ready(line):
            ready.set_result(True)
    if not ready.done():
        ready.set_result(False)


def _says_ready(line: bytes) -> bool:
    try:
        return bool(json.loads(line).get("event") == "ready")
    except (ValueError, AttributeError):
        return False


def _last_words(log: Path) -> str:
    """The last line a node wrote, for the error message."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f": {lines[-1].removeprefix('mesh: ')}" if lines else ""


def _kill_group(pid: int) -> None:
    """What is left of a node: its agent processes, and itself."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def free_base_port(nodes: int) -> int:
    """A base port whose block of ports nobody uses just now. Raises MeshDidNotStart."""
    for base in BASE_PORTS:
        if all(_is_free(base + PORTS_PER_NODE * node + port) for node in range(nodes) for port in range(4)):
            return base
    raise MeshDidNotStart(f"no free block of ports between {BASE_PORTS.start} and {BASE_PORTS.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
