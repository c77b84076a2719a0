"""A whole mesh in one process and one event loop, for the tests of those who use it.

    async with LocalMesh(app) as mesh:
        handle = await mesh.submit("code", {"prompt": "write sort"})
        assert await handle.result(timeout=5) == "done"

The nodes are real (`mesh.node.Node`), and so are elections, leases, retries and heartbeats; time is real too. Only what
is outside a node is replaced: the network by calls on the loop, disks by memory, child processes by coroutines and
threads of this process. A handler that blocks the loop therefore stops the whole mesh while it does.
"""

from mesh.testing.local_mesh import LocalMesh

__all__ = ["LocalMesh"]
