"""When schedules are due, by calendars and clocks that change, and what is proposed (issue 4, research E.17)."""

import zoneinfo
from datetime import UTC, date, datetime, timedelta
from random import Random

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mesh.config import PAYLOAD_BYTES_MAX
from mesh.dispatch.calendar import (
    FIRINGS_PER_CALL_MAX,
    GRACE_MS,
    HORIZON_YEARS,
    Schedule,
    due,
    flaw,
    next_after,
    next_due_ms,
    next_of,
    parse,
)
from mesh.ledger.applied import DONE, REFUSED
from mesh.ledger.commands import CancelTask, FireCron, SetCron
from mesh.ledger.registry import Cron
from mesh.options import CatchUp, CronSpec, Overlap
from tests.ledger.cast import Log

HOUR_MS = 3_600_000
DAY_MS = 86_400_000


def at(text: str, zone: str = "UTC", *, fold: int = 0) -> int:
    """Epoch ms of a time by the clock in a zone; of one that comes twice, the first unless `fold` is 1."""
    return int(datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(zone), fold=fold).timestamp()) * 1_000


def firings(expression: str, after: str, count: int, zone: str = "UTC") -> list[str]:
    """The next few, in UTC."""
    found, time_ms, schedule = [], at(after), parse(expression)
    for _ in range(count):
        time_ms = next_after(schedule, time_ms, zone)
        found.append(datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M"))
    return found


def spec(
    expression: str = "* * * * *", *, name: str = "nightly", catch_up: int = CatchUp.ONE, jitter_ms: int = 0
) -> CronSpec:
    return CronSpec(name, expression, "backup", b"\x80", overlap=Overlap.ALLOW, catch_up=catch_up, jitter_ms=jitter_ms)


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("30 4 * * *", ["2025-01-01 04:30", "2025-01-02 04:30"]),
        ("*/20 * * * *", ["2025-01-01 00:20", "2025-01-01 00:40"]),
        ("5-59/25 9,17 * * *", ["2025-01-01 09:05", "2025-01-01 09:30"]),
        ("0 0 31 * *", ["2025-01-31 00:00", "2025-03-31 00:00"]),
        ("0 12 1 JAN-mar,dec *", ["2025-01-01 12:00", "2025-02-01 12:00"]),
        ("0 0 * * mon-fri", ["2025-01-02 00:00", "2025-01-03 00:00", "2025-01-06 00:00"]),
        ("0 0 * * 7", ["2025-01-05 00:00", "2025-01-12 00:00"]),
        ("0 0 * * fri-sun", ["2025-01-03 00:00", "2025-01-04 00:00", "2025-01-05 00:00", "2025-01-10 00:00"]),
        ("0 0 * * 5-7/2", ["2025-01-03 00:00", "2025-01-05 00:00", "2025-01-10 00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 30 2 mon", ["2025-02-03 00:00", "2025-02-10 00:00"]),
        ("  0\t0 1 1 *  ", ["2026-01-01 00:00"]),
        ("@hourly", ["2025-01-01 01:00", "2025-01-01 02:00"]),
        ("@daily", ["2025-01-02 00:00", "2025-01-03 00:00"]),
        ("@midnight", ["2025-01-02 00:00", "2025-01-03 00:00"]),
        ("@weekly", ["2025-01-05 00:00", "2025-01-12 00:00"]),
        ("@monthly", ["2025-02-01 00:00", "2025-03-01 00:00"]),
        ("@yearly", ["2026-01-01 00:00", "2027-01-01 00:00"]),
        ("@Annually", ["2026-01-01 00:00", "2027-01-01 00:00"]),
        ("@every 5m", ["2025-01-01 00:05", "2025-01-01 00:10"]),
        ("@every 2h", ["2025-01-01 02:00", "2025-01-01 04:00"]),
        ("@every 1d", ["2025-01-02 00:00", "2025-01-03 00:00"]),
    ],
)
def test_an_expression_means_its_times(expression: str, expected: list[str]) -> None:
    """From the first second of 2025 on, which is a Wednesday and is itself not after that."""
    assert firings(expression, "2025-01-01 00:00", len(expected)) == expected


