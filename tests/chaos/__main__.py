"""`python -m tests.chaos`: real processes, real ZeroMQ, real disks, real faults. See README.md beside this file."""

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.chaos.arena import enter
from tests.chaos.campaign import Sum, add_up, run_all
from tests.chaos.configurations import CONFIGURATIONS, SHORT_FORM
from tests.chaos.record import write_campaign

SECONDS = 90.0
SHORT_SECONDS = 12.0
FULL_ACKED, FULL_STRIKES, FULL_CONFIGURATIONS = 1_000_000, 1_000, 24


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CONFIGURATION", help="all, if none is named")
    parser.add_argument("--list", action="store_true", help="name the configurations and stop")
    parser.add_argument("--short", action="store_true", help="the short form, in under three minutes")
    parser.add_argument("--seconds", type=float, help="of faults in each configuration")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="where to keep the directories of bad runs")
    parser.add_argument("--record", action="store_true", help="write the figures to RESULTS.md")
    parser.add_argument("--json", action="store_true", help="the sum as one document on stdout")
    chosen = parser.parse_args(words)
    unknown = [name for name in chosen.names if name not in CONFIGURATIONS]
    if unknown:
        parser.error(f"no configuration is called {unknown[0]}; --list names them")
    return chosen


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(words: list[str]) -> int:
    chosen = arguments(words)
    if chosen.list:
        print("\n".join(CONFIGURATIONS))
        return 0
    enter(words)
    names = chosen.names or (SHORT_FORM if chosen.short else CONFIGURATIONS)
    seconds = chosen.seconds or (SHORT_SECONDS if chosen.short else SECONDS)
    whole = not chosen.names and not chosen.short and seconds >= SECONDS
    with tempfile.TemporaryDirectory(prefix="mesh-chaos-", ignore_cleanup_errors=True) as root:
        running = run_all(
            [CONFIGURATIONS[name] for name in names],
            seconds=seconds,
            seed=chosen.seed,
            root=Path(root),
            say=say,
            keep=chosen.keep,
        )
        outcomes = asyncio.run(running)
    total = add_up(
        outcomes,
        acked_min=FULL_ACKED if whole else 1,
        strikes_min=FULL_STRIKES if whole else 1,
        run_min=FULL_CONFIGURATIONS if whole else 1,
    )
    report(total)
    if chosen.json:
        print(json.dumps(asdict(total)))
    if chosen.record:
        write_campaign(outcomes, total, seconds)
    return 1 if total.problems else 0


def report(total: Sum) -> None:
    say(
        f"{total.configurations} configurations ({total.good} good, {total.skipped} not run), {total.seconds:,.0f} s: "
        f"{total.acked:,} submits acknowledged, {total.lost} lost, {total.twice} completed twice; "
        f"{total.kills_and_pauses:,} kills and pauses; {total.fenced:,} stale completions refused"
    )
    for problem in total.problems:
        say(f"BAD: {problem}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
