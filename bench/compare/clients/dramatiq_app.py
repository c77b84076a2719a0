"""Dramatiq's actors, and the broker both sides share. BENCH_BROKER says where Redis is."""

import os
import time
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.compare.clients.words import note

URL = os.environ["BENCH_BROKER"]

broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop(payload: dict[str, Any]) -> dict[str, Any]:
    return payload


@dramatiq.actor(store_results=True)
def nap(number: int, seconds: float, log: str) -> int:
    note(log, "s", number)
    time.sleep(seconds)
    note(log, "e", number)
    return number
