"""What may leave a client, and what is refused before anything is sent."""

from collections import OrderedDict
from datetime import datetime
from typing import Any

import msgpack
import pytest

from mesh.client.payload import (
    NESTING_MAX,
    check_attempts,
    check_delay,
    check_name,
    encode_payload,
    priority_number,
)
from mesh.config import PAYLOAD_BYTES_MAX
from mesh.errors import InvalidPayload


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -1,
        2**63,
        0.5,
        "text",
        [],
        {},
        {"a": [1, {"b": None}], "c": "é"},
        OrderedDict(a=1),
        _nested(NESTING_MAX),
    ],
)
def test_json_values_travel(value: Any) -> None:
    """Another library reads what was written."""
    assert msgpack.unpackb(encode_payload(value)) == value


def test_a_tuple_travels_as_a_list() -> None:
    assert msgpack.unpackb(encode_payload({"a": (1, 2)})) == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"bytes", "a value JSON cannot hold"),
        ({"a": {1, 2}}, "a value JSON cannot hold"),
        ([datetime(2026, 1, 1)], "a value JSON cannot hold"),
        ({"a": {1: 2}}, "a key that is no string: 1 (int)"),
        (float("nan"), "a number JSON cannot hold: nan"),
        ([[float("inf")]], "a number JSON cannot hold: inf"),
        (2**64, "an integer beyond 64 bits"),
        ("\ud800", "not valid Unicode"),
        ({"\ud800": 1}, "not valid Unicode"),
        (_nested(NESTING_MAX + 2), "nested deeper"),
        (object(), "a value JSON cannot hold"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_reason(value: Any, why: str) -> None:
    with pytest.raises(InvalidPayload) as refused:
        encode_payload(value)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_value_that_contains_itself_is_refused() -> None:
    snake: dict[str, Any] = {}
    snake["tail"] = snake
    with pytest.raises(InvalidPayload, match="contains itself"):
        encode_payload(snake)


def test_the_bound_is_exact() -> None:
    """A string of 2**16 and more has a header of five bytes."""
    assert len(encode_payload("x" * (PAYLOAD_BYTES_MAX - 5))) == PAYLOAD_BYTES_MAX
    with pytest.raises(InvalidPayload, match="1,048,577 bytes, more than 1,048,576"):
        encode_payload("x" * (PAYLOAD_BYTES_MAX - 4))


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


@pytest.mark.parametrize("delay", [-1.0, float("nan"), float("inf"), 1e300])
def test_a_delay_ends(delay: float) -> None:
    with pytest.raises(InvalidPayload, match="a delay is a number of seconds"):
        check_delay(delay)
    check_delay(0)
    check_delay(0.5)
