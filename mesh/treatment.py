"""What people say of a task beside the work itself: `Retry`, `Key`, `RateLimit`, priorities, durations, points in time.

All of it is checked where it is written down, so that what cannot work fails there, in one sentence: InvalidPayload.
mesh/client/options.py makes of it what travels (mesh/options.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, isfinite
from re import compile as pattern
from typing import Any, Final, Protocol, TypeAlias, TypedDict, TypeGuard

from mesh import options
from mesh.errors import InvalidPayload

# --- names and numbers ------------------------------------------------------------------------------------------------

NAME_CHARS_MAX: Final = 200
"""Longest task id and capability; nodes refuse longer ones too."""

PRIORITIES: Final[Mapping[str, int]] = {"urgent": 0, "critical": 1, "high": 3, "normal": 5, "low": 8}
"""Names for priorities; the lower number goes first."""

PRIORITY_DEFAULT: Final = 5
PRIORITY_MAX: Final = 255

ATTEMPTS_DEFAULT: Final = 3
ATTEMPTS_MAX: Final = 1_000
"""Nodes refuse more."""

LIMIT_MAX: Final = 1_000_000
"""Of tasks with one key, at once or within a time."""

ON_LOSS: Final[Mapping[str, int]] = {
    "rerun": options.LossPolicy.RERUN,
    "dlq": options.LossPolicy.DEAD_LETTER,
    "hold": options.LossPolicy.HOLD,
}
WHEN_FULL: Final[Mapping[str, int]] = {way.name.lower(): way for way in options.WhenFull}
DEPENDENTS: Final[Mapping[str, int]] = {way.name.lower(): way for way in options.Dependents}
OVERLAP: Final[Mapping[str, int]] = {way.name.lower(): way for way in options.Overlap}
CATCH_UP: Final[Mapping[str, int]] = {way.name.lower(): way for way in options.CatchUp}


def brief(value: object) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"


def is_number(value: object) -> TypeGuard[int]:
    """A whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_name(what: str, name: object) -> None:
    """Refuse a name that is empty, endless, or cannot be sent and printed as it is. Raises InvalidPayload."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX:
        raise InvalidPayload(f"a {what} is text of 1 to {NAME_CHARS_MAX} characters, not {brief(name)}")
    if not name.isprintable():
        raise InvalidPayload(f"a {what} has only printable characters, not {brief(name)}")


def has_surrogates(text: str) -> bool:
    """Whether a text is no valid Unicode, and so cannot be sent."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def check_attempts(max_attempts: object) -> None:
    """Refuse what is no number of attempts. Raises InvalidPayload."""
    if not is_number(max_attempts) or not 1 <= max_attempts <= ATTEMPTS_MAX:
        raise InvalidPayload(f"max_attempts is a number from 1 to {ATTEMPTS_MAX:,}, not {brief(max_attempts)}")


def priority_number(priority: int | str) -> int:
    """A priority given as a number or by name. Raises InvalidPayload."""
    if isinstance(priority, str):
        number = PRIORITIES.get(priority.lower())
        if number is None:
            raise InvalidPayload(f"no priority is called {priority!r}; there are {', '.join(PRIORITIES)}, or a number")
        return number
    if not is_number(priority) or not 0 <= priority <= PRIORITY_MAX:
        raise InvalidPayload(f"a priority is a number from 0 to {PRIORITY_MAX}, not {priority!r}")
    return priority


def chosen(what: str, name: object, numbers: Mapping[str, int]) -> int:
    """The number of one of several names. Raises InvalidPayload."""
    if not isinstance(name, str) or name not in numbers:
        raise InvalidPayload(f"{what} is one of {', '.join(numbers)}, not {brief(name)}")
    return numbers[name]


def permille(what: str, share: object, lowest: float, highest: float) -> int:
    """A number as thousandths. Raises InvalidPayload if it is not within these bounds."""
    if not isinstance(share, int | float) or isinstance(share, bool) or not lowest <= share <= highest:
        raise InvalidPayload(f"{what} is a number from {lowest:g} to {highest:g}, not {brief(share)}")
    return round(share * 1_000)


def _check_limit(what: str, limit: object) -> None:
    if not is_number(limit) or not 1 <= limit <= LIMIT_MAX:
        raise InvalidPayload(f"{what} is a number from 1 to {LIMIT_MAX:,}, not {brief(limit)}")


# --- time -------------------------------------------------------------------------------------------------------------

Duration: TypeAlias = float | str
"""Seconds, or text: a number with ms, s, m, h or d behind it."""

