"""What may leave a client, and what is refused before anything is sent."""

from collections import OrderedDict
from datetime import datetime
from typing import Any

import msgpack
import pytest

from mesh.client.payload import NESTING_MAX, encode_payload
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
