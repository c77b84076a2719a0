"""Each example runs as it stands, in a process of its own, and says what its text promises."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.real_mesh import real_mesh

EXAMPLES = Path(__file__).parent.parent / "examples"
OUTPUTS = {
    "hello.py": "hello, Ada\n",
    "retries_and_dead_letters.py": (
        "gave up: page-1 failed after 2 attempt(s): RuntimeError: out of paper (attempt 2)\n"
        "dead letters: [('page-1', 2)]\n"
        "page 1 printed at attempt 1\n"
    ),
    "s0_cluster.py": "t1\n{'t1': {'node': 'n1', 'capability': 'code', 'payload': {'prompt': 'write sort'}}}\n",
}


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=50, cwd=EXAMPLES.parent, check=False
    )


def test_every_example_is_run_here() -> None:
    """A new example wants a line above, or a story below."""
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted([*OUTPUTS, "raw_client.py"])


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_example_does_what_it_says(name: str) -> None:
    """Output as a reader would see it; nothing on stderr."""
    done = run(str(EXAMPLES / name))
    assert (done.returncode, done.stdout, done.stderr) == (0, OUTPUTS[name], "")


def test_any_language_can_submit(tmp_path: Path) -> None:
    """ZeroMQ and MessagePack alone, against a real node."""

    async def story() -> None:
        async with real_mesh(tmp_path, nodes=1) as (mesh, _):
            payload = json.dumps({"path": str(mesh.trace), "value": 7})
            done = await asyncio.to_thread(
                run, str(EXAMPLES / "raw_client.py"), "127.0.0.1", str(mesh.base), "work", payload
            )
            assert (done.returncode, json.loads(done.stdout)) == (
                0,
                {
                    "state": "completed",
                    "result": {"node": "n1", "attempt": 1, "value": 7},
                    "error": "",
                    "node": "n1",
                    "attempts": 1,
                },
            )

    asyncio.run(story())
