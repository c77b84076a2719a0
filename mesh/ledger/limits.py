"""What keeps a task from being granted though a node is free: a paused queue, a full concurrency key, a rate.

Checked by the leader before it proposes a grant, and again by everybody who applies it; both by the time in the log.
So none of it is exceeded when the leader changes, whatever the old one had on its way.
"""

from mesh.ledger.registry import RATE_KEYS_MAX, STICKY_MAX, Window
from mesh.ledger.table import Table
from mesh.ledger.task import Task
from mesh.messages import TaskSpec
from mesh.options import Concurrency, Options, Rate


def is_paused(table: Table, capability: str, at_ms: int) -> bool:
    pause = table.pauses.get(capability)
    return pause is not None and (not pause.until_ms or at_ms < pause.until_ms)


def is_full(table: Table, concurrency: Concurrency, more: int = 0) -> bool:
    """Whether a key has as many leases as it may, `more` not yet applied ones included."""
    return table.treated.holding.get(concurrency.key, 0) + more >= concurrency.limit


def rate_free_at_ms(table: Table, rate: Rate, at_ms: int, more: int = 0) -> int:
    """When a key may be granted next: not after `at_ms` if it may now, `more` not yet applied grants included."""
    room = rate.limit - more
    if room <= 0:
        return at_ms + rate.per_ms
    window = table.rates.get(rate.key)
    if window is not None:
        if len(window.times) >= room:
            return window.times[-room] + rate.per_ms
        # Where all so far asked for less, less was kept: how many there were before is not known.
        return window.forgotten_ms + rate.per_ms if window.forgotten_ms else at_ms
    has_room = len(table.rates) < RATE_KEYS_MAX or any(_is_over(known, at_ms) for known in table.rates.values())
    return at_ms if has_room else at_ms + rate.per_ms


def refuses(table: Table, options: Options, at_ms: int) -> bool:
    """Whether the task's own limits forbid a grant now."""
    if options.concurrency is not None and is_full(table, options.concurrency):
        return True
    return any(rate_free_at_ms(table, rate, at_ms) > at_ms for rate in options.rates)


def granted(table: Table, task: Task, options: Options) -> None:
    """A lease was granted: count it."""
    at_ms = table.now.at_ms
    table.treated.lease_began(options)
    task.granted_at_ms = task.progress_at_ms = at_ms
    for key in dict.fromkeys(rate.key for rate in options.rates):
        _count(table, [rate for rate in options.rates if rate.key == key], at_ms)
    if options.sticky:
        sticky = table.sticky
        sticky.pop(options.sticky, None)
        sticky[options.sticky] = task.node_id
        if len(sticky) > STICKY_MAX:
            del sticky[next(iter(sticky))]


def _count(table: Table, rates: list[Rate], at_ms: int) -> None:
    """Remember a grant under the key of these rates as long as anything depends on it. A key may have several limits,
    in one task or in different ones: as much is kept as the widest of them needs.
    """
    key = rates[0].key
    window = table.rates.get(key)
    if window is None:
        if len(table.rates) >= RATE_KEYS_MAX:
            for over in [name for name, known in table.rates.items() if _is_over(known, at_ms)]:
                del table.rates[over]
        window = table.rates[key] = Window(0, 0, [])
    for rate in rates:
        window.limit, window.per_ms = max(window.limit, rate.limit), max(window.per_ms, rate.per_ms)
    window.times.append(at_ms)
    if len(window.times) > window.limit:
        window.forgotten_ms = window.times.pop(0)


def _is_over(window: Window, at_ms: int) -> bool:
    """Whether nothing depends on it any more."""
    return window.times[-1] + window.per_ms <= at_ms


def words(table: Table, spec: TaskSpec, at_ms: int) -> list[str]:
    """What keeps such a task from being granted to anybody now, in words."""
    said = []
    if is_paused(table, spec.capability, at_ms):
        pause = table.pauses[spec.capability]
        until = f" for {pause.until_ms - at_ms} ms more" if pause.until_ms else ""
        said.append(
            f"the queue of {spec.capability!r} is paused{until}" + (f": {pause.reason}" if pause.reason else "")
        )
    options = spec.options
    if options is None:
        return said
    concurrency = options.concurrency
    if concurrency is not None and is_full(table, concurrency):
        count = table.treated.holding.get(concurrency.key, 0)
        said.append(f"{count} tasks run under concurrency key {concurrency.key!r}, {concurrency.limit} may")
    for rate in options.rates:
        free_ms = rate_free_at_ms(table, rate, at_ms)
        if free_ms > at_ms:
            limit = f"{rate.limit} in {rate.per_ms} ms"
            said.append(f"rate {rate.key!r} ({limit}) lets the next one go in {free_ms - at_ms} ms")
    return said
