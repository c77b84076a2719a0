"""What people say of a task beside the work itself, and what is refused where it is written down."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from mesh import Key, RateLimit, Retry, options
from mesh.errors import InvalidPayload, MeshError
from mesh.treatment import (
    DURATION_MS_MAX,
    ON_LOSS,
    check_attempts,
    check_name,
    chosen,
    duration_ms,
    limit_ms,
    moment_ms,
    permille,
    priority_number,
)

# --- names and numbers ------------------------------------------------------------------------------------------------


def test_priorities_have_names() -> None:
    names = ["urgent", "critical", "HIGH", "normal", "low"]
    assert [priority_number(name) for name in names] == [0, 1, 3, 5, 8]
    assert priority_number(7) == 7


@pytest.mark.parametrize("priority", [-1, 256, "soon", True, 2.5, None])
def test_other_priorities_are_refused(priority: Any) -> None:
    with pytest.raises(InvalidPayload):
        priority_number(priority)


@pytest.mark.parametrize("name", ["", "x" * 201, 5])
def test_names_are_text_of_some_length(name: object) -> None:
    with pytest.raises(InvalidPayload, match="a task id is text of 1 to 200 characters"):
        check_name("task id", name)


@pytest.mark.parametrize("name", ["\ud800", "two\nlines", "\x1b[31mred", "nul\0"])
def test_names_can_be_sent_and_printed(name: str) -> None:
    """A lone surrogate once broke the message that all submits of a turn share, and all of them waited for ever."""
    with pytest.raises(InvalidPayload, match="only printable characters") as refused:
        check_name("task id", name)
    assert str(refused.value).isprintable()
    check_name("task id", "Größe 1/2 \N{SNOWMAN}")


@pytest.mark.parametrize("attempts", [0, 1_001, 2.5, True, "3"])
def test_attempts_are_a_number_that_nodes_take(attempts: object) -> None:
    with pytest.raises(InvalidPayload, match="from 1 to 1,000"):
        check_attempts(attempts)
    check_attempts(1_000)


def test_names_of_ways_are_those_there_are() -> None:
    assert [chosen("on_loss", name, ON_LOSS) for name in ("rerun", "dlq", "hold")] == [0, 1, 2]
    for name in ("lost", 1, None, ["dlq"]):
        with pytest.raises(InvalidPayload, match=r"^on_loss is one of rerun, dlq, hold, not "):
            chosen("on_loss", name, ON_LOSS)


@pytest.mark.parametrize("share", [-0.1, 1.1, True, "half", float("nan"), None])
def test_shares_have_bounds(share: object) -> None:
    assert (permille("jitter", 0, 0, 1), permille("jitter", 0.125, 0, 1), permille("jitter", 1, 0, 1)) == (
        0,
        125,
        1_000,
    )
    with pytest.raises(InvalidPayload, match=r"^jitter is a number from 0 to 1, not "):
        permille("jitter", share, 0, 1)


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duration", "ms"),
    [
        (0, 0),
        (2, 2_000),
        (0.25, 250),
        (0.001, 1),
        (0.0001, 1),  # Rounded up: a limit that was given never becomes none.
        ("500ms", 500),
        ("30s", 30_000),
        (" 1.5 s ", 1_500),
        ("10m", 600_000),
        ("2h", 7_200_000),
        ("1d", 86_400_000),
        ("3660d", DURATION_MS_MAX),
    ],
)
def test_a_duration_is_seconds_or_text_with_a_unit(duration: object, ms: int) -> None:
    assert duration_ms("delay", duration) == ms


@pytest.mark.parametrize(
    "duration",
    [-1, float("nan"), float("inf"), 1e300, True, None, "", "10", "m", "-5s", "5 minutes", "1h30m", "3661d", "1e9s"],
)
def test_what_is_no_duration_is_refused_in_one_sentence(duration: object) -> None:
    with pytest.raises(InvalidPayload) as refused:
        duration_ms("run_timeout", duration)
    said = "run_timeout is seconds, or text like '500ms', '30s', '10m', '2h' or '1d', from 0 to ten years, not "
    assert str(refused.value).startswith(said)


def test_a_limit_of_nothing_is_no_limit() -> None:
    assert limit_ms("per", "1ms") == 1
    with pytest.raises(InvalidPayload, match=r"^per is longer than 0; leave it out where there is to be none$"):
        limit_ms("per", 0)


def test_a_moment_is_a_datetime_with_a_time_zone_or_seconds_since_the_epoch() -> None:
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert moment_ms("at", noon) == 1_782_907_200_000
    assert moment_ms("at", noon.astimezone(timezone(timedelta(hours=2)))) == 1_782_907_200_000
    assert moment_ms("at", 1_782_907_200) == 1_782_907_200_000
    assert moment_ms("at", 1_782_907_200.5) == 1_782_907_200_500
    with pytest.raises(
        InvalidPayload, match=r"^at has no time zone: 2026-07-01 12:00:00; say which, as in datetime.now"
    ):
        moment_ms("at", noon.replace(tzinfo=None))


@pytest.mark.parametrize("moment", [0, -1, True, float("nan"), float("inf"), 1_782_907_200_000, "noon", None, date.max])
def test_other_moments_are_refused(moment: object) -> None:
    """Milliseconds among them: they would mean the year 58,000."""
    with pytest.raises(InvalidPayload, match=r"^at is a datetime with a time zone, or seconds since the epoch, not "):
        moment_ms("at", moment)


# --- what users write -------------------------------------------------------------------------------------------------


def test_s2_25_a_retry_travels_as_whole_milliseconds_and_names() -> None:
    assert Retry().option() == options.Retry()
    assert Retry().max_attempts == 3
    retry = Retry(5, "200ms", "5m", 1.5, 0.25, (ValueError, "http.TooSlow", "Gone"))
    assert retry.option() == options.Retry(200, 300_000, 1_500, 250, ("ValueError", "TooSlow", "Gone"))
    assert retry.types == (ValueError,)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"max_attempts": 0}, "max_attempts is a number from 1 to 1,000"),
        ({"base_delay": "soon"}, "base_delay is seconds"),
        ({"max_delay": -1}, "max_delay is seconds"),
        ({"factor": 0.5}, "factor is a number from 1 to 1000"),
        ({"jitter": 2}, "jitter is a number from 0 to 1"),
        ({"never": ValueError}, "never is a tuple of exception types and names of such"),
        ({"never": "ValueError"}, "never is a tuple of exception types and names of such"),
        ({"never": (5,)}, "a name of an error is text"),
        ({"never": (int,)}, "a name of an error is text"),
    ],
)
def test_a_retry_that_cannot_be_is_refused_where_it_is_written(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidPayload, match=f"^{why}"):
        Retry(**wrong)


def test_keys_and_rates_have_the_values_that_are_usual() -> None:
    assert (Key("gpu").limit, Key("gpu").when_full) == (1, "queue")
    assert (RateLimit(100).per, RateLimit(100).key) == ("1m", "")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Key(""), "a concurrency key is text"),
        (lambda: Key("payload."), "a concurrency key names what is meant, as in 'payload.user.id'"),
        (lambda: Key("payload.user..id"), "a concurrency key names what is meant"),
        (lambda: Key("gpu", 0), "the limit of a concurrency key is a number from 1 to 1,000,000"),
        (lambda: Key("gpu", True), "the limit of a concurrency key"),
        (lambda: Key("gpu", when_full="wait"), "when_full is one of queue, cancel_newest, cancel_oldest, reject"),
        (lambda: RateLimit(0), "the limit of a rate is a number"),
        (lambda: RateLimit(1, 0), "per is longer than 0"),
        (lambda: RateLimit(1, key="payload."), "a key of a rate names what is meant"),
    ],
)
def test_keys_and_rates_that_cannot_be_are_refused_where_they_are_written(make: Any, why: str) -> None:
    with pytest.raises(MeshError, match=f"^{why}"):
        make()
