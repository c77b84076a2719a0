"""Writes RESULTS.md: what a campaign came to, and how long a mesh takes to get over a death. Never edited by hand."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.campaign import Outcome, Sum

RESULTS = Path(__file__).parent / "RESULTS.md"
HEAD = (
    "# What was measured\n\nWritten by `python -m tests.chaos` and `python -m tests.chaos.failover` with `--record`.\n"
)


def write_campaign(outcomes: Sequence[Outcome], total: Sum, seconds: float) -> None:
    """Replace the part about faults."""
    lines = [
        f"{total.configurations} configurations, {seconds:g} s of faults each, {total.seconds / 60:.0f} minutes, "
        f"on {machine()}: **{total.acked:,} submits acknowledged, {total.lost} lost, {total.twice} completed twice; "
        f"{total.kills_and_pauses:,} kills and pauses; {total.fenced:,} stale completions refused**; "
        f"{total.unknown:,} submits without an answer, {total.skipped} configurations not run.",
        "",
        "| configuration | verdict | acked | unknown | lost | twice | stale refused | silence | at rest | faults |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for outcome in outcomes:
        verdict = outcome.verdict
        if verdict is None:
            lines.append(f"| {outcome.configuration.name} | not run: {outcome.why_not} | | | | | | | | |")
            continue
        strikes = ", ".join(f"{kind} {count}" for kind, count in sorted(verdict.strikes.items()))
        cells = [
            verdict.name,
            "good" if verdict.good else "**bad**",
            *(f"{count:,}" for count in (verdict.acked, verdict.unknown, verdict.lost, verdict.twice, verdict.fenced)),
            f"{verdict.silence_s:.1f} s",
            f"{outcome.settle_s:.1f} s",
            strikes,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {problem}" for problem in total.problems)]
    replace_part("Under faults", "\n".join(lines).rstrip())


def replace_part(title: str, text: str) -> None:
    """Put a part in the place of its predecessor, or at the end."""
    parts = RESULTS.read_text(encoding="utf-8").split("\n## ") if RESULTS.exists() else [HEAD]
    kept = {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts[1:]}
    kept[title] = text
    body = "".join(f"\n## {name}\n\n{words}\n" for name, words in kept.items())
    RESULTS.write_text(HEAD + body, encoding="utf-8")


def machine() -> str:
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
