"""tests/sim/CAMPAIGNS.md: every campaign that was recorded, and what all of them come to."""

import re

from mesh.sim.campaign import Totals
from mesh.sim.coverage import REQUIRED

BEGIN, END = "<!-- campaigns begin -->", "<!-- campaigns end -->"
TOTAL_BEGIN, TOTAL_END = "<!-- total begin -->", "<!-- total end -->"
HEAD = (
    "| commit | seeds | events | virtual hours | happened | findings |",
    "|---|---|---|---|---|---|",
)
_ROW = re.compile(r"^\| `[^`]*` \| (\d+)-(\d+)(?: at \d+ %)? \| ([\d,]+) \| ([\d.]+) \|")


def row(totals: Totals, seeds: range, commit: str, percent: int = 100) -> str:
    """One campaign as a line of the table. `percent`: of their length that its seeds were run for."""
    happened = sum(1 for name in REQUIRED if totals.coverage.get(name))
    findings = ", ".join(
        f"seed {failure.seed}: {failure.invariant}" for failure in sorted(totals.failures, key=lambda one: one.seed)
    )
    hours = totals.virtual_ms / 3_600_000
    cut = "" if percent == 100 else f" at {percent} %"
    return (
        f"| `{commit}` | {seeds.start}-{seeds.stop - 1}{cut} | {totals.events:,} | {hours:.1f} "
        f"| {happened} of {len(REQUIRED)} required, {len(totals.coverage)} kinds in all | {findings or 'none'} |"
    )


def with_row(text: str, line: str) -> str:
    """The logbook with one more campaign, and the total made anew."""
    rows = [known for known in _between(text, BEGIN, END) if _ROW.match(known)]
    rows.append(line)
    seeds = events = 0
    hours = 0.0
    for known in rows:
        found = _ROW.match(known)
        assert found is not None, f"not a line of the table: {known}"
        seeds += int(found[2]) - int(found[1]) + 1
        events += int(found[3].replace(",", ""))
        hours += float(found[4])
    campaigns = "1 campaign" if len(rows) == 1 else f"{len(rows)} campaigns"
    total = f"**{seeds:,} seeds, {events:,} events, {hours:,.1f} virtual hours, in {campaigns}.**"
    text = _replaced(text, BEGIN, END, [*HEAD, *rows])
    return _replaced(text, TOTAL_BEGIN, TOTAL_END, [total])


def _between(text: str, begin: str, end: str) -> list[str]:
    return text.partition(begin)[2].partition(end)[0].strip().splitlines()


def _replaced(text: str, begin: str, end: str, lines: list[str]) -> str:
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return "\n".join([before + begin, *lines, end + after])
