"""What client and workers of NATS share. BENCH_SERVERS are the servers, BENCH_MODE how results travel.

Tasks are in a work queue stream of three replicas. Results are either published to the client's inbox and kept nowhere,
or put into a second stream of three replicas, which the client reads and acknowledges.
"""

import os

from nats.aio.client import Client as Connection
from nats.js.api import RetentionPolicy, StorageType, StreamConfig

SERVERS = os.environ["BENCH_SERVERS"].split(",")
DURABLE = os.environ["BENCH_MODE"] == "durable"
REPLICAS = 3
TASKS = "TASKS"
RESULTS = "RESULTS"
RESULT_SUBJECTS = "results"
DURABLE_NAME = "workers"
RECONNECT_S = 0.1


async def connected() -> Connection:
    connection = Connection()
    await connection.connect(SERVERS, max_reconnect_attempts=-1, reconnect_time_wait=RECONNECT_S, pending_size=16 << 20)
    return connection


def stream(name: str, subject: str) -> StreamConfig:
    return StreamConfig(
        name=name,
        subjects=[subject],
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        num_replicas=REPLICAS,
    )
