"""The `mesh` command. One file per group of commands; what a command needs is imported when it runs."""

import os
import sys

import click

from nodes.cli.command import MeshGroup, exit_code_of

_COMMANDS = {
    "demo": "nodes.cli.demo:demo",
    "up": "nodes.cli.up:up",
    "node": "nodes.cli.node:node",
    "status": "nodes.cli.status:status",
    "members": "nodes.cli.status:members",
    "events": "nodes.cli.events:events",
    "task": "nodes.cli.task:task",
    "dlq": "nodes.cli.dlq:dlq",
    "raft": "nodes.cli.raft:raft",
    "key": "nodes.cli.key:key",
    "bench": "nodes.cli.bench:bench",
}


@click.group("mesh", cls=MeshGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="agent-mesh", prog_name="mesh")
def mesh() -> None:
    """A mesh of equal nodes that runs tasks and loses none of them.

    \b
    mesh demo                                         see it work, and lose its leader
    mesh up --app work:app                            three nodes on this machine
    mesh task submit code '{"prompt": "x"}' --wait    ask for work
    """


def main() -> None:
    """Run the command line; ends the process with one of the documented exit codes, never with a traceback."""
    try:
        code = mesh.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted; whatever was submitted goes on", err=True)
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except BrokenPipeError:
        # Whoever read the output has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:  # The last resort: one sentence, unless the developer asks for more.
        code = exit_code_of(error)
        if os.environ.get("MESH_TRACEBACK"):
            raise
        click.echo(f"mesh: {sentence(error)}", err=True)
    sys.exit(code if isinstance(code, int) else 0)


def sentence(error: Exception) -> str:
    """An exception as one line. Its type is named where the text alone would say nothing, as in `KeyError: 'x'`."""
    text = " ".join(str(error).split())
    if type(error).__module__ == "builtins" and not isinstance(error, OSError):
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text
