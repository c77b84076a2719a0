"""When schedules are due: five fields and time zones, by which the leader says what FireCron comes next.

This is the one module of the core that touches the world: `zoneinfo` reads the host's time zone data, once per zone,
and never for UTC. Only the leader calls it, and its answer travels in the command, so the replicas need not agree on
such data. Nothing here asks what time it is.

Clocks that are changed are treated as by Debian's cron. A schedule whose minute or hour begins with `*` goes by the
clock as it stands: it does nothing in an hour that is left out, and fires anew in one that comes twice. Any other means
certain times of day: those that are left out are made up for by one firing right after the gap, and in an hour that
comes twice only the first counts.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from random import Random
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from mesh.config import PAYLOAD_BYTES_MAX
from mesh.ledger.commands import FireCron
from mesh.ledger.crons import CRON_NAME_CHARS_MAX, CRONS_MAX, DELAY_MS_MAX
from mesh.ledger.registry import Cron
from mesh.ledger.settings import DAY_MS
from mesh.options import CatchUp, CronSpec, Overlap

GRACE_MS: Final = 60_000
"""A firing has been missed when it is later than this. What is not is made, whatever `catch_up` says."""
FIRINGS_PER_CALL_MAX: Final = 100
HORIZON_YEARS: Final = 41
"""What does not fire for so long never does: 29 February falls on a given weekday every 40 years at least."""

EXPRESSION_CHARS_MAX: Final = 1_000
ZONE_CHARS_MAX: Final = 100
CAPABILITY_CHARS_MAX: Final = 200
PRIORITY_MAX: Final = 255
ATTEMPTS_MAX: Final = 1_000
PERIOD_MS_MAX: Final = 366 * DAY_MS

_MINUTE_S: Final = 60
_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = _EPOCH.toordinal()
_TIME_MS_MAX: Final = 250_000_000_000_000
"""In the year 9892: the horizon from there still has dates."""


class Schedule(msgspec.Struct, frozen=True):
    """What an expression means: a period, or else the sets of its five fields. `weekdays` count from Sunday, 0.

    `is_either`: day of month and weekday are both restricted, so one of the two suffices. `is_wild`: goes by the clock
    as it stands.
    """

    every_ms: int = 0
    minutes: tuple[int, ...] = ()
    hours: tuple[int, ...] = ()
    days: frozenset[int] = frozenset()
    months: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset()
    is_either: bool = False
    is_wild: bool = False


# --- what is written --------------------------------------------------------------------------------------------------


class _Field(msgspec.Struct, frozen=True):
    name: str
    lowest: int
    highest: int
    words: tuple[str, ...] = ()
    """Names of its values, from `lowest` on."""


_MONTHS: Final = tuple("jan feb mar apr may jun jul aug sep oct nov dec".split())
_WEEKDAYS: Final = tuple("sun mon tue wed thu fri sat".split())
_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _WEEKDAYS),
)
_WEEKDAY: Final = _FIELDS[4]
_MONTH_DAYS_MAX: Final = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_SHORTHANDS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}


def parse(expression: str) -> Schedule:
    """What five fields, `@daily` and the like, or `@every 30s` mean.

    Raises:
        ValueError: it means nothing, or a date there never is; in one sentence that names the field.
    """
    if len(expression) > EXPRESSION_CHARS_MAX:
        raise ValueError(f"an expression has {EXPRESSION_CHARS_MAX} characters at most, this one {len(expression)}")
    words = expression.lower().split()
    if words and words[0] == "@every":
        return _parse_every(words[1:])
    if len(words) == 1 and words[0].startswith("@"):
        if words[0] not in _SHORTHANDS:
            raise ValueError(f"{words[0]!r} is no schedule; there are {', '.join(_SHORTHANDS)} and @every 30s")
        words = _SHORTHANDS[words[0]].split()
    if len(words) != len(_FIELDS):
        names = ", ".join(field.name for field in _FIELDS)
        raise ValueError(f"a schedule has five fields ({names}), this one {len(words)}: {expression!r}")
    minutes, hours, days, months, weekdays = map(_parse_field, _FIELDS, words)
    # As in Vixie's cron, it is the first character that says whether a field restricts anything: */2 does not.
    minute_text, hour_text, day_text, _, weekday_text = words
    is_either = not day_text.startswith("*") and not weekday_text.startswith("*")
    if not is_either and min(days) > max(_MONTH_DAYS_MAX[month] for month in months):
        raise ValueError(
            f"the day of month, {day_text!r}, is none that month {words[3]!r} ever has: it would never fire"
        )
    return Schedule(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=days,
        months=months,
        weekdays=frozenset(weekday % 7 for weekday in weekdays),
        is_either=is_either,
        is_wild=minute_text.startswith("*") or hour_text.startswith("*"),
    )


def _parse_every(words: list[str]) -> Schedule:
    period = words[0] if len(words) == 1 else ""
    count, unit_ms = _number(period[:-1]), _UNITS_MS.get(period[-1:])
    if count is None or unit_ms is None:
        raise ValueError(f"@every takes one period, such as 30s, 5m, 2h or 1d, not {' '.join(words)!r}")
    if not 0 < count * unit_ms <= PERIOD_MS_MAX:
        raise ValueError(f"the period of @every lies between 1s and {PERIOD_MS_MAX // DAY_MS}d, not at {period!r}")
    return Schedule(every_ms=count * unit_ms)


def _parse_field(field: _Field, text: str) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        first_text, dash, last_text = span.partition("-")
        if span == "*":
            first, last = field.lowest, field.highest
        else:
            first = _value(field, first_text)
            last = _value(field, last_text) if dash else first
        if field is _WEEKDAY and dash and last == 0 < first:
            last = 7  # Sunday, as the end of a range.
        if last < first:
            raise ValueError(f"the {field.name}, {text!r}, has a range that runs backwards: {span!r}")
        step = _number(step_text) if slash else 1
        if not step:
            raise ValueError(f"the {field.name}, {text!r}, needs a step of 1 or more after the slash")
        if slash and not dash and span != "*":
            raise ValueError(
                f"the {field.name}, {text!r}, has a step without a range: write {span}-{field.highest}{slash}{step}"
            )
        values.update(range(first, last + 1, step))
    return frozenset(values)


def _value(field: _Field, text: str) -> int:
    if text in field.words:
        return field.lowest + field.words.index(text)
    value = _number(text)
    if value is None or not field.lowest <= value <= field.highest:
        words = f", or {field.words[0]} to {field.words[-1]}" if field.words else ""
        raise ValueError(f"the {field.name} is {field.lowest} to {field.highest}{words}, not {text!r}")
    return value


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def flaw(spec: CronSpec) -> str:
    """Why a schedule cannot be accepted, in one sentence; empty if it can. That it never fires because the clock in its
    zone leaves its time out is found only by `next_of`.
    """
    if not 0 < len(spec.name) <= CRON_NAME_CHARS_MAX or not spec.name.isprintable():
        return f"a schedule's name has 1 to {CRON_NAME_CHARS_MAX} printable characters"
    try:
        parse(spec.expression)
        _find_zone(spec.zone)
    except ValueError as error:
        return str(error)
    if not 0 < len(spec.capability) <= CAPABILITY_CHARS_MAX:
        return f"a capability has 1 to {CAPABILITY_CHARS_MAX} characters, this one {len(spec.capability)}"
    if len(spec.payload) > PAYLOAD_BYTES_MAX:
        return f"the payload takes {len(spec.payload)} bytes; {PAYLOAD_BYTES_MAX} at most travel inline"
    for name, value, lowest, highest in (
        ("priority", spec.priority, 0, PRIORITY_MAX),
        ("max_attempts", spec.max_attempts, 1, ATTEMPTS_MAX),
        ("jitter_ms", spec.jitter_ms, 0, DELAY_MS_MAX),
        ("overlap", spec.overlap, 0, max(Overlap)),
        ("catch_up", spec.catch_up, 0, max(CatchUp)),
    ):
        if not lowest <= value <= highest:
            return f"{name} lies between {lowest} and {highest}, not at {value}"
    return ""


# --- when it is -------------------------------------------------------------------------------------------------------


def next_of(spec: CronSpec, after_ms: int) -> int:
    """When a schedule is due next: its first firing after `after_ms`, both in ms since the epoch.

    Raises:
        ValueError: its expression or zone means nothing here, or it never fires; in one sentence.
    """
    return next_after(parse(spec.expression), after_ms, spec.zone)


def next_after(schedule: Schedule, after_ms: int, zone: str) -> int:
    """The first firing strictly after `after_ms`, both in ms since the epoch, by the clock in an IANA zone.

    Raises:
        ValueError: no such zone, or it does not fire within HORIZON_YEARS, in one sentence.
    """
    if not -_TIME_MS_MAX // 25 <= after_ms <= _TIME_MS_MAX:
        raise ValueError(f"{after_ms} ms since the epoch is out of the calendar")
    if schedule.every_ms:
        return (after_ms // schedule.every_ms + 1) * schedule.every_ms
    clock = _find_zone(zone)
    after_s = after_ms // 1_000
    found_s = last_day = None
    # Where clocks are put back over midnight, parts of two days take turns: so the day before counts, and the one after
    # that of the first find.
    for day in _days_from(schedule, (after_s + _offset_s(clock, after_s)) // _DAY_S - 1):
        if last_day is not None and day > last_day:
            break
        firing_s = _first_of_day(schedule, clock, day, after_s)
        if firing_s is None:
            continue
        if found_s is None:
            found_s, last_day = firing_s, day + 1
        found_s = min(found_s, firing_s)
    if found_s is None:
        raise ValueError(f"it does not fire within {HORIZON_YEARS} years: the clock in {zone} leaves its time out")
    return found_s * 1_000


@lru_cache(maxsize=CRONS_MAX)
def _find_zone(zone: str) -> tzinfo:
    if zone == "UTC":
        return UTC
    try:
        if len(zone) <= ZONE_CHARS_MAX:
            return ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass  # Not found, not a name of one, or not to be read: all the same to who asks.
    raise ValueError(f"this host knows no time zone {zone[:ZONE_CHARS_MAX]!r}; names are such as Europe/Berlin")


def _offset_s(clock: tzinfo, at_s: int) -> int:
    """By how much the clock is ahead of UTC at a time."""
    offset = (_EPOCH + timedelta(seconds=at_s)).astimezone(clock).utcoffset()
    assert offset is not None, "a time with a zone has an offset"
    return offset // timedelta(seconds=1)


def _days_from(schedule: Schedule, first: int) -> Iterator[int]:
    """Days that match, in order, counted from 1 January 1970."""
    start = date.fromordinal(_EPOCH_ORDINAL + first)
    for months in range(12 * HORIZON_YEARS):
        year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
        if month + 1 not in schedule.months:
            continue
        begin = date(year, month + 1, 1)
        following = date(year + (month == 11), (month + 1) % 12 + 1, 1)
        for ordinal in range(max(begin, start).toordinal(), following.toordinal()):
            is_day = ordinal - begin.toordinal() + 1 in schedule.days
            is_weekday = ordinal % 7 in schedule.weekdays
            if (is_day or is_weekday) if schedule.is_either else (is_day and is_weekday):
                yield ordinal - _EPOCH_ORDINAL


def _first_of_day(schedule: Schedule, clock: tzinfo, day: int, after_s: int) -> int | None:
    """The first firing after `after_s` at a time that is on this day by the clock; None if there is none.

    No clock differs from UTC by a day, so all of them lie between the midnights before and after; and none is changed
    twice in the three days between those.
    """
    day_s = day * _DAY_S
    end_s = day_s + _DAY_S
    before_s, behind_s = _offset_s(clock, day_s - _DAY_S), _offset_s(clock, end_s + _DAY_S)
    found_s = _match(schedule, day_s, after_s + 1 + before_s)
    if before_s == behind_s:
        return None if found_s is None else found_s - before_s
    change_s = _change(clock, day_s - _DAY_S, end_s + _DAY_S)
    stops_s, resumes_s = change_s + before_s, change_s + behind_s
    if found_s is not None and found_s < stops_s:
        return found_s - before_s
    if not schedule.is_wild:
        left_out_s = _match(schedule, day_s, stops_s)
        if change_s > after_s and left_out_s is not None and left_out_s < resumes_s:
            return change_s
        resumes_s = max(resumes_s, stops_s)
    found_s = _match(schedule, day_s, max(resumes_s, after_s + 1 + behind_s))
    return None if found_s is None else found_s - behind_s


def _match(schedule: Schedule, day_s: int, from_s: int) -> int | None:
    """The first time of the day at or after `from_s` that matches, all by one clock."""
    minutes, hours = schedule.minutes, schedule.hours
    hour, minute = divmod(max(0, -((day_s - from_s) // _MINUTE_S)), 60)
    place = bisect_left(hours, hour)
    if place < len(hours) and hours[place] == hour:
        minute_place = bisect_left(minutes, minute)
        if minute_place < len(minutes):
            return day_s + hour * _HOUR_S + minutes[minute_place] * _MINUTE_S
        place += 1
    return day_s + hours[place] * _HOUR_S + minutes[0] * _MINUTE_S if place < len(hours) else None


def _change(clock: tzinfo, before_s: int, behind_s: int) -> int:
    """The first second of the offset in force at `behind_s`."""
    offset_s = _offset_s(clock, behind_s)
    while behind_s - before_s > 1:
        middle_s = (before_s + behind_s) // 2
        if _offset_s(clock, middle_s) == offset_s:
            behind_s = middle_s
        else:
            before_s = middle_s
    return behind_s


# --- what the leader proposes -----------------------------------------------------------------------------------------


def due(crons: Mapping[str, Cron], at_ms: int, rng: Random, proposed: dict[str, int]) -> list[FireCron]:
    """Firings to propose, in the order they must commit in; FIRINGS_PER_CALL_MAX at most, so ask again.

    A firing more than GRACE_MS late was missed. What has not been missed is fired. Missed ones are, by `catch_up`:
    NONE, skipped; ONE, skipped but for the latest, which is fired unless a later one is, because that has not been
    missed; ALL, fired. Those that are skipped together take one command, which moves the schedule on behind all of
    them and counts as one.

    Schedules with the latest firings come first: who has much to catch up with holds nobody up.

    Level-triggered, as verdicts are: what has not committed would be proposed again. The ledger would refuse it, but it
    need not come to that:

    Args:
        at_ms: the time that will be in the entry.
        rng: for the jitter.
        proposed: when each schedule was due when it was last proposed in this office. Kept up here; the caller begins
            each office with an empty one. A schedule of which this host cannot tell what comes next (`next_of` says
            why) is entered as well, and stays due for a leader that can.
    """
    if len(proposed) > len(crons):
        for name in [name for name in proposed if name not in crons]:
            del proposed[name]
    late = [cron for cron in crons.values() if cron.next_ms <= at_ms and _is_open(cron, proposed)]
    late.sort(key=_lateness)
    firings: list[FireCron] = []
    for cron in late:
        room = FIRINGS_PER_CALL_MAX - len(firings)
        if not room:
            break
        proposed[cron.spec.name] = cron.next_ms
        try:
            firings += _firings(cron, at_ms, rng, room)
        except ValueError:
            pass  # No zone data here, or no next time: entered as proposed, so that nobody comes back to it at once.
    return firings


def next_due_ms(crons: Mapping[str, Cron], proposed: Mapping[str, int]) -> int | None:
    """When (epoch) `due` has something to propose; None if nothing that has not been proposed is to come."""
    return min((cron.next_ms for cron in crons.values() if _is_open(cron, proposed)), default=None)


def _is_open(cron: Cron, proposed: Mapping[str, int]) -> bool:
    return not cron.spec.is_paused and proposed.get(cron.spec.name) != cron.next_ms


def _lateness(cron: Cron) -> int:
    return -cron.next_ms


def _firings(cron: Cron, at_ms: int, rng: Random, room: int) -> list[FireCron]:
    """Of one schedule that is due: at least one, and `room` at most. Raises ValueError, see `next_of`."""
    spec = cron.spec
    schedule = parse(spec.expression)
    firings: list[FireCron] = []
    due_ms = cron.next_ms
    if due_ms < at_ms - GRACE_MS and spec.catch_up != CatchUp.ALL:
        resume_ms = next_after(schedule, at_ms - GRACE_MS - 1, spec.zone)
        if spec.catch_up == CatchUp.ONE and resume_ms > at_ms:
            resume_ms = _latest(schedule, due_ms, at_ms, spec.zone)
        if resume_ms > due_ms:
            firings.append(FireCron(spec.name, due_ms, resume_ms, 0, True))
            due_ms = resume_ms
    while due_ms <= at_ms and len(firings) < room:
        next_ms = next_after(schedule, due_ms, spec.zone)
        delay_ms = rng.randrange(min(spec.jitter_ms, DELAY_MS_MAX)) if spec.jitter_ms > 0 else 0
        firings.append(FireCron(spec.name, due_ms, next_ms, delay_ms, False))
        due_ms = next_ms
    return firings


def _latest(schedule: Schedule, due_ms: int, at_ms: int, zone: str) -> int:
    """The latest firing at or before `at_ms`, `due_ms` being one."""
    apart_ms = schedule.every_ms or 1_000 * _MINUTE_S
    latest_ms, end_ms = due_ms, at_ms
    while end_ms - latest_ms >= apart_ms:
        middle_ms = (latest_ms + end_ms) // 2
        firing_ms = next_after(schedule, middle_ms, zone)
        if firing_ms <= at_ms:
            latest_ms = firing_ms
        else:
            end_ms = middle_ms
    return latest_ms
