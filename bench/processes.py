"""What processes have used, read from /proc: every node, its agents, and this process. Linux only."""

import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds and peak memory (MiB) of the client, the nodes and their agents."""

    client_s: float
    nodes_s: float
    agents_s: float
    rss_peak_mib: dict[str, float]
    """Per process, by name; the peak of each since it started."""

    @property
    def total_s(self) -> float:
        return self.client_s + self.nodes_s + self.agents_s


def usage(node_pids: dict[str, int]) -> Usage:
    """Everything up to now. Processes that have died meanwhile count as nothing."""
    peaks = {"client": _peak_mib(os.getpid())}
    nodes_s = agents_s = 0.0
    for name, pid in node_pids.items():
        nodes_s += _cpu_s(pid)
        peaks[name] = _peak_mib(pid)
        for number, child in enumerate(descendants(pid)):
            agents_s += _cpu_s(child)
            peaks[f"{name} agent {number}"] = _peak_mib(child)
    return Usage(_cpu_s(os.getpid()), nodes_s, agents_s, peaks)


def cpu_ticks(stat: str, *, ended_children: bool = False) -> int:
    """User and system time in a line of /proc/PID/stat, of all threads; if asked, and of children that have ended and
    were waited for. The name of the process stands in brackets there, and may contain anything.
    """
    fields = stat.rpartition(")")[2].split()
    return sum(int(field) for field in fields[11 : 15 if ended_children else 13])


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of everything that descends from a process, itself not counted, children that ended included."""
    return sum(_cpu_s(child, ended_children=True) for child in descendants(pid))


def _cpu_s(pid: int, *, ended_children: bool = False) -> float:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    return cpu_ticks(stat, ended_children=ended_children) / TICKS_PER_S


def rss_mib(pid: int) -> float:
    """Memory a process uses now, in MiB; 0 if it has ended."""
    return _memory_mib(pid, "VmRSS:")


def _peak_mib(pid: int) -> float:
    return _memory_mib(pid, "VmHWM:")


def _memory_mib(pid: int, what: str) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(what):
                return round(int(line.split()[1]) / 1_024, 1)
    except OSError:
        pass
    return 0.0


def descendants(pid: int) -> list[int]:
    """Process ids of children, their children, and so on, parents first."""
    found: list[int] = []
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    except OSError:
        pass
    return found
