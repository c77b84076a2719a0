"""How busy the machine is that a node runs on, for whoever chooses among nodes. In thousandths, 1,000 is all of it."""

import os
import re
from contextlib import suppress
from pathlib import Path

from mesh.events import MachineMeasured

_MEMINFO = Path("/proc/meminfo")
_SIZE = re.compile(r"^(MemTotal|MemAvailable):\s+(\d+) kB$", re.MULTILINE)


def measure() -> MachineMeasured:
    """Look now. What this system does not tell is 0."""
    load, meminfo = 0.0, ""
    with suppress(OSError):
        load = os.getloadavg()[0]
    with suppress(OSError):
        meminfo = _MEMINFO.read_text()
    return MachineMeasured(cpu_permille(load, os.cpu_count() or 1), memory_permille(meminfo))


def cpu_permille(load: float, cores: int) -> int:
    """The share of the cores that so many runnable threads take."""
    return min(round(load * 1_000 / cores), 1_000)


def memory_permille(meminfo: str) -> int:
    """The share of memory that is not available, by the text of /proc/meminfo; 0 if that does not say."""
    sizes_kib = {name: int(size) for name, size in _SIZE.findall(meminfo)}
    total_kib = sizes_kib.get("MemTotal", 0)
    available_kib = sizes_kib.get("MemAvailable")
    if not total_kib or available_kib is None:
        return 0
    return max(round((total_kib - available_kib) * 1_000 / total_kib), 0)
