"""The short form of `make chaos`, for every change: six ways to hurt a mesh, twelve seconds each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.configurations import CONFIGURATIONS, SHORT_FORM
from tests.chaos.wires import ROOT


@pytest.mark.timeout(400)
def test_a_hurt_mesh_loses_nothing_and_completes_nothing_twice(tmp_path: Path) -> None:
    """Kills, pauses, a leader cut off, one-way cuts, a full disk, and all of it at once. Nothing here is timed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--short", "--json", "--keep", str(tmp_path / "bad")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
    )
    assert done.stdout, done.stderr
    total = json.loads(done.stdout)
    assert total["problems"] == [], done.stderr
    assert (done.returncode, total["lost"], total["twice"]) == (0, 0, 0), done.stderr
    assert total["fenced"] > 0, "stale completions were refused, or the test does not bite"
    assert total["configurations"] + total["skipped"] == len(SHORT_FORM)
    on_any_machine = [name for name in SHORT_FORM if not (CONFIGURATIONS[name].wires or CONFIGURATIONS[name].disks)]
    assert total["configurations"] >= len(on_any_machine) >= 2
