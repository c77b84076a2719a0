"""Running `mesh` as users do: a process, its output, its exit code."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodes.local_mesh import free_base_port

ROOT = Path(__file__).parents[2]
APP = f"{ROOT / 'tests' / 'client' / 'app.py'}:app"


@dataclass(frozen=True)
class Ran:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its one JSON document."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESH_")}
    return kept | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def mesh(*arguments: str, stdin: str | None = None, **variables: str) -> Ran:
    """Run `mesh` with these arguments; no output may hold a traceback of ours."""
    ran = subprocess.run(
        [sys.executable, "-m", "nodes", *arguments],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        env=environment() | variables,
        timeout=50,
        check=False,
    )
    assert "Traceback" not in ran.stderr, ran.stderr
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@dataclass
class Up:
    """A running `mesh up`."""

    process: "subprocess.Popen[str]"
    ready: Any
    peer: str

    def mesh(self, *arguments: str, stdin: str | None = None) -> Ran:
        return mesh(*arguments, "--peer", self.peer, stdin=stdin)


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "nodes", "up", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


@contextmanager
def three_up() -> Iterator[Up]:
    """A mesh of three nodes with the app of these tests."""
    base = free_base_port(3)
    process = start("--app", APP, "--base-port", str(base), "--heartbeat-interval-ms", "200")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    try:
        yield Up(process, json.loads(line), f"127.0.0.1:{base},127.0.0.1:{base + 10}")
    finally:
        process.terminate()
        process.communicate(timeout=20)
