"""Lengths of time as people write them in tests."""

import re
from math import isfinite
from typing import Final

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhd])\s*")


def seconds(duration: float | str) -> float:
    """`20`, `"20s"`, `"500ms"`, `"2m"`, `"1h 30m"` in seconds. Raises ValueError."""
    if isinstance(duration, str):
        parts = list(_PART.finditer(duration))
        if parts and "".join(part.group() for part in parts) == duration.lstrip():
            return sum(float(part[1]) * _SECONDS[part[2]] for part in parts)
    elif isfinite(duration) and duration >= 0:
        return float(duration)
    raise ValueError(f"{duration!r} is no length of time: write seconds as a number, or '500ms', '20s', '2m', '1h'")


def in_words(duration_s: float) -> str:
    """A length of time for a sentence: `90 s`, `2 h`."""
    if duration_s >= 7_200 or duration_s == 3_600:
        return f"{duration_s / 3_600:.3g} h"
    return f"{duration_s:.3g} s" if duration_s < 1_000 else f"{duration_s:.0f} s"
