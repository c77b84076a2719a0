"""Has a task become dearer since its price was last written down? CPU over all processes, in multiples of the hot path.

    python -m bench.guard              three rounds, compared with bench/last.json; exit 1 if dearer than is tolerated
    python -m bench.guard --record     the same, and what was found is the price from now on

It gates nothing: a machine that is busy with other things moves the ratio by a tenth or two. Record on a quiet one.
"""

from __future__ import annotations

import asyncio
import platform
import time
from enum import StrEnum
from pathlib import Path
from statistics import median

import click
import msgspec

from bench import hot_path
from bench.run import run

LAST = Path(__file__).with_name("last.json")
NODES = 3
TOLERANCE_PERCENT = 15.0


class Price(msgspec.Struct):
    """What is written down: the median ratio, those it is the median of, when and on what."""

    version: int
    """Of the hot path it is a multiple of."""
    ratio: float
    ratios: list[float]
    tasks: int
    at: str
    python: str


class Verdict(StrEnum):
    """What a comparison comes to."""

    SAME = "within the tolerance"
    DEARER = "dearer than is tolerated"
    CHEAPER = "cheaper by more than the tolerance: record it"
    UNKNOWN = "nothing to compare with: record it, on a quiet machine"

    @property
    def passes(self) -> bool:
        """A comparison that could not be made is no pass."""
        return self is Verdict.SAME or self is Verdict.CHEAPER


def judge(found: Price, last: Price | None, tolerance_percent: float) -> Verdict:
    """Prices by another version of the hot path, or of another number of tasks, say nothing of each other."""
    if last is None or (last.version, last.tasks) != (found.version, found.tasks):
        return Verdict.UNKNOWN
    if found.ratio > last.ratio * (1 + tolerance_percent / 100):
        return Verdict.DEARER
    if found.ratio < last.ratio * (1 - tolerance_percent / 100):
        return Verdict.CHEAPER
    return Verdict.SAME


def read(path: Path) -> Price | None:
    """None: nothing is written there. Raises ClickException if it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Price)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise click.ClickException(f"{path} cannot be read: {error}") from None


def write(path: Path, price: Price) -> None:
    """Whole or not at all."""
    half = path.with_name(f"{path.name}.half")
    half.write_bytes(msgspec.json.format(msgspec.json.encode(price), indent=2) + b"\n")
    half.replace(path)


def sentence(found: Price, last: Price | None, verdict: Verdict) -> str:
    """One line for a person."""
    rounds = ", ".join(f"{ratio:g}" for ratio in found.ratios)
    then = "" if last is None else f"; {last.ratio:g} on {last.at}"
    return f"a task costs {found.ratio:g} x hot path ({rounds}){then}: {verdict}"


async def measure(rounds: int, tasks: int) -> Price:
    """A mesh of its own and a hot path of its own every round, so that both meet the same hour."""
    ratios = []
    for _ in range(rounds):
        figures = await run(
            ("submit",),
            nodes=NODES,
            tasks=tasks,
            passes=2,
            latency_tasks=1,
            rounds=1,
            say=lambda words: click.echo(words, err=True),
        )
        assert figures.hot_path_ratio is not None, "submit was asked for"
        ratios.append(figures.hot_path_ratio)
    at = time.strftime("%Y-%m-%d", time.gmtime())
    return Price(hot_path.VERSION, round(median(ratios), 2), ratios, tasks, at, platform.python_version())


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--tasks", type=click.IntRange(min=100), default=10_000, show_default=True)
@click.option(
    "--tolerance", type=click.FloatRange(min=0), default=TOLERANCE_PERCENT, show_default=True, help="Percent."
)
@click.option("--record", is_flag=True, help="Write down what was found.")
@click.option("--last", type=click.Path(path_type=Path), default=LAST, help="Where it is written down.")
def main(rounds: int, tasks: int, tolerance: float, record: bool, last: Path) -> None:
    """Compare the CPU price of a task with the last one that was recorded."""
    before = read(last)
    found = asyncio.run(measure(rounds, tasks))
    verdict = judge(found, before, tolerance)
    click.echo(sentence(found, before, verdict))
    if record:
        write(last, found)
    elif not verdict.passes:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
