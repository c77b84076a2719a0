"""A short campaign gates every change; the same seed is the same run everywhere; what once failed is run again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.sim.ablations import find, removed
from mesh.sim.campaign import Totals, shrink, tell
from mesh.sim.coverage import CAMPAIGN_SEEDS_MIN, REQUIRED
from mesh.sim.world import Verdict, run_seed

ROOT = Path(__file__).parents[2]
SEEDS = 60
CHUNK = 6
REGRESSIONS = [
    int(line.split()[0])
    for line in (ROOT / "tests" / "sim" / "regressions.txt").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.startswith("#")
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_seed_breaks_a_promise(first: int) -> None:
    """Faults, healing, fresh work; every invariant after every event."""
    for seed in range(first, first + CHUNK):
        verdict = run_seed(seed)
        assert not verdict.invariant, "\n".join(tell(seed)[1])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", REGRESSIONS)
def test_what_once_failed_is_run_again(seed: int) -> None:
    verdict = run_seed(seed)
    assert not verdict.invariant, "\n".join(tell(seed)[1])


@pytest.mark.timeout(300)
def test_the_same_seed_is_the_same_run_in_any_process() -> None:
    """Two processes, two hash seeds, one trace: nothing hangs on the order of a set, an id or a clock."""
    seeds = (1, 7, 12)
    script = f"from mesh.sim.world import run_seed\nfor seed in {seeds}: print(run_seed(seed).trace)"

    def traces(hash_seed: str) -> list[str]:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        ran = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        return ran.stdout.split()

    first, second = traces("1"), traces("4242")
    assert first == second
    assert len(set(first)) == len(seeds)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "invariant"),
    [
        ("ack-before-durable", "12"),
        ("unvalidated-commit", "6"),
        ("vote-for-shorter-log", "3"),
        ("retry-charges-nothing", "18"),
        ("outcome-told-once", "26"),
        ("grants-not-remembered", "user code"),
        ("learner-ack-counts", "5"),
        ("change-before-own-commit", "15"),
        ("configuration-not-rolled-back", "15"),
        ("keys-trusted", "28"),
        ("many-probes", "29"),
        ("windows-never-last", "33"),
    ],
)
def test_a_safeguard_removed_is_missed(name: str, invariant: str) -> None:
    """Each is found within a few seeds, by the invariant that it breaks; and afterwards everything is as it was."""
    found = find(name, seeds_max=40)
    assert found.seeds, f"{name} was not found in {found.tried} seeds"
    assert found.invariant.startswith(invariant), found.summary
    assert not run_seed(2).invariant


def test_a_failure_is_told_with_its_command_its_invariant_and_its_story() -> None:
    """With retries that charge nothing, the first failed attempt breaks 18; the story is that of its task."""
    with removed("retry-charges-nothing"):
        verdict, lines = tell(1)
    assert verdict.invariant == "18 one state each"
    assert lines[-1] == "again: .venv/bin/python -m mesh.sim seed 1"
    assert f"the story of {verdict.task_id} (virtual ms, node, event, -> effect):" in lines
    assert any("FailAttempt" in line and verdict.task_id in line for line in lines)


def test_a_plan_that_breaks_nothing_does_not_shrink() -> None:
    plan, verdict = shrink(3)
    assert (plan.seed, verdict.invariant) == (3, "")


def verdict_of(seed: int, *happened: str, invariant: str = "") -> Verdict:
    return Verdict(seed, 100, "trace", 1_000, dict.fromkeys(happened, 1), invariant, "detail", "")


def test_a_long_campaign_in_which_something_never_happened_is_vacuous() -> None:
    """199 seeds may lack it; of 200 all that is required must have happened."""
    totals = Totals()
    for seed in range(CAMPAIGN_SEEDS_MIN - 1):
        totals.add(verdict_of(seed, *REQUIRED[1:]))
    assert (totals.missing, totals.is_passed) == ([], True)
    totals.add(verdict_of(CAMPAIGN_SEEDS_MIN, *REQUIRED[1:]))
    assert (totals.missing, totals.is_passed) == ([REQUIRED[0]], False)
    assert totals.lines(1.0)[-3:] == [
        f"vacuous: never happened: {REQUIRED[0]}",
        "",
        "200 seeds, 20000 events, 200 virtual s in 1 s: vacuous",
    ]


def test_a_campaign_with_a_broken_seed_fails_and_says_which() -> None:
    totals = Totals()
    totals.add(verdict_of(7, "crash", invariant="1 one leader per term"))
    told = totals.lines(1.0)
    assert not totals.is_passed
    assert "seed 7 breaks 1 one leader per term" in told
    assert "    again, with its story: .venv/bin/python -m mesh.sim seed 7" in told