def test_day_and_weekday_suffice_one_by_one_unless_one_of_them_begins_with_a_star() -> None:
    """Vixie's rule. The 13th or a Friday; with */2, odd days that are Fridays."""
    assert firings("0 0 13 * fri", "2025-06-01 00:00", 3) == [
        "2025-06-06 00:00",
        "2025-06-13 00:00",
        "2025-06-20 00:00",
    ]
    assert firings("0 0 14 * fri", "2025-06-07 00:00", 3) == [
        "2025-06-13 00:00",
        "2025-06-14 00:00",
        "2025-06-20 00:00",
    ]
    assert firings("0 0 */2 * fri", "2025-06-01 00:00", 2) == ["2025-06-13 00:00", "2025-06-27 00:00"]


def test_a_period_counts_from_the_epoch_whatever_the_zone() -> None:
    """So every leader says the same, and to restart a mesh shifts nothing."""
    every = parse("@every 45s")
    assert every == Schedule(every_ms=45_000)
    assert [next_after(every, after_ms, "Asia/Kathmandu") for after_ms in (0, 1, 44_999, 45_000)] == [
        45_000,
        45_000,
        45_000,
        90_000,
    ]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "a schedule has five fields (minute, hour, day of month, month, day of week), this one 0: ''"),
        (
            "0 0 * *",
            "a schedule has five fields (minute, hour, day of month, month, day of week), this one 4: '0 0 * *'",
        ),
        ("60 * * * *", "the minute is 0 to 59, not '60'"),
        ("-1 * * * *", "the minute is 0 to 59, not ''"),
        ("1,,2 * * * *", "the minute is 0 to 59, not ''"),
        ("² * * * *", "the minute is 0 to 59, not '²'"),
        ("* 24 * * *", "the hour is 0 to 23, not '24'"),
        ("* 9-mon * * *", "the hour is 0 to 23, not 'mon'"),
        ("* * 0 * *", "the day of month is 1 to 31, not '0'"),
        ("* * * 13 *", "the month is 1 to 12, or jan to dec, not '13'"),
        ("* * * january *", "the month is 1 to 12, or jan to dec, not 'january'"),
        ("* * * * 8", "the day of week is 0 to 7, or sun to sat, not '8'"),
        ("* 17-9 * * *", "the hour, '17-9', has a range that runs backwards: '17-9'"),
        ("* * * * wed-mon", "the day of week, 'wed-mon', has a range that runs backwards: 'wed-mon'"),
        ("*/0 * * * *", "the minute, '*/0', needs a step of 1 or more after the slash"),
        ("*/ * * * *", "the minute, '*/', needs a step of 1 or more after the slash"),
        ("1,5/15 * * * *", "the minute, '1,5/15', has a step without a range: write 5-59/15"),
        ("0 0 30 2 *", "the day of month, '30', is none that month '2' ever has: it would never fire"),
        (
            "0 0 31 jun,sep */2",
            "the day of month, '31', is none that month 'jun,sep' ever has: it would never fire",
        ),
        (
            "@fortnightly",
            "'@fortnightly' is no schedule; there are @hourly, @daily, @midnight, @weekly, @monthly, @yearly, "
            "@annually and @every 30s",
        ),
        ("@every", "@every takes one period, such as 30s, 5m, 2h or 1d, not ''"),
        ("@every 30", "@every takes one period, such as 30s, 5m, 2h or 1d, not '30'"),
        ("@every s", "@every takes one period, such as 30s, 5m, 2h or 1d, not 's'"),
        ("@every 1h 30m", "@every takes one period, such as 30s, 5m, 2h or 1d, not '1h 30m'"),
        ("@every 0s", "the period of @every lies between 1s and 366d, not at '0s'"),
        ("@every 367d", "the period of @every lies between 1s and 366d, not at '367d'"),
        ("*" * 1_001, "an expression has 1000 characters at most, this one 1001"),
    ],
)
def test_what_means_nothing_is_refused_in_a_sentence_that_names_the_field(expression: str, message: str) -> None:
    """Whoever typed it knows what to mend."""
    with pytest.raises(ValueError) as refused:
        parse(expression)
    assert str(refused.value) == message


# --- against brute force ----------------------------------------------------------------------------------------------

Part = tuple[str, frozenset[int]]


