"""What Dask's workers run."""

import time
from typing import Any

from bench.compare.clients.words import note


def noop(payload: dict[str, Any]) -> dict[str, Any]:
    return payload


def nap(number: int, seconds: float, log: str) -> int:
    note(log, "s", number)
    time.sleep(seconds)
    note(log, "e", number)
    return number
