"""What may leave a client: JSON values of bounded size. Checked before anything is sent, as names are."""

from math import isfinite
from typing import Any, Final

import msgspec

from mesh.config import PAYLOAD_BYTES_MAX
from mesh.errors import InvalidPayload
from mesh.treatment import brief, check_name, priority_number
from mesh.wire.codec import encode

__all__ = ["NESTING_MAX", "check_name", "encode_payload", "priority_number"]

NESTING_MAX: Final = 64
"""Lists and mappings inside each other at most."""

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
                raise InvalidPayload(f"the payload has a key that is no string: {brief(key)}")
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
        raise InvalidPayload(f"the payload has a value JSON cannot hold: {brief(value)}")


def _check_nested(value: Any, levels: int) -> None:
    if levels == 0:
        raise InvalidPayload(f"the payload is nested deeper than {NESTING_MAX} levels, or contains itself")
    _check(value, levels - 1)