@st.composite
def fields(draw: st.DrawFn, lowest: int, highest: int) -> Part:
    """A field and what it matches, made side by side, so that nothing is parsed twice."""
    texts: list[str] = []
    values: set[int] = set()
    for _ in range(draw(st.integers(1, 3))):
        form = draw(st.sampled_from(["*", "*/", "one", "range", "range/"]))
        first = draw(st.integers(lowest, highest))
        last = draw(st.integers(first, highest))
        step = draw(st.integers(1, 20))
        text, part = {
            "*": ("*", range(lowest, highest + 1)),
            "*/": (f"*/{step}", range(lowest, highest + 1, step)),
            "one": (str(first), range(first, first + 1)),
            "range": (f"{first}-{last}", range(first, last + 1)),
            "range/": (f"{first}-{last}/{step}", range(first, last + 1, step)),
        }[form]
        texts.append(text)
        values.update(part)
    return ",".join(texts), frozenset(values)


expressions = st.tuples(fields(0, 59), fields(0, 23), fields(1, 31), fields(1, 12), fields(0, 7))
times_ms = st.integers(at("2024-01-01"), at("2032-01-01"))


def _is_day(day: date, parts: tuple[Part, ...]) -> bool:
    (day_text, days), (_, months), (weekday_text, weekdays) = parts[2:]
    if day.month not in months:
        return False
    is_day = day.day in days
    is_weekday = bool({day.isoweekday(), day.isoweekday() % 7} & weekdays)
    if "*" in (day_text[0], weekday_text[0]):
        return is_day and is_weekday
    return is_day or is_weekday


def _is_minute(local: datetime, parts: tuple[Part, ...]) -> bool:
    return local.minute in parts[0][1] and local.hour in parts[1][1] and _is_day(local.date(), parts)


