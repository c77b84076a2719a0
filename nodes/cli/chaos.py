"""`mesh chaos`: real processes under real faults, on a mesh of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from nodes.cli.command import FAILED, MeshCommand, Seconds, Shared
from nodes.cli.printing import say

SOURCE = Path(__file__).parent.parent.parent


@click.command("chaos", cls=MeshCommand)
@click.argument("configurations", nargs=-1)
@click.option("--list", "only_list", is_flag=True, help="Name the configurations.")
@click.option("--short", is_flag=True, help="Six of them, a few seconds each.")
@click.option("--seconds", type=Seconds(min=1, max=86_400), help="Of faults, in each configuration.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.pass_obj
def chaos(
    shared: Shared, configurations: tuple[str, ...], only_list: bool, short: bool, seconds: float | None, seed: int
) -> int:
    """Kill, pause, cut off and fill up the nodes of a mesh of its own, and see that it loses nothing.

    \b
    mesh chaos --short
    mesh chaos kills-3 halves-5 --seconds 30
    """
    if not (SOURCE / "tests" / "chaos").is_dir():
        say("mesh: the faults are part of the source tree, and this is an installed package without it")
        return FAILED
    command = [sys.executable, "-m", "tests.chaos", *configurations, "--seed", str(seed)]
    command += ["--list"] * only_list + ["--short"] * short + ["--json"] * shared.as_json
    command += ["--seconds", str(seconds)] if seconds is not None else []
    return subprocess.run(command, cwd=SOURCE, check=False).returncode
