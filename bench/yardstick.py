"""How fast this machine is just now, so that figures from noisy machines can be compared: quote ratios to this.

A plain loop in one process: encode tasks, append them to a file in batches with fsync, send them through a socket pair,
read them back, decode them. Nothing of the mesh is in it.
"""

import os
import socket
import tempfile
import time
from dataclasses import dataclass

import msgspec

TASKS = 20_000
BATCH = 32
PASSES = 3


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The best of some passes: CPU microseconds and wall microseconds per task, and one fsync in milliseconds."""

    cpu_us: float
    wall_us: float
    fsync_ms: float


def measure(passes: int = PASSES) -> Yardstick:
    found = [_one_pass() for _ in range(passes)]
    return Yardstick(
        round(min(cpu for cpu, _, _ in found), 2),
        round(min(wall for _, wall, _ in found), 2),
        round(min(sync for _, _, sync in found), 3),
    )


def _one_pass() -> tuple[float, float, float]:
    encode = msgspec.msgpack.Encoder().encode
    decode = msgspec.msgpack.Decoder().decode
    near, far = socket.socketpair()
    synced_s = 0.0
    with near, far, tempfile.TemporaryFile() as log:
        cpu, wall = time.process_time(), time.perf_counter()
        for start in range(0, TASKS, BATCH):
            batch = [[f"t{start + i:08d}", "noop", 5, {"n": start + i, "data": "x" * 60}] for i in range(BATCH)]
            data = encode(batch)
            log.write(data)
            log.flush()
            before = time.perf_counter()
            os.fsync(log.fileno())
            synced_s += time.perf_counter() - before
            near.sendall(len(data).to_bytes(4, "little") + data)
            size = int.from_bytes(far.recv(4, socket.MSG_WAITALL), "little")
            back = decode(far.recv(size, socket.MSG_WAITALL))
            if len(back) != BATCH:
                raise RuntimeError("the socket pair lost something")
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return cpu / TASKS * 1e6, wall / TASKS * 1e6, synced_s / (TASKS / BATCH) * 1e3