def _brute_ms(parts: tuple[Part, ...], after_ms: int, days_max: int) -> int | None:
    """Minute by minute, on days that match, one after another."""
    minute = datetime.fromtimestamp(after_ms // 60_000 * 60, UTC) + timedelta(minutes=1)
    end = minute + timedelta(days=days_max)
    while minute < end:
        if not _is_day(minute.date(), parts):
            minute = datetime(minute.year, minute.month, minute.day, tzinfo=UTC) + timedelta(days=1)
        elif _is_minute(minute, parts):
            return int(minute.timestamp()) * 1_000
        else:
            minute += timedelta(minutes=1)
    return None


@given(expressions, times_ms)
def test_the_next_firing_is_the_one_that_trying_every_minute_finds(parts: tuple[Part, ...], after_ms: int) -> None:
    """Any five fields, in UTC, looked for in the four years that hold every date but few 29 Februaries."""
    expression = " ".join(text for text, _ in parts)
    try:
        schedule = parse(expression)
    except ValueError:
        assert _brute_ms(parts, after_ms, 365 * HORIZON_YEARS) is None
        return
    found_ms = next_after(schedule, after_ms, "UTC")
    days_max = 4 * 366
    brute_ms = _brute_ms(parts, after_ms, days_max)
    assert found_ms == brute_ms if brute_ms is not None else found_ms > after_ms + (days_max - 1) * DAY_MS


ZONES = (
    ("America/New_York", "2025-03-09"),
    ("America/New_York", "2025-11-02"),
    ("Europe/Berlin", "2025-03-30"),
    ("Australia/Lord_Howe", "2025-04-06"),  # Half an hour.
    ("Australia/Lord_Howe", "2025-10-05"),
    ("America/St_Johns", "2010-11-07"),  # At 0:01, so that the day before comes back.
    ("Asia/Beirut", "2025-03-30"),  # At midnight.
    ("Asia/Beirut", "2025-10-26"),
    ("Pacific/Apia", "2011-12-30"),  # A day that never was.
    ("Africa/Casablanca", "2025-02-23"),
)


def _brute_with_changes(parts: tuple[Part, ...], zone: str, start_ms: int, minutes: int) -> list[int]:
    """As Debian's cron goes about it: wake every minute and look at the clock. One that goes by the clock as it stands
    fires if this minute matches. Any other fires once if one does that the clock has reached now and never before.
    """
    clock = zoneinfo.ZoneInfo(zone)
    is_wild = "*" in (parts[0][0][0], parts[1][0][0])
    found: list[int] = []
    reached: datetime | None = None
    for time_ms in range(start_ms, start_ms + minutes * 60_000, 60_000):
        local = datetime.fromtimestamp(time_ms / 1_000, clock).replace(tzinfo=None)
        if is_wild:
            matches = _is_minute(local, parts)
        else:
            before = local - timedelta(minutes=1) if reached is None else reached
            passed = int((local - before).total_seconds()) // 60
            matches = any(_is_minute(local - timedelta(minutes=back), parts) for back in range(passed))
        reached = local if reached is None else max(local, reached)
        if matches:
            found.append(time_ms)
    return found


@given(st.sampled_from(ZONES), fields(0, 59), fields(0, 23), st.booleans())
@example(("America/St_Johns", "2010-11-07"), ("0,30", frozenset({0, 30})), ("*", frozenset(range(24))), True)
@example(("America/St_Johns", "2010-11-07"), ("0,30", frozenset({0, 30})), ("0,23", frozenset({0, 23})), True)
def test_clocks_that_change_are_treated_as_waking_every_minute_would(
    change: tuple[str, str], minute: Part, hour: Part, is_every_day: bool
) -> None:
    """The day of the change and its neighbours; every day, or only the day of the change by its date."""
    zone, day = change
    assume(len(minute[1]) * len(hour[1]) <= 100)  # Thousands of firings say no more than these, and take long.
    date_of_change = date.fromisoformat(day)
    every_day: tuple[Part, ...] = (("*", frozenset(range(1, 32))), ("*", frozenset(range(1, 13))))
    that_day: tuple[Part, ...] = (
        (str(date_of_change.day), frozenset({date_of_change.day})),
        (str(date_of_change.month), frozenset({date_of_change.month})),
    )
    parts = (minute, hour, *(every_day if is_every_day else that_day), ("*", frozenset(range(8))))
    start_ms = at(day) - DAY_MS
    expected = _brute_with_changes(parts, zone, start_ms, 3 * 1_440)
    schedule = parse(" ".join(text for text, _ in parts))
    found: list[int] = []
    time_ms = start_ms - 1
    while len(found) < len(expected):
        try:
            time_ms = next_after(schedule, time_ms, zone)
        except ValueError:
            break
        found.append(time_ms)
    assert found == expected


# --- clocks that change -----------------------------------------------------------------------------------------------


def test_the_clock_in_its_zone_says_when_a_schedule_is_due() -> None:
    """Half past two in Berlin is an hour or two ahead of UTC."""
    assert firings("30 2 1 1,7 *", "2025-01-01 12:00", 2, "Europe/Berlin") == ["2025-07-01 00:30", "2026-01-01 01:30"]


def test_a_certain_time_that_is_left_out_is_made_up_for_right_after() -> None:
    """9 March 2025, New York: 2:00 is 3:00, at 7:00 UTC. What is due at 2:30 and 2:45 comes then, once."""
    day = "2025-03-08 12:00"
    assert firings("30 2 * * *", day, 2, "America/New_York") == ["2025-03-09 07:00", "2025-03-10 06:30"]
    assert firings("30,45 2 * * *", day, 2, "America/New_York") == ["2025-03-09 07:00", "2025-03-10 06:30"]
    assert firings("0 2,3 * * *", day, 2, "America/New_York") == ["2025-03-09 07:00", "2025-03-10 06:00"]


def test_a_certain_time_that_comes_twice_counts_once() -> None:
    """2 November 2025, New York: 2:00 is 1:00 again, at 6:00 UTC."""
    day = "2025-11-01 12:00"
    assert firings("30 1 * * *", day, 2, "America/New_York") == ["2025-11-02 05:30", "2025-11-03 06:30"]
    assert firings("0 1,2 * * *", day, 3, "America/New_York") == [
        "2025-11-02 05:00",
        "2025-11-02 07:00",
        "2025-11-03 06:00",
    ]


def test_any_hour_goes_by_the_clock_as_it_stands() -> None:
    """Hourly is every hour of real time, through both changes; */15 in an hour left out is left out with it."""
    assert firings("30 * * * *", "2025-03-09 06:00", 3, "America/New_York") == [
        "2025-03-09 06:30",
        "2025-03-09 07:30",
        "2025-03-09 08:30",
    ]
    assert firings("30 * * * *", "2025-11-02 05:00", 3, "America/New_York") == [
        "2025-11-02 05:30",
        "2025-11-02 06:30",
        "2025-11-02 07:30",
    ]
    assert firings("*/30 2 * * *", "2025-03-09 00:00", 1, "America/New_York") == ["2025-03-10 06:00"]


def test_what_the_clock_always_leaves_out_never_fires_and_is_not_looked_for_for_ever() -> None:
    """The second Sunday of March, 2:00 to 2:59 by the clock: in New York that is the hour left out, each year."""
    expression = "*/10 2 8-14 3 */7"
    assert firings(expression, "2025-01-01 00:00", 1) == ["2025-03-09 02:00"]
    with pytest.raises(ValueError, match=r"does not fire within 41 years: the clock in America/New_York leaves"):
        next_after(parse(expression), at("2025-01-01"), "America/New_York")


def test_the_rarest_date_is_found() -> None:
    """29 February on a certain weekday, over 2100, which has none: 40 years. Longer than that, nothing takes."""
    assert firings("0 0 29 2 */7", "2088-03-01 00:00", 1) == ["2128-02-29 00:00"]
    for year in range(1904, 2400, 4):
        days = [
            date(year + ahead, 2, 29) for ahead in range(4, 41, 4) if (year + ahead) % 100 or (year + ahead) % 400 == 0
        ]
        assert {day.weekday() for day in days} == set(range(7)), year


@pytest.mark.parametrize("after_ms", [-20_000_000_000_000, 1 << 62])
def test_times_out_of_the_calendar_are_refused(after_ms: int) -> None:
    """Only somebody mad would ask."""
    with pytest.raises(ValueError, match="out of the calendar"):
        next_after(parse("@hourly"), after_ms, "UTC")


# --- what can be accepted ---------------------------------------------------------------------------------------------


def test_a_sound_schedule_has_no_flaw() -> None:
    """At its bounds, too."""
    assert flaw(CronSpec("n", "@daily", "backup", b"")) == ""
    at_bounds = CronSpec(
        "n" * 180,
        "*/5 9-17 * * mon-fri",
        "c" * 200,
        b"\x00" * PAYLOAD_BYTES_MAX,
        zone="Europe/Berlin",
        priority=255,
        max_attempts=1_000,
        overlap=Overlap.CANCEL_OLD,
        catch_up=CatchUp.ALL,
        jitter_ms=86_400_000,
    )
    assert flaw(at_bounds) == ""


NAME = "a schedule's name has 1 to 180 printable characters"


@pytest.mark.parametrize(
    ("flawed", "message"),
    [
        (CronSpec("", "@daily", "backup", b""), NAME),
        (CronSpec("n" * 181, "@daily", "backup", b""), NAME),
        (CronSpec("two\nlines", "@daily", "backup", b""), NAME),
        (CronSpec("n", "* * * * funday", "backup", b""), "the day of week is 0 to 7, or sun to sat, not 'funday'"),
        (
            CronSpec("n", "@daily", "backup", b"", zone="Europe/Atlantis"),
            "this host knows no time zone 'Europe/Atlantis'; names are such as Europe/Berlin",
        ),
        (
            CronSpec("n", "@daily", "backup", b"", zone="../../etc/passwd"),
            "this host knows no time zone '../../etc/passwd'; names are such as Europe/Berlin",
        ),
        (
            CronSpec("n", "@daily", "backup", b"", zone="Z" * 101),
            f"this host knows no time zone {'Z' * 100!r}; names are such as Europe/Berlin",
        ),
        (CronSpec("n", "@daily", "", b""), "a capability has 1 to 200 characters, this one 0"),
        (CronSpec("n", "@daily", "c" * 201, b""), "a capability has 1 to 200 characters, this one 201"),
        (
            CronSpec("n", "@daily", "backup", b"\x00" * (PAYLOAD_BYTES_MAX + 1)),
            "the payload takes 1048577 bytes; 1048576 at most travel inline",
        ),
        (CronSpec("n", "@daily", "backup", b"", priority=-1), "priority lies between 0 and 255, not at -1"),
        (CronSpec("n", "@daily", "backup", b"", priority=256), "priority lies between 0 and 255, not at 256"),
        (CronSpec("n", "@daily", "backup", b"", max_attempts=0), "max_attempts lies between 1 and 1000, not at 0"),
        (CronSpec("n", "@daily", "backup", b"", jitter_ms=-1), "jitter_ms lies between 0 and 86400000, not at -1"),
        (CronSpec("n", "@daily", "backup", b"", overlap=4), "overlap lies between 0 and 3, not at 4"),
        (CronSpec("n", "@daily", "backup", b"", catch_up=3), "catch_up lies between 0 and 2, not at 3"),
    ],
)
def test_a_flaw_is_told_in_one_sentence(flawed: CronSpec, message: str) -> None:
    """eva reads it where she set the schedule."""
    assert flaw(flawed) == message


def test_the_first_firing_of_a_schedule_is_after_it_was_set() -> None:
    """Set in the very minute: the next one."""
    assert next_of(spec("0 3 * * *"), at("2025-01-01 03:00")) == at("2025-01-02 03:00")
    with pytest.raises(ValueError, match="the minute is 0 to 59, not '61'"):
        next_of(spec("61 * * * *"), 0)


# --- what the leader proposes -----------------------------------------------------------------------------------------


def crons(*some: Cron) -> dict[str, Cron]:
    return {cron.spec.name: cron for cron in some}


def proposals(cron: Cron, at_ms: int) -> list[FireCron]:
    return due(crons(cron), at_ms, Random(1), {})


def fire(due_ms: int, next_ms: int, *, is_skipped: bool = False) -> FireCron:
    return FireCron("nightly", due_ms, next_ms, 0, is_skipped)


def test_a_schedule_that_is_due_is_fired() -> None:
    """Not before, and then whatever the policy: it has not been missed."""
    for catch_up in CatchUp:
        cron = Cron(spec(catch_up=catch_up), 60_000)
        assert proposals(cron, 59_999) == []
        assert proposals(cron, 60_000) == [fire(60_000, 120_000)]
        assert proposals(cron, 119_999) == [fire(60_000, 120_000)]


def test_firings_within_the_grace_are_all_made() -> None:
    """Every 20 s; it took the mesh a minute to find a leader. Nothing was missed, whatever the policy."""
    for catch_up in CatchUp:
        cron = Cron(spec("@every 20s", catch_up=catch_up), 20_000)
        expected = [fire(20_000, 40_000), fire(40_000, 60_000), fire(60_000, 80_000)]
        assert proposals(cron, 79_999) == expected
        assert GRACE_MS == 60_000


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        (CatchUp.NONE, [fire(HOUR_MS, 4 * HOUR_MS, is_skipped=True)]),
        (CatchUp.ONE, [fire(HOUR_MS, 3 * HOUR_MS, is_skipped=True), fire(3 * HOUR_MS, 4 * HOUR_MS)]),
        (
            CatchUp.ALL,
            [fire(HOUR_MS, 2 * HOUR_MS), fire(2 * HOUR_MS, 3 * HOUR_MS), fire(3 * HOUR_MS, 4 * HOUR_MS)],
        ),
    ],
)
def test_missed_firings_are_made_up_for_as_the_schedule_says(catch_up: int, expected: list[FireCron]) -> None:
    """Hourly; nobody led from before 1:00 until 3:30."""
    assert proposals(Cron(spec("@hourly", catch_up=catch_up), HOUR_MS), 3 * HOUR_MS + 1_800_000) == expected


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        (CatchUp.NONE, [fire(HOUR_MS, 3 * HOUR_MS, is_skipped=True), fire(3 * HOUR_MS, 4 * HOUR_MS)]),
        (CatchUp.ONE, [fire(HOUR_MS, 3 * HOUR_MS, is_skipped=True), fire(3 * HOUR_MS, 4 * HOUR_MS)]),
        (
            CatchUp.ALL,
            [fire(HOUR_MS, 2 * HOUR_MS), fire(2 * HOUR_MS, 3 * HOUR_MS), fire(3 * HOUR_MS, 4 * HOUR_MS)],
        ),
    ],
)
def test_a_firing_that_was_not_missed_is_the_one_for_those_that_were(catch_up: int, expected: list[FireCron]) -> None:
    """The same, but somebody leads again at 3:01:00, a minute after the last. One ms more, and it would be missed."""
    cron = Cron(spec("@hourly", catch_up=catch_up), HOUR_MS)
    assert proposals(cron, 3 * HOUR_MS + 60_000) == expected
    missed = proposals(cron, 3 * HOUR_MS + 60_001)
    assert missed == ([fire(HOUR_MS, 4 * HOUR_MS, is_skipped=True)] if catch_up == CatchUp.NONE else expected)


