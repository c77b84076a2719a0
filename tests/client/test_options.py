"""From what a submit asked for to what travels with the task. It is 1,000,000 ms since the epoch."""

from datetime import UTC, datetime
from typing import Any

import pytest

from mesh import Key, RateLimit, Retry, options
from mesh.client.options import Treated, keyed_id, standing_options, treated
from mesh.errors import InvalidPayload
from mesh.ids import TaskId
from mesh.options import Concurrency, LossPolicy, Options, Rate, WhenFull

NOW_MS = 1_000_000
DAY_MS = 86_400_000


def _treated(
    payload: Any = None, *, task_id: str | None = None, max_attempts: int | None = None, delay: Any = 0.0, **asked: Any
) -> Treated:
    return treated("code", payload, asked, task_id=task_id, max_attempts=max_attempts, delay=delay, now_ms=NOW_MS)


def _options(payload: Any = None, **asked: Any) -> Options:
    found = _treated(payload, **asked).options
    assert found is not None
    return found


def _refused(payload: Any = None, **asked: Any) -> str:
    with pytest.raises(InvalidPayload) as refused:
        _treated(payload, **asked)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_task_that_is_treated_as_most_are_travels_without_options() -> None:
    """What says the usual says nothing; nor does None."""
    plain = Treated(None, None, 0, None)
    assert _treated() == plain
    assert _treated(retry=None, key=None, at=None, delay=None, concurrency=None) == plain
    assert _treated(on_loss="rerun", weight=1, sticky_hard=False, rate=[]) == plain
    assert _treated(task_id="t1", max_attempts=2, delay="1.5s") == Treated("t1", 2, 1_001_500, None)


def test_every_option_has_its_field() -> None:
    assert _options(
        retry=Retry(5, base_delay="2s", never=(ValueError,)),
        schedule_timeout="1m",
        run_timeout=2.5,
        progress_timeout="500ms",
        expires="1h",
        on_loss="hold",
        fallback="simple code",
        concurrency=Key("gpu", 2, "reject"),
        rate=RateLimit(100, per="1m", key="api"),
        fairness="ana",
        weight=2.5,
        require={"zone": "a", "gpu": "yes"},
        avoid={"node": ["n2", "n1"]},
        prefer={"type": "worker"},
        location="eu/berlin",
        sticky="session 7",
        sticky_hard=True,
        version="2",
        parent="t0",
    ) == Options(
        retry=options.Retry(base_ms=2_000, never=("ValueError",)),
        schedule_timeout_ms=60_000,
        run_timeout_ms=2_500,
        progress_timeout_ms=500,
        expires_at_ms=4_600_000,
        on_loss=LossPolicy.HOLD,
        fallback="simple code",
        concurrency=Concurrency("gpu", 2, WhenFull.REJECT),
        rates=(Rate("api", 100, 60_000),),
        fairness="ana",
        weight_permille=2_500,
        require=(("gpu", "yes"), ("zone", "a")),
        avoid=(("node", "n1"), ("node", "n2")),
        prefer=(("type", "worker"),),
        location="eu/berlin",
        sticky="session 7",
        is_sticky_hard=True,
        version="2",
        parent=TaskId("t0"),
    )


def test_an_option_that_there_is_not_is_a_mistake_in_the_call() -> None:
    with pytest.raises(TypeError, match=r"^submit\(\) got an unexpected keyword argument 'retries'$"):
        _treated(retries=3)


# --- attempts and times -----------------------------------------------------------------------------------------------


def test_attempts_are_those_of_the_retry_unless_said_otherwise() -> None:
    assert _treated(retry=Retry(7)).max_attempts == 7
    assert _treated(retry=Retry(7), max_attempts=2).max_attempts == 2
    assert _treated(retry=Retry(7)).options is None  # The pauses are the usual ones.


