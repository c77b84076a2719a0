"""A world of our own for a run: namespaces in which wires can be cut and disks filled, and which end with the run.

Network, mounts and processes are each in a new namespace, with a tiny init that dies with whoever started it. So the
host sees none of it, and nothing is left behind however the run ends.
"""

import os
import shlex
import shutil
import subprocess
import sys
from functools import cache

VARIABLE = "CHAOS_ARENA"
"""Environment variable: what this process may do. Set by `enter`, absent outside."""

WIRES, RELAY, DISKS = "wires", "relay", "disks"
"""To cut directions; to slow them down; to fill disks up and make them hang."""

_KINDS = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_AS_ROOT: tuple[str, ...] = _KINDS
_AS_ANYONE: tuple[str, ...] = ("--map-root-user", *_KINDS)
_TRY_WIRES = "command -v ss nsenter && ip link add chaos0 type bridge && ip link add chaos1 type veth peer name chaos2"
_TRY_RELAY = "command -v bridge && ip tuntap add dev chaos3 mode tap"
_TRY_DISKS = """
    f=$(mktemp) && trap 'umount $f.d; rm -rf $f $f.d' EXIT && truncate -s 8M $f && mkfs.ext4 -q -F $f && mkdir $f.d &&
    mount -o loop $f $f.d && fsfreeze --freeze $f.d && fsfreeze --unfreeze $f.d
"""
_TRIES = ((WIRES, _TRY_WIRES), (RELAY, _TRY_RELAY), (DISKS, _TRY_DISKS))
PROBE_TIMEOUT_S = 10


def enter(arguments: list[str], module: str = "tests.chaos") -> None:
    """Become the same program inside an arena, if this machine lets us; else return, and less can be done."""
    if VARIABLE in os.environ or not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return
    for flags in (_AS_ROOT, _AS_ANYONE):
        able = [what for what, how in _TRIES if _can(flags, how)]
        if WIRES in able:
            program = shlex.join([sys.executable, "-m", module, *arguments])
            os.environ[VARIABLE] = " ".join(able)
            # The shell stays as process 1 of the new world and collects what has no parent any more.
            os.execvp("unshare", ["unshare", *flags, "sh", "-c", f"{program}; exit $?"])


@cache
def able_to(what: str) -> bool:
    """Whether this process may cut wires, or make disks of its own."""
    return what in os.environ.get(VARIABLE, "").split()


def do(*command: str, text: str = "") -> str:
    """Run a command of the system; its output. Raises CalledProcessError, and TimeoutExpired after 10 s."""
    return subprocess.run(
        command, input=text, text=True, capture_output=True, check=True, timeout=PROBE_TIMEOUT_S
    ).stdout


def _can(flags: tuple[str, ...], script: str) -> bool:
    try:
        do("unshare", *flags, "sh", "-c", script)
    except (subprocess.SubprocessError, OSError):
        return False
    return True
