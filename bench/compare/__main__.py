"""The mesh and other systems on the same work, in turn.

python -m bench.compare --install              the first time: fetches the others into a folder to be thrown away
python -m bench.compare --only mesh,celery     three rounds, medians, then what is lost when something is killed
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path

import click
import msgspec

from bench.compare.chart import chart
from bench.compare.compare import compare, folder_of_peers, present
from bench.compare.records import Comparison, Settings
from bench.compare.roster import ROSTER
from bench.compare.shelf import Shelf
from bench.compare.stage import adopt_orphans
from bench.compare.table import table

OUT = Path("bench") / "out"


def _names(only: str) -> list[str]:
    names = [name.strip() for name in only.split(",") if name.strip()] or list(ROSTER)
    unknown = [name for name in names if name not in ROSTER]
    if unknown:
        raise click.BadParameter(f"{unknown[0]} is none of {', '.join(ROSTER)}", param_hint="--only")
    return names


def _say(words: str) -> None:
    click.echo(words, err=True)


async def _bounded(comparing: asyncio.Task[Comparison]) -> Comparison:
    """SIGTERM ends it as an interrupt does: in order, with no process left."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, comparing.cancel)
    return await comparing


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--tasks", type=click.IntRange(min=10), default=10_000, show_default=True)
@click.option("--in-flight", type=click.IntRange(min=1), default=2_000, show_default=True)
@click.option("--latency-tasks", type=click.IntRange(min=5), default=300, show_default=True)
@click.option("--nap-tasks", type=click.IntRange(min=20), default=200, show_default=True, help="In the kills.")
@click.option("--kills/--no-kills", default=True, show_default=True)
@click.option("--only", default="", help=f"Some of {','.join(ROSTER)}.")
@click.option("--install", is_flag=True, help="Fetch what is missing: pip, and unpacked Debian packages.")
@click.option("--peers", type=click.Path(path_type=Path), help="Where the other systems are installed.")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
@click.option("--turn-timeout", type=click.FloatRange(min=1), default=300.0, show_default=True, help="Seconds.")
@click.option("--loss-timeout", type=click.FloatRange(min=1), default=60.0, show_default=True, help="Seconds.")
def main(
    rounds: int,
    tasks: int,
    in_flight: int,
    latency_tasks: int,
    nap_tasks: int,
    kills: bool,
    only: str,
    install: bool,
    peers: Path | None,
    out: Path,
    turn_timeout: float,
    loss_timeout: float,
) -> None:
    """Compare the mesh with other systems on this machine; writes compare.json, compare.md and compare.svg."""
    if not sys.platform.startswith("linux"):
        raise click.ClickException("what processes use is read from /proc, which only Linux has")
    names = _names(only)
    settings = Settings(rounds, tasks, in_flight, latency_tasks, nap_tasks, 0.05, turn_timeout, loss_timeout)
    shelf = Shelf(folder_of_peers(peers, Path(tempfile.gettempdir())).absolute())
    makes, skipped = present(names, shelf, install=install, say=_say)
    adopt_orphans()

    async def run() -> Comparison:
        return await _bounded(
            asyncio.ensure_future(
                compare(makes, skipped, shelf, settings, kills=kills, keep=lambda found: write(found, out), say=_say)
            )
        )

    try:
        found = asyncio.run(run())
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise click.Abort from None
    write(found, out)
    click.echo((out / "compare.md").read_text())


def write(found: Comparison, out: Path) -> None:
    """The three files."""
    out.mkdir(parents=True, exist_ok=True)
    document = msgspec.json.format(msgspec.json.encode(found), indent=2)
    for name, data in (
        ("compare.json", document),
        ("compare.md", table(found).encode()),
        ("compare.svg", chart(found).encode()),
    ):
        half = out / f"{name}.{os.getpid()}"
        half.write_bytes(data + b"\n" if not data.endswith(b"\n") else data)
        half.replace(out / name)


if __name__ == "__main__":
    main()