def test_a_task_may_begin_after_a_delay_or_at_a_time() -> None:
    assert _treated(delay=2).not_before_ms == 1_002_000
    assert _treated(at=1_500).not_before_ms == 1_500_000
    assert _treated(at=datetime(1970, 1, 1, 0, 30, tzinfo=UTC)).not_before_ms == 1_800_000
    assert _refused(delay=1, at=1_500) == "delay and at both say when it may begin: give one of them"
    assert _refused(at="10m").startswith("at is a datetime with a time zone")
    assert _refused(delay=-1).startswith("a delay is seconds, or text like")


def test_it_expires_after_a_duration_or_at_a_time() -> None:
    assert _options(expires=60).expires_at_ms == 1_060_000
    assert _options(expires=datetime(1970, 1, 1, 0, 30, tzinfo=UTC)).expires_at_ms == 1_800_000
    assert _refused(expires="1m", delay="1m") == "it expires before it may begin"
    assert _refused(expires=0).startswith("expires is longer than 0")


# --- idempotency keys -------------------------------------------------------------------------------------------------


def test_a_key_makes_the_id_and_is_remembered_for_a_day() -> None:
    assert _treated(key="order-42") == Treated("code:order-42", None, 0, Options(window_ms=DAY_MS))
    assert _treated(key=42, key_window="1h") == Treated("code:42", None, 0, Options(window_ms=3_600_000))
    assert _refused(key="k", task_id="t1") == "key and task_id both say which task it is: give one of them"
    assert _refused(key_window="1h") == "key_window says how long a key is remembered: give a key too"
    assert _refused(key="k", key_window=0).startswith("key_window is longer than 0")
    for key in ("", b"k", True, 2.5):
        assert _refused(key=key).startswith("an idempotency key is text, or a whole number, not ")


def test_a_key_that_will_not_do_for_an_id_is_replaced_by_its_digest() -> None:
    """Always the same one: another process, another day, another release."""
    assert keyed_id("code", "x" * 195) == "code:" + "x" * 195
    digest = "code:9ea7f5e21333c9d02275998c71a3ff3e6d2a9da135c0b7f771d59f5736f59eb2"
    assert keyed_id("code", "x" * 196) == digest
    assert keyed_id("code", "x" * 196) != keyed_id("code", "x" * 197)
    assert all(keyed_id("c" * 200, key).isprintable() for key in ("two\nlines", "\ud800", "k"))
    assert len(keyed_id("c" * 200, "k")) == 165


def test_no_two_capabilities_share_an_id() -> None:
    """`a` with the key `b:c`, and `a:b` with the key `c`."""
    assert keyed_id("a", "b:c") == "a:b:c"
    assert keyed_id("a:b", "c") != "a:b:c"


# --- keys looked up in the payload ------------------------------------------------------------------------------------


def test_a_key_is_looked_up_in_the_payload_of_the_task() -> None:
    payload = {"user": {"id": 7, "name": "ana"}, "calls": [{"api": "maps"}], "n": 1.5}
    found = {
        path: _options(payload, concurrency=Key(path)).concurrency
        for path in ("payload.user.id", "payload.user.name", "payload.calls.0.api", "payload.n", "payloads", "gpu")
    }
    assert found == {
        "payload.user.id": Concurrency("code:user.id=7", 1),
        "payload.user.name": Concurrency("code:user.name=ana", 1),
        "payload.calls.0.api": Concurrency("code:calls.0.api=maps", 1),
        "payload.n": Concurrency("code:n=1.5", 1),
        "payloads": Concurrency("payloads", 1),
        "gpu": Concurrency("gpu", 1),
    }
    several = [RateLimit(5, "1s"), RateLimit(100, "1h", key="payload.user.id")]
    assert _options(payload, rate=several).rates == (Rate("code", 5, 1_000), Rate("code:user.id=7", 100, 3_600_000))


def test_a_long_or_unprintable_value_becomes_a_digest() -> None:
    """Users' own text must neither be cut, so that two of them share a key, nor refused."""
    keys = [_options({"u": text}, concurrency=Key("payload.u")).concurrency for text in ("x" * 300, "x" * 301, "a\nb")]
    assert all(key is not None and len(key.key) == len("code:") + 64 for key in keys)
    assert len({key.key for key in keys if key is not None}) == 3


