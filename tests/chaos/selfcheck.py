"""`python -m tests.chaos.selfcheck`: are the faults what they are called? Run inside an arena by test_arena.py."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.arena import DISKS, RELAY, WIRES, able_to
from tests.chaos.disks import Disks
from tests.chaos.wires import Wires

PORT = 21_000
_LISTENER = f"""
import select, socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as box:
    box.bind((sys.argv[1], {PORT}))
    box.settimeout(0.3)
    print("listens", flush=True)
    heard = 0
    while True:
        try:
            box.recv(100)
            heard += 1
        except TimeoutError:
            if select.select([sys.stdin], [], [], 0)[0]:  # Closed: nothing more was sent.
                break
print(heard, flush=True)
"""
_SPEAKER = f"""
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as box:
    for _ in range(int(sys.argv[2])):
        box.sendto(b"x", (sys.argv[1], {PORT}))
"""


def heard(wires: Wires, a: int, b: int, datagrams: int = 20) -> int:
    """How many datagrams that `a` sends reach `b`."""
    address = wires.address(b).rpartition(":")[0]
    listener = subprocess.Popen(
        [*wires.inside(b), sys.executable, "-c", _LISTENER, address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert listener.stdout is not None
    listener.stdout.readline()
    speak = [*wires.inside(a), sys.executable, "-c", _SPEAKER, address, str(datagrams)]
    subprocess.run(speak, check=True, timeout=10)
    time.sleep(0.3)  # What the relay holds back is still on its way.
    return int(listener.communicate(timeout=10)[0])


def check_wires() -> dict[str, object]:
    wires = Wires(3)
    try:
        found: dict[str, object] = {"whole": [heard(wires, 1, 2), heard(wires, 2, 1)]}
        wires.cut([(1, 2)])
        found["one way"] = [heard(wires, 1, 2), heard(wires, 2, 1), heard(wires, 1, 3)]
        wires.heal()
        found["healed"] = heard(wires, 1, 2)
        if not able_to(RELAY):
            return found
        wires.slow([(1, 2)], delay_ms=0, jitter_ms=0, loss=0.5)
        found["lossy"] = [heard(wires, 1, 2, 400), heard(wires, 2, 1)]
        wires.slow([(1, 2)], delay_ms=100, jitter_ms=50, loss=0.0)
        found["slow"] = heard(wires, 1, 2)
        found["slow ms"] = round(_connect_ms(wires))
        return found
    finally:
        wires.close()


def _connect_ms(wires: Wires) -> float:
    """How long node 1 takes to connect to node 2."""
    address = wires.address(2).rpartition(":")[0]
    serve = f"import socket; s = socket.create_server(('{address}', {PORT})); print(flush=True); s.accept()"
    server = subprocess.Popen([*wires.inside(2), sys.executable, "-c", serve], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    server.stdout.readline()
    dial = (
        f"import socket, time; t = time.monotonic(); socket.create_connection(('{address}', {PORT}), 5);"
        f"print((time.monotonic() - t) * 1e3)"
    )
    words = subprocess.run(
        [*wires.inside(1), sys.executable, "-c", dial], check=True, timeout=10, capture_output=True, text=True
    ).stdout
    server.kill()
    server.wait(10)
    return float(words)


async def check_disks(root: Path) -> dict[str, object]:
    disks = Disks(root, 2, own=True)
    found: dict[str, object] = {}
    try:
        disks.fill(1)
        found["full"] = [_can_write(disks.path(1)), _can_write(disks.path(2))]
        disks.empty(1)
        found["empty"] = _can_write(disks.path(1))
        disks.freeze(1)
        writing = asyncio.create_task(asyncio.to_thread(_can_write, disks.path(1)))
        await asyncio.wait([writing], timeout=0.5)
        found["hangs"] = not writing.done()
        disks.thaw(1)
        found["thawed"] = await asyncio.wait_for(writing, 5)
        return found
    finally:
        disks.close()


def _can_write(where: Path) -> bool:
    try:
        with (where / "note").open("wb") as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    return True


def main() -> int:
    """Prints one document; a part this machine cannot do is absent."""
    found: dict[str, object] = {}
    if able_to(WIRES):
        found["wires"] = check_wires()
    if able_to(DISKS):
        with tempfile.TemporaryDirectory(prefix="mesh-chaos-", ignore_cleanup_errors=True) as root:
            found["disks"] = asyncio.run(check_disks(Path(root)))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    from tests.chaos.arena import enter

    enter(sys.argv[1:], module="tests.chaos.selfcheck")
    sys.exit(main())
