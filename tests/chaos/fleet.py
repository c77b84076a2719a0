"""The node processes of a run, and what can be done to one of them. Only what was started here is ever signalled."""

import asyncio
import os
import secrets
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from mesh.client import Connecting, connect
from mesh.documents import Status
from mesh.errors import MeshError, MeshUnavailable
from nodes.lifeline import VARIABLE as DIE_WITH_PARENT
from tests.chaos.arena import DISKS, WIRES, able_to
from tests.chaos.disks import Disks
from tests.chaos.wires import ROOT, Wires

APP = f"{Path(__file__).parent / 'app.py'}:app"
END_TIMEOUT_S = 30.0
BASES = range(20_000, 29_000, 100)


@dataclass(slots=True)
class NodeProcess:
    """One node: its process while it has one. `down` and `stopped` say what was done to it."""

    id: str
    number: int
    address: str
    process: asyncio.subprocess.Process | None = None
    stopped: bool = False
    joins: bool = False
    """Enters a mesh that runs, instead of founding one."""
    exits: list[int] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def up(self) -> bool:
        return self.alive and not self.stopped


class Fleet:
    """Nodes n1, n2, ... `async with` it: at the end none is left, and nothing is cut."""

    def __init__(
        self,
        root: Path,
        *,
        nodes: int,
        heartbeat_ms: int = 300,
        slots: int = 64,
        disks: bool = False,
        extra: int = 0,
    ) -> None:
        self.root = root
        self.wires = Wires(nodes + extra) if able_to(WIRES) else None
        self.disks = Disks(root, nodes + extra, own=disks and able_to(DISKS))
        base = 0 if self.wires else _free_base(nodes + extra)
        self.nodes: dict[str, NodeProcess] = {}
        for number in range(1, nodes + extra + 1):
            address = self.wires.address(number) if self.wires else f"127.0.0.1:{base + 10 * number}"
            self.nodes[f"n{number}"] = NodeProcess(f"n{number}", number, address, joins=number > nodes)
        self.founders = list(self.nodes)[:nodes]
        self._flags = ["--heartbeat-interval-ms", str(heartbeat_ms), "--slots", str(slots), "--app", APP]
        self.secret_file = root / "secret"
        self.secret_file.write_text(secrets.token_hex(32), encoding="ascii")
        self.secret_file.chmod(0o600)
        self.trace = root / "trace.txt"
        self.trace.touch()

    async def __aenter__(self) -> "Fleet":
        for node in self.founders:
            await self.spawn(node)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            self.disks.heal()
        finally:
            await self.end()

    async def end(self) -> None:
        """Kill all that is left, and take the world down."""
        for node in self.nodes.values():
            if node.process is not None:
                _signal_group(node.process.pid, signal.SIGKILL)
        for node in self.nodes.values():
            if node.process is not None:
                await asyncio.wait_for(node.process.wait(), END_TIMEOUT_S)
        self.disks.close()
        if self.wires:
            self.wires.close()

    @property
    def peers(self) -> str:
        return ",".join(self.nodes[node].address for node in self.founders)

    def client(self, *nodes: str, timeout: float = 10.0) -> Connecting:
        """A client that knows these nodes, or all founders."""
        peers = ",".join(self.nodes[node].address for node in nodes) or self.peers
        return connect(peers, secret_file=str(self.secret_file), timeout=timeout)

    def log(self, node: str) -> Path:
        return self.root / f"{node}.log"

    def pid(self, node: str) -> int:
        """Of its process, 0 without one."""
        process = self.nodes[node].process if node in self.nodes else None
        return 0 if process is None else process.pid

    def last_words(self, node: str) -> str:
        """Why it ended, as it said itself."""
        lines = self.log(node).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return next((line for line in reversed(lines) if line.startswith("mesh: ")), lines[-1] if lines else "")

    def data_dir(self, node: str) -> Path:
        return self.disks.path(self.nodes[node].number) / node

    async def spawn(self, node_id: str) -> None:
        """Start a node's process. It serves a little later."""
        node = self.nodes[node_id]
        assert not node.alive, f"{node_id} runs already"
        command = [
            *(self.wires.inside(node.number) if self.wires else []),
            sys.executable,
            "-m",
            "nodes",
            "node",
            "run",
        ]
        command += ["--id", node_id, "--bind", node.address, "--data-dir", str(self.data_dir(node_id))]
        if not node.joins:
            command += ["--voters", ",".join(f"{name}@{self.nodes[name].address}" for name in self.founders)]
        else:
            others = [name for name in self.founders if name != node_id]
            command += ["--join", ",".join(self.nodes[name].address for name in others)]
        command += ["--secret-file", str(self.secret_file), *self._flags]
        environment = os.environ | {DIE_WITH_PARENT: str(os.getpid()), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with self.log(node_id).open("ab") as log:
            node.process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )
        node.stopped = False

    def signal(self, node_id: str, number: signal.Signals) -> None:
        """To the node's own process; its agents go on."""
        node = self.nodes[node_id]
        if node.alive:
            assert node.process is not None
            node.process.send_signal(number)
            node.stopped = number == signal.SIGSTOP or (node.stopped and number != signal.SIGCONT)

    async def ended(self, node_id: str) -> None:
        """Wait for the end of a process that was told to, and clear away its agents."""
        node = self.nodes[node_id]
        if node.process is not None:
            node.exits.append(await asyncio.wait_for(node.process.wait(), END_TIMEOUT_S))
            _signal_group(node.process.pid, signal.SIGKILL)
            node.stopped = False

    async def kill(self, node_id: str) -> None:
        self.signal(node_id, signal.SIGKILL)
        await self.ended(node_id)

    def kill_agents(self, node_id: str) -> int:
        """SIGKILL the processes in which a node runs user code. How many there were."""
        node = self.nodes[node_id]
        if not node.alive:
            return 0
        assert node.process is not None
        children = _children(node.process.pid)
        for child in children:
            os.kill(child, signal.SIGKILL)
        return len(children)

    async def heal(self) -> None:
        """Everything whole: wires, disks, and each node running that ever did."""
        if self.wires:
            self.wires.heal()
        self.disks.heal()
        for node in self.nodes.values():
            self.signal(node.id, signal.SIGCONT)
        for node in self.nodes.values():
            if node.process is not None and not node.alive:
                await self.ended(node.id)
                await self.spawn(node.id)

    @property
    def started(self) -> list[str]:
        """Nodes that belong to the mesh just now."""
        return [node.id for node in self.nodes.values() if node.process is not None]

    async def wait_healthy(self, timeout_s: float) -> Status:
        """Until a leader serves and sees all founders healthy, with their user code.

        Raises TimeoutError, and MeshUnavailable as soon as one ends by itself.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                for name in self.founders:
                    if not self.nodes[name].alive:
                        raise MeshUnavailable(f"{name} ended by itself: {self.last_words(name)}")
                try:
                    async with self.client(timeout=2) as client:
                        status = await client.status(timeout=2)
                except MeshError:
                    continue
                # By its pid, too: the old self of one that was started again may still pass for healthy.
                healthy = [
                    n.id
                    for n in status.nodes
                    if n.health == "healthy" and n.capabilities and n.slots and n.pid == self.pid(n.id)
                ]
                if status.leader and not status.stale and set(self.founders) <= set(healthy):
                    return status
                await asyncio.sleep(0.05)


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _children(pid: int) -> list[int]:
    """Processes started by this one, from the system's own table."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if int(parent) == pid:
                found.append(int(entry.name))
    return found


def _free_base(nodes: int) -> int:
    for base in BASES:
        if all(_is_free(base + 10 * k + port) for k in range(nodes + 1) for port in range(4)):
            return base
    raise AssertionError(f"no free ports in {BASES}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
