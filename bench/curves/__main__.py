"""How cost grows: with the queue, with payloads, with awaits in flight, with nodes, with nodes in simulation.

python -m bench.curves                         everything; the million queued tasks take minutes, the rest a few
python -m bench.curves --only payload,gossip   some parts
python -m bench.curves --quick                 all parts, small: shows that they work, and no more
"""

from __future__ import annotations

import asyncio
import os
import platform
from pathlib import Path

import click
import msgspec

from bench import hot_path
from bench.catch_up import HEADROOM
from bench.compare.measure import machine
from bench.curves import gossip, real
from bench.curves.plots import PLOTS
from bench.curves.records import VERSION, Curves
from mesh.config import DispatchConfig
from nodes.local_mesh import MeshDidNotStart

OUT = Path("bench") / "out"
QUICK_TASKS = 200
TASKS = 5_000
DEPTHS = (1_000, 10_000, 100_000, DispatchConfig().queued_max - HEADROOM)
PAYLOADS_KIB = (0.1, 1.0, 4.0, 16.0, 64.0, 256.0)
IN_FLIGHTS = (1, 10, 100, 1_000, 5_000, 20_000)
NODES = (3, 5, 9)
SIMULATED = (3, 10, 30, 100, 300, 1_000)


async def run(part: str, *, quick: bool, say: real.Say) -> Curves:
    """One part, with the yardstick beside it. Raises MeshDidNotStart."""
    stick = await hot_path.measure()
    found = Curves(VERSION, machine(), platform.python_version(), stick.cpu_us)
    tasks = QUICK_TASKS if quick else TASKS
    match part:
        case "depth":
            found.depth = await real.depth((100, 1_000) if quick else DEPTHS, tasks, say)
        case "payload":
            found.payload = await real.payload((0.1, 16.0) if quick else PAYLOADS_KIB, tasks, say)
        case "flight":
            found.flight = await real.flight((1, 100) if quick else IN_FLIGHTS, tasks, say)
        case "nodes":
            found.nodes = await real.nodes((3,) if quick else NODES, tasks, say)
        case "gossip":
            for count in SIMULATED[:4] if quick else SIMULATED:
                say(f"{count:,} nodes, simulated ...")
                found.gossip.append(gossip.measure(count))
    return found


def _names(only: str) -> list[str]:
    names = [name.strip() for name in only.split(",") if name.strip()] or list(PLOTS)
    unknown = [name for name in names if name not in PLOTS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]} is none of {', '.join(PLOTS)}", param_hint="--only")
    return names


def write(part: str, found: Curves, out: Path) -> None:
    """curve-PART.json and curve-PART.svg, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    document = msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"
    for name, data in ((f"curve-{part}.json", document), (f"curve-{part}.svg", PLOTS[part](found).encode())):
        half = out / f"{name}.{os.getpid()}"
        half.write_bytes(data)
        half.replace(out / name)


@click.command()
@click.option("--only", default="", help=f"Some of {','.join(PLOTS)}.")
@click.option("--quick", is_flag=True, help="Small: shows that it works, and no more.")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
def main(only: str, quick: bool, out: Path) -> None:
    """Measure how cost grows; writes a JSON document and a picture for each part as soon as it is done."""
    for part in _names(only):
        try:
            found = asyncio.run(run(part, quick=quick, say=lambda words: click.echo(words, err=True)))
        except MeshDidNotStart as error:
            raise click.ClickException(f"{part}: {error}") from None
        write(part, found, out)
        click.echo(str(out / f"curve-{part}.svg"))


if __name__ == "__main__":
    main()