def test_the_only_missed_firing_is_made_without_a_skip_before_it() -> None:
    """Daily, half a day late, in a zone and by ONE; and by NONE it is the one that is skipped."""
    due_ms, next_ms = at("2025-03-09 02:30", "Europe/Berlin"), at("2025-03-10 02:30", "Europe/Berlin")
    daily = CronSpec("nightly", "30 2 * * *", "backup", b"", zone="Europe/Berlin")
    assert proposals(Cron(daily, due_ms), due_ms + 12 * HOUR_MS) == [fire(due_ms, next_ms)]
    none = CronSpec("nightly", "30 2 * * *", "backup", b"", zone="Europe/Berlin", catch_up=CatchUp.NONE)
    assert proposals(Cron(none, due_ms), due_ms + 12 * HOUR_MS) == [fire(due_ms, next_ms, is_skipped=True)]


def test_the_latest_of_many_missed_firings_is_found() -> None:
    """Weekdays at 9:15, 9:45 and 17:15, a year without a leader, which ends on a Sunday: Friday's last it is."""
    cron = Cron(spec("15,45 9,17 * * mon-fri"), at("2024-06-03 09:15"))
    assert proposals(cron, at("2025-06-15 12:00")) == [
        fire(at("2024-06-03 09:15"), at("2025-06-13 17:45"), is_skipped=True),
        fire(at("2025-06-13 17:45"), at("2025-06-16 09:15")),
    ]


