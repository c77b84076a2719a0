"""A handler that submits tasks of its own, in a whole node."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh import connect_sync
from tests.nodes.cast import APP


@contextmanager
def one_node(directory: Path) -> Iterator[str]:
    """A mesh of one, with the handlers of agent_app. Gives its address."""
    address = f"127.0.0.1:{20_000 + os.getpid() % 2_000 * 4}"
    command = [sys.executable, "-m", "nodes", "node", "run", "--id", "n1", "--bind", address, "--json"]
    command += ["--app", APP, "--data-dir", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
        try:
            assert node.stdout is not None
            assert json.loads(node.stdout.readline())["event"] == "ready"
            yield address
        finally:
            node.terminate()


def test_handlers_submit_tasks_to_the_mesh_they_run_in(tmp_path: Path) -> None:
    """A coroutine awaits three tasks it submitted; a plain function blocks for its own; both twice, over one client."""
    with one_node(tmp_path) as address, connect_sync(address) as mesh:
        for capability in ("submits", "submits_in_thread") * 2:
            handle = mesh.submit(capability, {"count": 3})
            assert handle.result(timeout=20) == [[0], [1], [2]]
            assert mesh.task(f"{handle.id}/2").state == "completed"
