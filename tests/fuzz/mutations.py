"""Good bytes made bad."""

import struct
from collections.abc import Callable
from random import Random

Mutation = Callable[[bytes, Random], bytes]


def flipped(data: bytes, roll: Random) -> bytes:
    """A few bits are wrong."""
    changed = bytearray(data or b"\0")
    for _ in range(roll.randint(1, 4)):
        changed[roll.randrange(len(changed))] ^= 1 << roll.randrange(8)
    return bytes(changed)


def cut_short(data: bytes, roll: Random) -> bytes:
    return data[: roll.randrange(len(data) + 1)]


def with_more(data: bytes, roll: Random) -> bytes:
    """Something follows that does not belong."""
    return data + roll.randbytes(roll.randint(1, 20))


def spliced(data: bytes, roll: Random) -> bytes:
    """A part of it stands where it does not belong, or twice."""
    at, other = roll.randrange(len(data) + 1), roll.randrange(len(data) + 1)
    return data[:at] + data[other : other + roll.randint(1, 12)] + data[at:]


def confused(data: bytes, roll: Random) -> bytes:
    """One byte says that what follows is of another type, or of a length that it is not."""
    at = roll.randrange(len(data) + 1)
    return data[:at] + roll.choice(STRANGE) + data[at + roll.randint(0, 1) :]


STRANGE = (
    b"\xc0",  # Nothing at all.
    b"\xc1",  # Never used.
    b"\xc2",
    b"\xc4\xff",  # Bytes, more than there are.
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",  # A text of 4 GiB.
    b"\xdd\xff\xff\xff\xff",  # An array of as many items.
    b"\xdf\xff\xff\xff\xff",
    b"\x91" * 3_000,  # Deeper than anybody nests.
    b"\x81\xa1a" * 1_000,
    b"\xcb" + struct.pack(">d", float("nan")),
    b"\xcb" + struct.pack(">d", float("inf")),
    b"\xcb" + struct.pack(">d", 1e300),
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",  # 2^64 - 1.
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",  # -2^63.
    b"\xa2\xff\xfe",  # No text.
    b"\xa3\xed\xa0\x80",  # Half a surrogate pair.
    b"\xa4\xf4\x90\x80\x80",  # Beyond the last letter there is.
    b"\xc7\x10\x01" + b"\0" * 16,  # An extension nobody knows.
    b"\xd6\xff\xff\xff\xff\xff",  # A time.
    b"\xd9\x00",
    b"\x80",
    b"\x90",
)

MUTATIONS: tuple[Mutation, ...] = (flipped, cut_short, with_more, spliced, confused)


def mutated(data: bytes, roll: Random) -> bytes:
    """Made bad in one way or two."""
    for _ in range(roll.choice((1, 1, 2))):
        data = roll.choice(MUTATIONS)(data, roll)
    return data