@pytest.mark.parametrize("payload", [None, "ana", {}, {"user": None}, {"user": "ana"}, {"user": {}}, {"user": [1]}])
def test_a_payload_without_it_is_refused(payload: Any) -> None:
    said = _refused(payload, concurrency=Key("payload.user.id"))
    assert said.startswith("the key 'payload.user.id' finds nothing in the payload of 'code': there is no ")


@pytest.mark.parametrize("value", [None, True, [1], {"a": 1}])
def test_what_is_found_is_text_or_a_number(value: Any) -> None:
    said = _refused({"user": value}, rate=RateLimit(1, key="payload.user"))
    assert said.startswith("the key 'payload.user' finds what is neither text nor a number: ")


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"retry": 3}, "retry is a mesh.Retry, not 3 (int)"),
        ({"concurrency": "gpu"}, "concurrency is a mesh.Key, not 'gpu' (str)"),
        ({"rate": 100}, "rate is a mesh.RateLimit, or several, not 100 (int)"),
        ({"rate": ["100/m"]}, "rate is a mesh.RateLimit, or several, not '100/m' (str)"),
        ({"rate": [RateLimit(1)] * 17}, "a task has 16 rates at most, not 17"),
        ({"on_loss": "lost"}, "on_loss is one of rerun, dlq, hold, not 'lost' (str)"),
        ({"fallback": "code"}, "'code' cannot be its own fallback"),
        ({"sticky_hard": True}, "sticky_hard says how sticky is meant: give sticky too"),
        ({"sticky": "s", "sticky_hard": "yes"}, "sticky_hard is True or False, not 'yes' (str)"),
        ({"weight": 0}, "weight is a number from 0.001 to 1000, not 0 (int)"),
        ({"version": ""}, "a version is text of 1 to 200 characters, not '' (str)"),
        ({"location": "a\nb"}, "a location has only printable characters, not 'a\\nb' (str)"),
        ({"parent": "\ud800"}, "parent is the id of a task, not '\\ud800' (str)"),
        ({"parent": ""}, "parent is the id of a task, not '' (str)"),
        ({"run_timeout": 0}, "run_timeout is longer than 0; leave it out where there is to be none"),
        ({"require": "gpu"}, "require is labels and their values, as in {'gpu': 'yes'}, not 'gpu' (str)"),
        ({"require": {"gpu": ["a", "b"]}}, "a value of the label 'gpu' is text of 1 to 200 characters, not"),
        ({"avoid": {"": "a"}}, "a label is text of 1 to 200 characters"),
        ({"prefer": {"n": [str(n) for n in range(65)]}}, "prefer has 65 labels; at most 64 travel"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(asked: dict[str, Any], why: str) -> None:
    assert _refused(**asked).startswith(why)


def test_a_parent_may_have_an_id_that_is_not_printable() -> None:
    """A client in another language named it."""
    assert _options(parent="a\nb").parent == "a\nb"


# --- schedules --------------------------------------------------------------------------------------------------------


def test_a_schedule_has_the_options_that_are_not_for_one_task() -> None:
    asked: dict[str, Any] = {"run_timeout": "1m", "concurrency": Key("payload.user")}
    assert standing_options("code", {"user": "ana"}, asked) == Options(
        run_timeout_ms=60_000, concurrency=Concurrency("code:user=ana", 1)
    )
    assert standing_options("code", None, {"key": None}) is None
    for name, value in (("key", "k"), ("key_window", "1h"), ("at", 1), ("expires", "1h"), ("parent", "t0")):
        with pytest.raises(InvalidPayload, match=f"^{name} is for one task; a schedule submits many$"):
            standing_options("code", None, {name: value})
    with pytest.raises(TypeError, match=r"^set_cron\(\) got an unexpected keyword argument 'delay'$"):
        standing_options("code", None, {"delay": 1})