DURATION_MS_MAX: Final = 10 * 366 * 86_400_000
"""Ten years."""

EPOCH_S_MAX: Final = 253_402_300_800
"""The year 10,000. What is later was not given in seconds."""

_UNITS_MS: Final[Mapping[str, int]] = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION: Final = pattern(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s|m|h|d)")


class Moment(Protocol):
    """A datetime, as far as it is needed here."""

    def timestamp(self) -> float: ...

    def utcoffset(self) -> Any: ...


def duration_ms(what: str, duration: object) -> int:
    """A duration in whole milliseconds, rounded up. Raises InvalidPayload for what is none, and beyond ten years."""
    found = -1.0
    if isinstance(duration, str):
        parts = _DURATION.fullmatch(duration.strip())
        if parts is not None:
            found = float(parts[1]) * _UNITS_MS[parts[2]]
    elif isinstance(duration, int | float) and not isinstance(duration, bool):
        found = duration * 1_000
    if not 0 <= found <= DURATION_MS_MAX:
        raise InvalidPayload(
            f"{what} is seconds, or text like '500ms', '30s', '10m', '2h' or '1d', from 0 to ten years, "
            f"not {brief(duration)}"
        )
    return ceil(round(found, 6))  # So that 0.001 s, which is a little more as a float, is 1 ms.


def limit_ms(what: str, duration: object) -> int:
    """A duration that is longer than nothing. Raises InvalidPayload."""
    found_ms = duration_ms(what, duration)
    if found_ms == 0:
        raise InvalidPayload(f"{what} is longer than 0; leave it out where there is to be none")
    return found_ms


def moment_ms(what: str, moment: object) -> int:
    """A datetime that knows its time zone, or seconds since the epoch, in milliseconds since the epoch.

    Raises InvalidPayload.
    """
    if isinstance(moment, int | float) and not isinstance(moment, bool):
        if isfinite(moment) and 0 < moment <= EPOCH_S_MAX:
            return int(moment * 1_000)
    elif hasattr(moment, "timestamp") and hasattr(moment, "utcoffset"):
        if moment.utcoffset() is None:
            raise InvalidPayload(f"{what} has no time zone: {moment}; say which, as in datetime.now(UTC)")
        return int(moment.timestamp() * 1_000)
    raise InvalidPayload(f"{what} is a datetime with a time zone, or seconds since the epoch, not {brief(moment)}")


# --- what users write -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Retry:
    """When and how often a failed attempt is made again (S2-25).

    The pause after attempt n is min(base_delay x factor^(n - 1), max_delay), and up to `jitter` of it more, drawn anew.

    Attributes:
        max_attempts: attempts in all, the first included; then the task is a dead letter.
        base_delay, max_delay: durations.
        factor: 1 to 1,000.
        jitter: share of the pause, 0 to 1.
        never: errors after which there is no other try: exception types (their subclasses too), or names of types for
            those that cannot be imported here.

    Raises InvalidPayload.
    """

    max_attempts: int = ATTEMPTS_DEFAULT
    base_delay: Duration = 1.0
    max_delay: Duration = 60.0
    factor: float = 2.0
    jitter: float = 0.1
    never: tuple[type[BaseException] | str, ...] = ()

    def __post_init__(self) -> None:
        check_attempts(self.max_attempts)
        self.option()

    @property
    def types(self) -> tuple[type[BaseException], ...]:
        """Those of `never` that are types."""
        return tuple(error for error in self.never if isinstance(error, type))

    def option(self) -> options.Retry:
        """As it travels."""
        return options.Retry(
            base_ms=duration_ms("base_delay", self.base_delay),
            max_ms=duration_ms("max_delay", self.max_delay),
            factor_permille=permille("factor", self.factor, 1, 1_000),
            jitter_permille=permille("jitter", self.jitter, 0, 1),
            never=self._names(),
        )

    def _names(self) -> tuple[str, ...]:
        if not isinstance(self.never, tuple | list):
            raise InvalidPayload(f"never is a tuple of exception types and names of such, not {brief(self.never)}")
        names = []
        for error in self.never:
            if isinstance(error, type) and issubclass(error, BaseException):
                names.append(error.__name__)
            else:
                check_name("name of an error", error)
                names.append(str(error).rpartition(".")[2])
        return tuple(names)


PAYLOAD: Final = "payload."
"""A key that begins so is looked up in the payload."""


