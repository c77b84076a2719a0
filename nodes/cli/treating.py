"""The options of `task submit` and `cron set` that say how tasks are to be treated, and what they come to.

What they may hold is checked by mesh.client.options, which every submit goes through; here text becomes values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nodes.cli.command import as_usage

_Command = TypeVar("_Command", bound=Callable[..., Any])


if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]  # Generic since click 8.2 only.
else:
    _ParamType = click.ParamType


class Duration(_ParamType):
    """A length of time: seconds, or a number with a unit, as in `30s`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from mesh.errors import InvalidPayload
        from mesh.treatment import duration_ms

        duration = _number(value)
        try:
            duration_ms("a duration", duration)
        except InvalidPayload as error:
            self.fail(str(error), param, ctx)
        return duration


class Moment(_ParamType):
    """A point in time: as RFC 3339 has it, or seconds since the epoch."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from mesh.errors import InvalidPayload
        from mesh.treatment import moment_ms

        moment = _number(value)
        if isinstance(moment, str):
            moment = self._date(moment, param, ctx)
        try:
            moment_ms("it", moment)
        except InvalidPayload as error:
            self.fail(str(error), param, ctx)
        return moment

    def _date(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"{text!r} is no point in time; write it as 2026-08-01T03:00:00Z", param, ctx)


class Expiry(Moment):
    """A point in time, or a duration from now."""

    name = "duration|time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and "-" in value.lstrip("-"):  # As dates have.
            return super().convert(value, param, ctx)
        return Duration().convert(value, param, ctx)


def _number(value: Any) -> Any:
    """Text that is a number, as one."""
    try:
        number = float(value)
    except ValueError:
        return value
    return number if math.isfinite(number) else value


DURATION = Duration()

_FOR_ONE = (
    click.option(
        "--key", metavar="KEY", help="The same work, asked for twice under one key, is done once. Not with --id."
    ),
    click.option("--key-window", type=DURATION, metavar="TIME", help="So long after its end the key is kept.  [24h]"),
    click.option("--at", type=Moment(), metavar="WHEN", help="Not before then. Not with --delay."),
    click.option("--expires", type=Expiry(), metavar="TIME|WHEN", help="Cancel it if it has not begun by then."),
)
_FOR_ANY = (
    click.option("--retry-base", type=DURATION, metavar="TIME", help="Pause after the first failure.  [1s]"),
    click.option("--retry-max", type=DURATION, metavar="TIME", help="Longest pause.  [60s]"),
    click.option("--retry-factor", type=float, metavar="N", help="Each pause is so much longer.  [2]"),
    click.option("--retry-jitter", type=float, metavar="N", help="Up to this share more, drawn anew.  [0.1]"),
    click.option("--never", multiple=True, metavar="ERROR", help="No other try after this error (may be repeated)."),
    click.option("--schedule-timeout", type=DURATION, metavar="TIME", help="Until an attempt begins."),
    click.option("--run-timeout", type=DURATION, metavar="TIME", help="For each attempt."),
    click.option("--progress-timeout", type=DURATION, metavar="TIME", help="Between two checkpoints."),
    click.option("--on-loss", metavar="rerun|dlq|hold", help="If its node is lost while it runs.  [rerun]"),
    click.option("--fallback", metavar="CAPABILITY", help="Tried when attempts are spent."),
    click.option(
        "--concurrency",
        metavar="KEY:LIMIT[:WHEN_FULL]",
        help="So many with this key at once. When full: queue, cancel_newest, cancel_oldest, reject.",
    ),
    click.option(
        "--rate", multiple=True, metavar="KEY:LIMIT/PER", help="So many with this key per time (may be repeated)."
    ),
    click.option("--fairness", metavar="KEY", help="Tasks take turns by this."),
    click.option("--weight", type=float, metavar="N", help="So many to a turn.  [1]"),
    click.option("--require", multiple=True, metavar="K=V", help="Only nodes with this label (may be repeated)."),
    click.option("--avoid", multiple=True, metavar="K=V", help="No nodes with this label (may be repeated)."),
    click.option("--prefer", multiple=True, metavar="K=V", help="Rather nodes with this label (may be repeated)."),
    click.option("--location", metavar="A/B/C", help="Where it belongs, for the geographic strategy."),
    click.option("--sticky", metavar="WORD", help="Tasks with the same go to the same node."),
    click.option("--sticky-hard", is_flag=True, help="And nowhere else."),
    click.option("--version", metavar="V", help="Of the handler."),
)


def treatment_options(*, of_one_task: bool) -> Callable[[_Command], _Command]:
    """The options, without those that make sense for one task only if it is not about one."""

    def decorate(command: _Command) -> _Command:
        for option in reversed(_FOR_ONE + _FOR_ANY if of_one_task else _FOR_ANY):
            command = option(command)
        return command

    return decorate


def treatment(flags: dict[str, Any], max_attempts: int) -> dict[str, Any]:
    """The flags as MeshClient.submit takes them. Raises a usage error."""
    with as_usage():
        return _treatment(dict(flags), max_attempts)


def _treatment(flags: dict[str, Any], max_attempts: int) -> dict[str, Any]:
    from mesh.treatment import Retry

    pauses = {
        "base_delay": flags.pop("retry_base"),
        "max_delay": flags.pop("retry_max"),
        "factor": flags.pop("retry_factor"),
        "jitter": flags.pop("retry_jitter"),
        "never": flags.pop("never") or None,
    }
    given = {name: value for name, value in pauses.items() if value is not None}
    if given:
        flags["retry"] = Retry(max_attempts, **given)
    flags["concurrency"] = _concurrency(flags["concurrency"])
    flags["rate"] = [_rate(text) for text in flags["rate"]] or None
    flags["require"] = _one_each("--require", flags["require"])
    flags["avoid"] = _some_each("--avoid", flags["avoid"])
    flags["prefer"] = _some_each("--prefer", flags["prefer"])
    flags["sticky_hard"] = flags["sticky_hard"] or None
    return {name: value for name, value in flags.items() if value is not None}


def _concurrency(text: str | None) -> Any:
    """The key may hold colons; what is behind them is read from the end."""
    from mesh.treatment import Key

    if text is None:
        return None
    key, _, limit = text.rpartition(":")
    when_full = "queue"
    if not limit.isdecimal():
        when_full = limit
        key, _, limit = key.rpartition(":")
    if not key or not limit.isdecimal():
        raise click.UsageError(f"--concurrency is KEY:LIMIT[:WHEN_FULL], as in 'payload.user:1:reject', not {text!r}")
    return Key(key, int(limit), when_full)


def _rate(text: str) -> Any:
    """Without a key it is the capability's."""
    from mesh.treatment import RateLimit

    key, _, much = text.rpartition(":")
    limit, slash, per = much.partition("/")
    if not limit.isdecimal() or not slash:
        raise click.UsageError(f"--rate is KEY:LIMIT/PER, as in 'mail:10/1m', not {text!r}")
    return RateLimit(int(limit), _number(per), key)


def _some_each(flag: str, pairs: Sequence[str]) -> dict[str, list[str]] | None:
    labels: dict[str, list[str]] = {}
    for pair in pairs:
        label, equals, value = pair.partition("=")
        if not (label and equals and value):
            raise click.UsageError(f"{flag} is K=V, as in 'gpu=yes', not {pair!r}")
        labels.setdefault(label, []).append(value)
    return labels or None


def _one_each(flag: str, pairs: Sequence[str]) -> dict[str, str] | None:
    labels = _some_each(flag, pairs) or {}
    for label, values in labels.items():
        if len(values) > 1:
            raise click.UsageError(f"{flag} {label} is said with {len(values)} values, and no node has more than one")
    return {label: values[0] for label, values in labels.items()} or None


def priority_of(text: str) -> int | str:
    """A priority, by number or name. Raises a usage error."""
    from mesh.treatment import priority_number

    try:
        priority: int | str = int(text)
    except ValueError:
        priority = text
    with as_usage():
        priority_number(priority)
    return priority
