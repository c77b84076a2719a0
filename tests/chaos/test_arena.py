"""A fault that does not happen proves nothing: what the arena does to wires and disks is checked from inside."""

import json
import subprocess
import sys

import pytest

from tests.chaos.wires import ROOT


@pytest.mark.timeout(60)
def test_cuts_cut_one_way_and_full_disks_are_full() -> None:
    """Datagrams counted at the far end of whole, cut, healed, lossy and slow wires; a file written to sick disks."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.selfcheck"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    found = json.loads(done.stdout)
    if not found:
        pytest.skip("this machine lets us make neither networks nor file systems of our own")
    if wires := found.get("wires"):
        if "slow ms" in wires:
            lost = 400 - wires.pop("lossy")[0]
            assert 120 < lost < 280, "half of 400, give or take eight deviations"
            assert wires.pop("slow ms") >= 100
            assert wires.pop("slow") == 20
        assert wires == {"whole": [20, 20], "one way": [0, 20, 20], "healed": 20}
    if disks := found.get("disks"):
        assert disks == {"full": [False, True], "empty": True, "hangs": True, "thawed": True}