def _check_key(what: str, key: str) -> None:
    check_name(what, key)
    if key.startswith(PAYLOAD) and not all(key.split(".")):
        raise InvalidPayload(f"a {what} names what is meant, as in 'payload.user.id', not {brief(key)}")


@dataclass(frozen=True, slots=True)
class Key:
    """No more than `limit` tasks with the same key run at once, in the whole mesh.

    Attributes:
        key: a name, which all tasks that give it share, whatever their capability. Or `payload.` and a path into the
            payload (`payload.user.id`; a number means an item of a list), looked up when the task is submitted: then
            tasks of one capability with the same value there share a key. It is `CAPABILITY:user.id=VALUE`.
        limit: of tasks that hold a lease.
        when_full: `queue` (wait), `cancel_newest` (the one submitted ends as cancelled), `cancel_oldest` (the oldest
            live one does) or `reject` (the submit raises Backpressure).

    Raises InvalidPayload.
    """

    key: str
    limit: int = 1
    when_full: str = "queue"

    def __post_init__(self) -> None:
        _check_key("concurrency key", self.key)
        _check_limit("the limit of a concurrency key", self.limit)
        chosen("when_full", self.when_full, WHEN_FULL)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Of the tasks with the same key, no more than `limit` begin within any `per`, in the whole mesh.

    Attributes:
        limit: attempts granted.
        per: a duration.
        key: as that of `Key`; the capability, if it is not given.

    Raises InvalidPayload.
    """

    limit: int
    per: Duration = "1m"
    key: str = ""

    def __post_init__(self) -> None:
        _check_limit("the limit of a rate", self.limit)
        limit_ms("per", self.per)
        if self.key != "":
            _check_key("key of a rate", self.key)


class Treatment(TypedDict, total=False):
    """How a task may be treated, where it is not as most are; None is as good as not given.

    Attributes:
        key: an idempotency key: the task's id is made of the capability and this, so that the same work is not done
            twice, whoever submits it. Not with `task_id`.
        key_window: with `key`: for so long after the end of the task ("24h") the key is not taken again.
        at: when it may begin, not before. Not with `delay`.
        expires: if it has not begun by then it is cancelled: a duration from now, or a datetime.
        retry: pauses, attempts, and errors that are final.
        schedule_timeout: from the submit until an attempt begins; then it is a dead letter, and `result` raises
            Unschedulable.
        run_timeout: from the grant to the outcome of one attempt.
        progress_timeout: between two checkpoints of one attempt.
        on_loss: what becomes of it if its node is lost while it runs: `rerun` (elsewhere, from its last checkpoint),
            `dlq` (it is a dead letter) or `hold` (it waits until a person says `retry` or `cancel`).
        fallback: the capability that is tried when attempts are spent.
        concurrency, rate: how many of a kind run at once, and begin within a time.
        fairness, weight: tasks of one capability and priority take turns by this key, so many (1) to a turn.
        require, avoid, prefer: labels of nodes, as {"gpu": "yes"}. Every node has `node` (its id) and `type`. For the
            latter two a list of values may be given.
        location: where it belongs, as `eu/berlin`, for the geographic strategy.
        sticky, sticky_hard: tasks with the same go where the last of them went; with `sticky_hard` nowhere else.
        version: of the handler.
        parent: the task whose code submits this one; `ctx.submit` sets it.
    """

    key: str | int | None
    key_window: Duration | None
    at: Moment | float | None
    expires: Moment | Duration | None
    retry: Retry | None
    schedule_timeout: Duration | None
    run_timeout: Duration | None
    progress_timeout: Duration | None
    on_loss: str | None
    fallback: str | None
    concurrency: Key | None
    rate: RateLimit | Iterable[RateLimit] | None
    fairness: str | None
    weight: float | None
    require: Mapping[str, str] | None
    avoid: Mapping[str, str | Iterable[str]] | None
    prefer: Mapping[str, str | Iterable[str]] | None
    location: str | None
    sticky: str | None
    sticky_hard: bool | None
    version: str | None
    parent: str | None


class SubmitOptions(Treatment, total=False):
    """All that a submit may be given beside capability and payload; see MeshClient.submit."""

    task_id: str | None
    priority: int | str | None
    max_attempts: int | None
    timeout: float | None
    delay: Duration | None


TREATMENT_NAMES: Final = frozenset(Treatment.__annotations__)
OPTION_NAMES: Final = frozenset(SubmitOptions.__annotations__)


def check_options(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise TypeError, as a call does, for an option that there is not."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise TypeError(f"{where} got an unexpected keyword argument {unknown[0]!r}")
