"""The `mesh` command. One file per group of commands; what a command needs is imported when it runs."""

import os
import sys

import click

from nodes.cli.command import MeshGroup, exit_code_of
from nodes.cli.printing import say

_COMMANDS = {
    "demo": "nodes.cli.demo:demo",
    "up": "nodes.cli.up:up",
    "node": "nodes.cli.node:node",
    "status": "nodes.cli.status:status",
    "members": "nodes.cli.status:members",
    "events": "nodes.cli.events:events",
    "task": "nodes.cli.task:task",
    "dlq": "nodes.cli.dlq:dlq",
    "queue": "nodes.cli.queue:queue",
    "cron": "nodes.cli.cron:cron",
    "agent": "nodes.cli.agent:agent",
    "settings": "nodes.cli.settings:settings",
    "doctor": "nodes.cli.doctor:doctor",
    "raft": "nodes.cli.raft:raft",
    "key": "nodes.cli.key:key",
    "bench": "nodes.cli.bench:bench",
    "chaos": "nodes.cli.chaos:chaos",
}


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from importlib import metadata

    try:
        click.echo(f"mesh {metadata.version('agent-mesh')}")
    except metadata.PackageNotFoundError:
        click.echo("mesh, from a source tree that is not installed")
    ctx.exit(0)


@click.group("mesh", cls=MeshGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version)
def mesh() -> None:
    """A mesh of equal nodes that runs tasks and loses none of them.

    \b
    mesh demo                                         see it work, and lose its leader
    mesh up --app work:app                            three nodes on this machine
    mesh task submit code '{"prompt": "x"}' --wait    ask for work
    """


def main() -> None:
    """Run the command line; ends the process with one of the documented exit codes, never with a traceback."""
    if sys.stdout is None or sys.stderr is None:  # Started with one of them closed.
        nowhere = open(os.devnull, "w")  # noqa: SIM115 - kept open as stdout until the process ends.
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    try:
        code = mesh.main(prog_name="mesh", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted; whatever was submitted goes on", err=True)
        code = 130
    except click.ClickException as error:
        code = error.exit_code
        if type(error).__name__ == "NoArgsIsHelpError":  # A group without a command: click's way to show its help.
            error.show()
            sys.exit(code)
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx is not None else ""
        hint = f' (see "{command} --help")' if command else ""
        say(f"mesh: {' '.join(error.format_message().split())}{hint}")
    except BrokenPipeError:
        # Whoever read the output has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:  # The last resort: one sentence, unless the developer asks for more.
        code = exit_code_of(error)
        if os.environ.get("MESH_TRACEBACK"):
            raise
        say(f"mesh: {sentence(error)}")
    sys.exit(code if isinstance(code, int) else 0)


def sentence(error: Exception) -> str:
    """An exception as one line. Its type is named where the text alone would say nothing, as in `KeyError: 'x'`."""
    text = " ".join(str(error).split())
    if type(error).__module__ == "builtins" and not isinstance(error, OSError):
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text
