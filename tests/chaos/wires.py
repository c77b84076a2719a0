"""The network of a run: a namespace for each node, all plugged into one bridge, and every direction of it in our hand.

Each node knows the hardware address of each other node by a fixed entry in its neighbour table. To cut one direction,
the entry is pointed at an address nobody has: what is sent from then on vanishes without a word, and what comes the
other way still arrives. To slow a direction down, the entry is pointed at the relay, which holds or drops packets.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.chaos.arena import do

OWN = "10.99.0.254"
"""Where the driver itself is; it can reach every node, whatever is cut between them."""

ROOT = Path(__file__).parent.parent.parent
_NOBODY = "02:0f:00:00:00:{:02x}"
_NODE = "02:00:00:00:00:{:02x}"
_DETOUR = "02:01:00:00:{:02x}:{:02x}"
TAP = "chaostap"


class Wires:
    """`whole` again after `heal`. Nodes are numbered from 1."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self._holders: dict[int, subprocess.Popen[bytes]] = {}
        self._relay: subprocess.Popen[str] | None = None
        self._pointed: dict[tuple[int, int], str] = {}
        try:
            self._lay()
        except BaseException:
            self.close()
            raise

    def address(self, node: int) -> str:
        return f"10.99.0.{node}:21000"

    def inside(self, node: int) -> list[str]:
        """Put before a command, makes it run where the node lives."""
        return ["nsenter", f"--net=/proc/{self._holders[node].pid}/ns/net"]

    def cut(self, pairs: Iterable[tuple[int, int]]) -> None:
        """From now on nothing sent by the first of a pair reaches the second."""
        self._point({(a, b): _NOBODY.format(b) for a, b in pairs if a != b})

    def heal(self) -> None:
        """All directions whole and quick."""
        self._point({pair: _NODE.format(pair[1]) for pair in self._pairs()})

    def slow(self, pairs: Iterable[tuple[int, int]], *, delay_ms: int, jitter_ms: int, loss: float) -> None:
        """Packets of these directions are late, and some are lost. TCP makes stalls of that."""
        relay = self._start_relay()
        assert relay.stdin is not None and relay.stdout is not None
        for a, b in pairs:
            rule = {"pair": [a, b], "delay_ms": delay_ms, "jitter_ms": jitter_ms, "loss": loss}
            relay.stdin.write(json.dumps(rule) + "\n")
            relay.stdin.flush()
            relay.stdout.readline()
        self._point({(a, b): _DETOUR.format(a, b) for a, b in pairs})

    def reset(self, node: int, others: Iterable[int]) -> None:
        """Break every connection between a node and some others, both ends told."""
        for other in others:
            do(*self.inside(node), "ss", "-K", "-t", "dst", f"10.99.0.{other}")

    def close(self) -> None:
        """Namespaces end with the processes that hold them; the bridge with ours."""
        processes: list[subprocess.Popen[bytes] | subprocess.Popen[str]] = list(self._holders.values())
        if self._relay is not None:
            assert self._relay.stdin is not None
            self._relay.stdin.close()
            processes.append(self._relay)
        for process in processes:
            process.kill()
            process.wait(10)
        subprocess.run(["ip", "link", "del", "chaosbr"], check=False, capture_output=True, timeout=10)
        subprocess.run(["ip", "link", "del", TAP], check=False, capture_output=True, timeout=10)

    def _lay(self) -> None:
        subprocess.run(["ip", "link", "del", "chaosbr"], check=False, capture_output=True, timeout=10)
        do("ip", "link", "set", "lo", "up")
        do("ip", "link", "add", "chaosbr", "type", "bridge")
        do("ip", "link", "set", "chaosbr", "up")
        do("ip", "addr", "add", f"{OWN}/24", "dev", "chaosbr")
        for node in range(1, self.nodes + 1):
            # The holder says a word when it is inside its new namespace, so that nobody plugs into the old one.
            holder = subprocess.Popen(
                ["unshare", "--net", "sh", "-c", "echo; exec sleep 100000"], stdout=subprocess.PIPE
            )
            self._holders[node] = holder
            assert holder.stdout is not None
            holder.stdout.readline()
            plug = f"chaos{node}"
            subprocess.run(["ip", "link", "del", plug], check=False, capture_output=True, timeout=10)
            mac = _NODE.format(node)
            end = ["type", "veth", "peer", "name", "eth0", "address", mac, "netns", str(holder.pid)]
            do("ip", "link", "add", plug, *end)
            do("ip", "link", "set", plug, "master", "chaosbr", "up")
            inside = f"link set lo up\naddr add 10.99.0.{node}/24 dev eth0\nlink set eth0 up\n"
            do(*self.inside(node), "ip", "-batch", "-", text=inside)
        self.heal()

    def _pairs(self) -> list[tuple[int, int]]:
        nodes = range(1, self.nodes + 1)
        return [(a, b) for a in nodes for b in nodes if a != b]

    def _point(self, wanted: dict[tuple[int, int], str]) -> None:
        for node in range(1, self.nodes + 1):
            lines = [
                f"neigh replace 10.99.0.{b} lladdr {mac} dev eth0 nud permanent\n"
                for (a, b), mac in wanted.items()
                if a == node and self._pointed.get((a, b)) != mac
            ]
            if lines:
                do(*self.inside(node), "ip", "-batch", "-", text="".join(lines))
        self._pointed.update(wanted)

    def _start_relay(self) -> subprocess.Popen[str]:
        if self._relay is None:
            do("ip", "tuntap", "add", "dev", TAP, "mode", "tap")
            do("ip", "link", "set", TAP, "master", "chaosbr", "up")
            do("bridge", "link", "set", "dev", TAP, "learning", "off")
            for a, b in self._pairs():
                do("bridge", "fdb", "replace", _DETOUR.format(a, b), "dev", TAP, "master", "static")
            self._relay = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.relay", TAP],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        return self._relay