@given(expressions, times_ms, st.integers(0, 8 * DAY_MS))
def test_one_makes_up_with_the_latest_there_was(parts: tuple[Part, ...], first_ms: int, late_ms: int) -> None:
    """Found by halving; here by going through all of them, as ALL would."""
    expression = " ".join(text for text, _ in parts)
    try:
        first_ms = next_of(spec(expression), first_ms)
    except ValueError:
        assume(False)
    at_ms = first_ms + late_ms
    latest_ms = time_ms = first_ms
    for _ in range(300):
        if time_ms > at_ms:
            break
        latest_ms, time_ms = time_ms, next_of(spec(expression), time_ms)
    assume(time_ms > at_ms)
    made = [firing for firing in proposals(Cron(spec(expression), first_ms), at_ms) if not firing.is_skipped]
    assert made[-1] == fire(latest_ms, time_ms)


def test_jitter_is_drawn_for_each_firing_and_never_for_a_skip() -> None:
    """Below the bound that the schedule gives, from the leader's dice."""
    cron = Cron(spec("@every 20s", jitter_ms=5_000), 20_000)
    firings = due(crons(cron), 200_000, Random(7), {})
    dice = Random(7)
    assert [firing.delay_ms for firing in firings] == [0, *(dice.randrange(5_000) for _ in firings[1:])]
    assert [firing.is_skipped for firing in firings] == [True, False, False, False, False]
    assert len({firing.delay_ms for firing in firings}) > 2


