"""Celery's tasks, and the application both sides share. BENCH_BROKER says where Redis is, BENCH_MODE how it is set."""

import os
import time
from typing import Any

from celery import Celery

from bench.compare.clients.words import note

DURABLE = os.environ["BENCH_MODE"] == "durable"

app = Celery("compare", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_BROKER"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_acks_late=DURABLE,
    task_reject_on_worker_lost=DURABLE,
    worker_prefetch_multiplier=1 if DURABLE else 64,
    worker_send_task_events=False,
)


@app.task(name="noop")
def noop(payload: dict[str, Any]) -> dict[str, Any]:
    return payload


@app.task(name="nap")
def nap(number: int, seconds: float, log: str) -> int:
    note(log, "s", number)
    time.sleep(seconds)
    note(log, "e", number)
    return number
