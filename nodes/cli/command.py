"""What all commands share: four options, exit codes, and groups that load a command only when it is called."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import click

OK, FAILED, USAGE, NOT_FOUND, STILL_RUNNING, UNREACHABLE, REFUSED, PARTIAL, UNPLACEABLE = range(9)
INTERRUPTED = 130

DEFAULT_PEER = "127.0.0.1:21000"
DEFAULT_TIMEOUT_S = 30.0
SECONDS_MAX = 10 * 366 * 86_400
CONNECT_TIMEOUT_S = 5.0
"""A mesh that is there answers in milliseconds."""


class Seconds(click.FloatRange):
    """A length of time that ends: neither nan nor inf, which a range lets pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


@dataclass(frozen=True, slots=True)
class Shared:
    """The options every command takes. `timeout` is None where the user gave none."""

    as_json: bool
    peer: str
    secret_file: str | None
    timeout: float | None
    started: float = field(default_factory=time.monotonic)

    @property
    def timeout_s(self) -> float:
        return DEFAULT_TIMEOUT_S if self.timeout is None else self.timeout

    def left_s(self) -> float:
        """Seconds left of --timeout; never quite none, so that what is asked for is asked once."""
        return max(0.05, self.timeout_s - (time.monotonic() - self.started))


def exit_code_of(error: BaseException) -> int:
    """The exit code an exception stands for."""
    from mesh import errors

    for kinds, code in (
        ((errors.Unschedulable,), UNPLACEABLE),  # Before TaskFailed, which it is too.
        ((errors.TaskFailed, errors.TaskCancelled), FAILED),
        ((errors.TaskTimeout,), STILL_RUNNING),
        ((errors.MeshUnavailable,), UNREACHABLE),
        ((errors.NotFound,), NOT_FOUND),
        ((errors.Refused, errors.Conflict, errors.Backpressure, errors.InvalidPayload), REFUSED),
        ((errors.MeshError,), USAGE),  # What is left: an address, a secret or a setting that will not do.
        ((KeyboardInterrupt,), INTERRUPTED),
    ):
        if isinstance(error, kinds):
            return code
    return FAILED


@contextmanager
def as_usage() -> Iterator[None]:
    """What is typed and cannot be is wrong usage, found out before anybody is asked."""
    from mesh.errors import InvalidPayload

    try:
        yield
    except InvalidPayload as error:
        raise click.UsageError(str(error)) from None


def shared_options() -> list[click.Parameter]:
    return [
        click.Option(["--json", "as_json"], is_flag=True, help="One JSON document; streams are JSON lines."),
        click.Option(
            ["--peer"],
            envvar="MESH_PEER",
            default=DEFAULT_PEER,
            show_default=True,
            metavar="HOST:PORT[,...]",
            help="Any nodes of the mesh.  [env: MESH_PEER]",
        ),
        click.Option(
            ["--secret-file"],
            envvar="MESH_SECRET_FILE",
            metavar="FILE",
            help="The mesh's shared secret.  [env: MESH_SECRET_FILE]",
        ),
        click.Option(
            ["--timeout"],
            type=Seconds(min=0, max=SECONDS_MAX, min_open=True),
            metavar="SECONDS",
            help=f"Give up after this.  [default: {DEFAULT_TIMEOUT_S:g}]",
        ),
    ]


def take_shared(ctx: click.Context) -> Shared:
    take = ctx.params.pop
    return Shared(take("as_json"), take("peer"), take("secret_file"), take("timeout"))


class MeshCommand(click.Command):
    """A command with the shared options; `@click.pass_obj` hands them over as `Shared`."""

    def __init__(self, name: str | None, *, params: list[click.Parameter] | None = None, **options: Any) -> None:
        super().__init__(name, params=[*(params or []), *shared_options()], **options)

    def invoke(self, ctx: click.Context) -> Any:
        ctx.obj = take_shared(ctx)
        return super().invoke(ctx)


class MeshGroup(click.Group):
    """A group whose commands may be named as `module:attribute` and are imported when they are wanted."""

    command_class = MeshCommand
    group_class = type

    def __init__(self, *args: Any, lazy: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = self._lazy.get(cmd_name)
        if target is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), f"{target} is no command"
        return command
