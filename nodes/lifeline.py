"""A node started by `mesh up`, `mesh demo` or `mesh bench` ends when that ends, however it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

VARIABLE = "MESH_DIE_WITH_PARENT"
"""Environment variable: the process id of the parent whose death this process shall not survive."""

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """If asked to by the environment, be killed when the parent dies. Linux only; elsewhere nothing happens."""
    parent = os.environ.pop(VARIABLE, "")
    if not parent.isdecimal() or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # It died before this process could ask to be told.
        os._exit(1)
