"""What may leave a client: JSON values of bounded size, a priority, an id. Checked before anything is sent."""

from collections.abc import Mapping
from math import isfinite
from typing import Any, Final, TypeGuard

import msgspec

from mesh.config import PAYLOAD_BYTES_MAX
from mesh.errors import InvalidPayload
from mesh.wire.codec import encode

NESTING_MAX: Final = 64
"""Lists and mappings inside each other at most."""

NAME_CHARS_MAX: Final = 200
"""Longest task id and capability; nodes refuse longer ones too."""

PRIORITIES: Final[Mapping[str, int]] = {"urgent": 0, "critical": 1, "high": 3, "normal": 5, "low": 8}
"""Names for priorities; the lower number goes first."""

PRIORITY_MAX: Final = 255

ATTEMPTS_MAX: Final = 1_000
"""Nodes refuse more."""

DELAY_S_MAX: Final = 10 * 366 * 86_400
"""Longest delay: ten years."""

_SCALARS: Final = frozenset({str, int, bool, type(None)})


def encode_payload(value: Any) -> bytes:
    """A JSON value as MessagePack.

    Raises:
        InvalidPayload: a type JSON does not have (bytes, sets, dates, objects), a key that is no string, NaN or an
            infinity, an integer beyond 64 bits, text that is not Unicode, nesting beyond NESTING_MAX, or more than
            PAYLOAD_BYTES_MAX bytes.
    """
    if type(value) not in _SCALARS:
        _check(value, NESTING_MAX)
    try:
        data = encode(value)
    except OverflowError:
        raise InvalidPayload("the payload has an integer beyond 64 bits") from None
    except UnicodeEncodeError:
        raise InvalidPayload("the payload has text that is not valid Unicode (a lone surrogate)") from None
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise InvalidPayload(f"the payload cannot be serialised: {error}") from None
    if len(data) > PAYLOAD_BYTES_MAX:
        raise InvalidPayload(f"the payload has {len(data):,} bytes, more than {PAYLOAD_BYTES_MAX:,}")
    return data


def _check(value: Any, levels: int) -> None:
    """Refuse what JSON cannot hold; msgspec alone would let bytes, sets and dates pass."""
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise InvalidPayload(f"the payload has a key that is no string: {_brief(key)}")
            if type(item) not in _SCALARS:
                _check_nested(item, levels)
    elif isinstance(value, list | tuple):
        for item in value:
            if type(item) not in _SCALARS:
                _check_nested(item, levels)
    elif type(value) is float:
        if not isfinite(value):
            raise InvalidPayload(f"the payload has a number JSON cannot hold: {value}")
    else:
        raise InvalidPayload(f"the payload has a value JSON cannot hold: {_brief(value)}")


def _check_nested(value: Any, levels: int) -> None:
    if levels == 0:
        raise InvalidPayload(f"the payload is nested deeper than {NESTING_MAX} levels, or contains itself")
    _check(value, levels - 1)


def _brief(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"


def priority_number(priority: int | str) -> int:
    """A priority given as a number or by name. Raises InvalidPayload."""
    if isinstance(priority, str):
        number = PRIORITIES.get(priority.lower())
        if number is None:
            raise InvalidPayload(f"no priority is called {priority!r}; there are {', '.join(PRIORITIES)}, or a number")
        return number
    if not _is_number(priority) or not 0 <= priority <= PRIORITY_MAX:
        raise InvalidPayload(f"a priority is a number from 0 to {PRIORITY_MAX}, not {priority!r}")
    return priority


def check_name(what: str, name: object) -> None:
    """Refuse a name that is empty, endless, or cannot be sent and printed as it is. Raises InvalidPayload."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARS_MAX:
        raise InvalidPayload(f"a {what} is text of 1 to {NAME_CHARS_MAX} characters, not {_brief(name)}")
    if not name.isprintable():
        raise InvalidPayload(f"a {what} has only printable characters, not {_brief(name)}")


def check_attempts(max_attempts: object) -> None:
    """Refuse what is no number of attempts. Raises InvalidPayload."""
    if not _is_number(max_attempts) or not 1 <= max_attempts <= ATTEMPTS_MAX:
        raise InvalidPayload(f"max_attempts is a number from 1 to {ATTEMPTS_MAX:,}, not {_brief(max_attempts)}")


def check_delay(delay_s: float) -> None:
    """Refuse what is no delay. Raises InvalidPayload."""
    if not 0 <= delay_s <= DELAY_S_MAX:
        raise InvalidPayload(f"a delay is a number of seconds from 0 to {DELAY_S_MAX:,}, not {delay_s!r}")


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
