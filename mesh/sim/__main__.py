"""The simulator from the command line.

python -m mesh.sim campaign --seeds 500 --first 0 --jobs 2    many seeds; fails if one breaks a promise, or if
                                                              it is vacuous; --record writes it down
python -m mesh.sim seed 42                                    one seed again, with its story if it breaks something
python -m mesh.sim shrink 42                                  the same failure from a smaller plan
python -m mesh.sim ablate [NAME ...] --seeds 1000             one safeguard removed at a time: how many seeds until
                                                              found, and how small that failure can be made
"""

import argparse
import functools
import gc
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mesh.sim.ablation import Found
from mesh.sim.ablations import ABLATIONS, find, table, with_table
from mesh.sim.campaign import Totals, run_cut, shrink, tell
from mesh.sim.logbook import row, with_row
from mesh.sim.world import Verdict

README = Path(__file__).parents[2] / "tests" / "sim" / "README.md"
LOGBOOK = README.with_name("CAMPAIGNS.md")
PROGRESS_S = 20.0
COLLECT_SELDOM = (100_000, 50, 100)
"""A run makes few cycles and many short-lived things: looking for cycles all the time costs a twelfth of it."""
SHRINKS_MAX = 8
"""Runs spent on making the failure behind each ablation smaller."""


def main(arguments: list[str] | None = None) -> int:
    """Parse and run. Returns the exit code: 0 passed, 1 something is broken."""
    parser = argparse.ArgumentParser(prog="python -m mesh.sim", description="The whole mesh under a seeded clock.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    campaign = verbs.add_parser("campaign", help="many seeds")
    campaign.add_argument("--seeds", type=int, default=500)
    campaign.add_argument("--first", type=int, default=0)
    campaign.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    campaign.add_argument(
        "--percent", type=int, default=100, choices=range(1, 101), metavar="1-100", help="of the length"
    )
    campaign.add_argument("--record", action="store_true", help="write it down in tests/sim/CAMPAIGNS.md")
    one = verbs.add_parser("seed", help="one seed again")
    one.add_argument("seed", type=int)
    smaller = verbs.add_parser("shrink", help="a failing seed made smaller")
    smaller.add_argument("seed", type=int)
    ablate = verbs.add_parser("ablate", help="one safeguard removed at a time")
    ablate.add_argument("names", nargs="*", choices=[[], *ABLATIONS], default=[])
    ablate.add_argument("--seeds", type=int, default=1_000)
    ablate.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    if options.verb == "campaign":
        seeds = range(options.first, options.first + options.seeds)
        return run_campaign(seeds, options.jobs, is_recorded=options.record, percent=options.percent)
    if options.verb == "seed":
        verdict, lines = tell(options.seed)
        print("\n".join(lines))
        return 1 if verdict.invariant else 0
    if options.verb == "shrink":
        return run_shrink(options.seed)
    return run_ablations(options.names or list(ABLATIONS), options.seeds, options.jobs)


def run_campaign(seeds: range, jobs: int, *, is_recorded: bool = False, percent: int = 100) -> int:
    """Every seed, in several processes; a line of progress now and then."""
    totals = Totals()
    commit = _commit() if is_recorded else ""  # Asked now: whoever works on meanwhile does not change what runs.
    began_s = said_s = time.monotonic()
    for verdict in _spread(seeds, jobs, percent):
        totals.add(verdict)
        if verdict.invariant:
            print(f"seed {verdict.seed} breaks {verdict.invariant}", file=sys.stderr, flush=True)
        if time.monotonic() - said_s > PROGRESS_S:
            said_s = time.monotonic()
            print(f"{totals.seeds} of {len(seeds)} seeds, {len(totals.failures)} failed", file=sys.stderr, flush=True)
    print("\n".join(totals.lines(time.monotonic() - began_s)))
    if is_recorded:
        line = row(totals, seeds, commit, percent)
        LOGBOOK.write_text(with_row(LOGBOOK.read_text(encoding="utf-8"), line), encoding="utf-8")
    for failure in totals.failures[:1]:
        print("\n".join(tell(failure.seed)[1]))
    return 0 if totals.is_passed else 1


def _spread(seeds: Iterable[int], jobs: int, percent: int) -> Iterator[Verdict]:
    run = functools.partial(run_cut, percent=percent)
    if jobs <= 1:
        gc.set_threshold(*COLLECT_SELDOM)
        yield from map(run, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, gc.set_threshold, COLLECT_SELDOM) as pool:
        yield from pool.imap_unordered(run, seeds, chunksize=4)


def _commit() -> str:
    """The commit that runs, with a + if the code differs from it."""

    def ask(*arguments: str) -> str:
        asked = subprocess.run(["git", *arguments], cwd=LOGBOOK.parent, capture_output=True, text=True, check=True)
        return asked.stdout.strip()

    return ask("rev-parse", "--short=10", "HEAD") + ("+" if ask("status", "--porcelain", "--", "../../mesh") else "")


def run_shrink(seed: int) -> int:
    plan, verdict = shrink(seed)
    print("\n".join(tell(seed, plan)[1]))
    return 1 if verdict.invariant else 0


def run_ablations(names: list[str], seeds_max: int, jobs: int) -> int:
    """Each in a process of its own; the whole table goes into tests/sim/README.md."""
    found: list[Found] = []
    hunt = functools.partial(find, seeds_max=seeds_max, tries_max=SHRINKS_MAX)
    with multiprocessing.get_context("spawn").Pool(
        max(jobs, 1), gc.set_threshold, COLLECT_SELDOM, maxtasksperchild=1
    ) as pool:
        for result in pool.imap(hunt, names, chunksize=1):
            found.append(result)
            print(f"{result.name}: {result.summary}", flush=True)
    if len(names) == len(ABLATIONS):
        README.write_text(with_table(README.read_text(encoding="utf-8"), table(found)), encoding="utf-8")
    return 0 if all(result.seeds for result in found) else 1


if __name__ == "__main__":
    sys.exit(main())
