"""One small comparison of the mesh with nobody, by its command: it starts, measures, kills nothing, leaves nothing."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from bench.compare.records import Comparison
from bench.compare.shelf import ROOT


def test_the_row_of_the_mesh_has_figures_and_three_files(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench.compare", "--only", "mesh,dask", "--rounds", "1", "--tasks", "100"),
            *("--in-flight", "50", "--latency-tasks", "5", "--no-kills"),
            *("--peers", str(tmp_path / "none"), "--out", str(tmp_path / "out")),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode((tmp_path / "out" / "compare.json").read_bytes(), type=Comparison)
    assert [row.label.name for row in found.rows] == ["mesh"]
    assert list(found.skipped) == ["dask"]
    (one,) = found.rows[0].turns
    assert one.problem == ""
    assert found.rows[0].median == one
    assert one.tasks_per_s > 0
    assert 0 < one.p50_ms <= one.p99_ms
    assert "| agent-mesh |" in done.stdout
    assert (tmp_path / "out" / "compare.md").read_text() in done.stdout
    assert (tmp_path / "out" / "compare.svg").read_text().startswith("<svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"], "what it worked in is gone"