def test_a_paused_schedule_is_never_due() -> None:
    """Nor does it wake anybody."""
    paused = Cron(CronSpec("nightly", "@hourly", "backup", b"", is_paused=True), HOUR_MS)
    assert due(crons(paused), 2 * HOUR_MS, Random(1), {}) == []
    assert next_due_ms(crons(paused), {}) is None


def test_what_is_on_its_way_is_not_proposed_again_and_wakes_nobody() -> None:
    """The proposal has not committed when the leader looks again. Then it has, and the next one is not due yet. A new
    office begins with nothing on its way.
    """
    some = crons(Cron(spec(), 60_000), Cron(spec("@hourly", name="hourly"), HOUR_MS))
    proposed: dict[str, int] = {}
    assert next_due_ms(some, proposed) == 60_000
    assert due(some, 60_000, Random(1), proposed) == [fire(60_000, 120_000)]
    assert proposed == {"nightly": 60_000}
    assert due(some, 61_000, Random(1), proposed) == []
    assert next_due_ms(some, proposed) == HOUR_MS
    assert due(some, 61_000, Random(1), {}) == [fire(60_000, 120_000)]
    some["nightly"].next_ms = 120_000
    assert next_due_ms(some, proposed) == 120_000
    assert due(some, 120_000, Random(1), proposed) == [fire(120_000, 180_000)]
    assert next_due_ms({}, {}) is None


