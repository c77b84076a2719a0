"""What happened in a run, counted. A campaign in which something never happened has proved nothing about it."""

REQUIRED = (
    "election won",
    "term beyond 5",
    "leader cut off in a minority",
    "leadership handed over",
    "crash",
    "crash that lost un-synced writes",
    "all nodes restarted",
    "pause",
    "cut in halves",
    "cut one way",
    "bridge",
    "sleeping leader",
    "connection made anew",
    "disk stall",
    "message lost",
    "message doubled",
    "message reordered",
    "message replayed late",
    "dropped at the high-water mark",
    "link down",
    "log cut back",
    "log trimmed",
    "snapshot installed",
    "task accepted",
    "task completed",
    "task retried",
    "task dead",
    "task cancelled",
    "task redriven",
    "task reassigned",
    "completion fenced",
    "lease released",
    "node failed",
    "node restarted",
    "node recovered",
    "checkpoint kept",
    "same task accepted again",
    "conflict answered",
    "backpressure answered",
    "attempt died",
    "late result after a pause",
    "client crashed",
    "read answered",
    "knocked",
    "logs named",
    "configuration changed",
    "configuration rolled back",
    "member taken in",
    "learner promoted",
    "voter replaced",
    "voter removed",
    "leader removed or replaced",
    "node forgotten",
    "removed node retired",
    "removed node started with its old log",
    "disk wiped",
    "wiped node came back",
    "disk damaged",
    "damaged node came back",
    "forgotten node came back",
    "snapshot to a learner",
    "told to leave",
    "node left",
    "left with tasks running",
    "submit turned down",
    "concurrency key made room",
    "grant beyond a limit refused",
    "breaker opened",
    "breaker probed",
    "breaker closed",
    "fell back for want of a closed breaker",
    "task fell back",
    "attempt ran too long",
    "attempt made no progress",
    "task not scheduled in time",
    "task expired",
    "task held",
    "held task redriven",
    "attempt disturbed",
    "poison",
    "id taken again after its window",
    "task reprioritized",
    "queue paused",
    "queue resumed",
    "cron fired",
    "cron skipped",
    "cron waits for the last one",
    "cron cancelled the last one",
)
"""Without each of these at least once, a campaign of CAMPAIGN_SEEDS_MIN seeds or more fails as vacuous."""

CAMPAIGN_SEEDS_MIN = 200


class Coverage:
    """Counts by name."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, name: str, times: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + times


def missing(totals: dict[str, int]) -> list[str]:
    """What was required and never happened."""
    return [name for name in REQUIRED if not totals.get(name)]
