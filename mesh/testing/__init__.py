"""A whole mesh in one process, for the tests of those who use it; and their handlers alone, without one.

    async with mesh.testing.local(app, nodes=5) as m:
        handle = await m.submit("code", {"prompt": "write sort"})
        await m.kill(m.leader)
        assert await handle == "done"
        m.assert_invariants()

The nodes are real (`mesh.node.Node`), and so are elections, leases, retries and heartbeats. Only what is outside a node
is replaced: the network by calls on an event loop, disks by memory, child processes by coroutines and threads of this
process; and the clock, which is virtual: an hour passes as fast as this machine can compute it.

`LocalMesh` is the same with a real clock, on the running event loop. `run_once` and `crash_at_each_checkpoint` try a
single handler. Names are loaded when first used: pytest imports this package wherever it is installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.testing.blocking_mesh import BlockingVirtualMesh
    from mesh.testing.driving import Stuck
    from mesh.testing.handlers import crash_at_each_checkpoint, run_once
    from mesh.testing.local_mesh import LocalMesh
    from mesh.testing.virtual_mesh import VirtualMesh, local

__all__ = [
    "BlockingVirtualMesh",
    "LocalMesh",
    "Stuck",
    "VirtualMesh",
    "crash_at_each_checkpoint",
    "local",
    "run_once",
]

_HOME = {
    "BlockingVirtualMesh": "mesh.testing.blocking_mesh",
    "LocalMesh": "mesh.testing.local_mesh",
    "Stuck": "mesh.testing.driving",
    "VirtualMesh": "mesh.testing.virtual_mesh",
    "crash_at_each_checkpoint": "mesh.testing.handlers",
    "local": "mesh.testing.virtual_mesh",
    "run_once": "mesh.testing.handlers",
}
"""Public name -> the module it lives in."""


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'mesh.testing' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