def test_what_is_remembered_of_dropped_schedules_goes() -> None:
    """Schedules come and go all day; a leader stays in office for months."""
    proposed = {f"gone{number}": 1 for number in range(10)} | {"nightly": 60_000}
    assert due(crons(Cron(spec(), 60_000)), 60_000, Random(1), proposed) == []
    assert proposed == {"nightly": 60_000}


def test_who_has_much_to_catch_up_with_holds_nobody_up() -> None:
    """`backlog` is 1,000 firings behind, `nightly` is due now: it comes first. So many at a time, and no more."""
    backlog = Cron(spec("@every 20s", name="backlog", catch_up=CatchUp.ALL), 20_000)
    other = Cron(spec("@every 20s", name="other", catch_up=CatchUp.ALL), 20_000)
    nightly = Cron(spec(), 20_040_000)
    proposed: dict[str, int] = {}
    some = crons(backlog, other, nightly)
    first = due(some, 20_040_000, Random(1), proposed)
    assert [firing.name for firing in first] == ["nightly"] + ["backlog"] * (FIRINGS_PER_CALL_MAX - 1)
    assert proposed == {"nightly": 20_040_000, "backlog": 20_000}
    assert next_due_ms(some, proposed) == 20_000
    second = due(some, 20_040_000, Random(1), proposed)
    assert second == [FireCron("other", 20_000 * n, 20_000 * (n + 1), 0, False) for n in range(1, 101)]


def test_a_schedule_this_host_knows_nothing_of_stays_due_and_harms_no_other() -> None:
    """The zone is known where it was set, and not to this leader, whose host has no such data."""
    lost = Cron(CronSpec("lost", "@daily", "backup", b"", zone="Europe/Atlantis"), 60_000)
    proposed: dict[str, int] = {}
    some = crons(lost, Cron(spec(), 60_000))
    assert due(some, 60_000, Random(1), proposed) == [fire(60_000, 120_000)]
    assert lost.next_ms == 60_000
    assert next_due_ms(some, proposed) is None


@given(
    st.sampled_from(CatchUp),
    st.sampled_from(["* * * * *", "@every 7s", "*/13 * * * *", "@hourly"]),
    st.lists(st.tuples(st.integers(0, 3 * HOUR_MS), st.booleans(), st.booleans()), max_size=12),
)
def test_the_ledger_agrees_to_whatever_is_proposed_once(
    catch_up: CatchUp, expression: str, pauses: list[tuple[int, bool, bool]]
) -> None:
    """Leaders come and go, at any distance: what was proposed commits once, or twice, or not at all. No firing
    happens twice, and the schedule is never left behind.
    """
    log = Log()
    at_ms = 1_000_000
    log.apply(SetCron(spec(expression, catch_up=catch_up), next_of(spec(expression), at_ms)), at_ms=at_ms)
    made: list[str] = []
    for pause_ms, is_lost, is_doubled in pauses:
        at_ms += pause_ms
        proposed: dict[str, int] = {}
        while firings := due(log.ledger.crons, at_ms, Random(1), proposed):
            assert len(firings) <= FIRINGS_PER_CALL_MAX
            assert due(log.ledger.crons, at_ms, Random(1), proposed) == []
            if is_lost:
                break
            outcomes = log.apply(*firings, *(firings if is_doubled else ()), at_ms=at_ms).outcomes
            assert list(outcomes) == [DONE] * len(firings) + [REFUSED] * (len(firings) if is_doubled else 0)
            made += [f"{firing.name}@{firing.due_ms}" for firing in firings if not firing.is_skipped]
            assert list(log.ledger.tasks) == made[-len(log.ledger.tasks) :]
            log.apply(*(CancelTask(task_id, "done") for task_id in log.ledger.tasks), at_ms=at_ms)
        else:
            assert log.ledger.crons["nightly"].next_ms > at_ms
    assert len(made) == len(set(made)) == log.ledger.crons["nightly"].fired
