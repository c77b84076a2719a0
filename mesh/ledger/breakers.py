"""Circuit breakers, one for each node and capability (S2-21 to S2-23): who has failed again and again is left alone.

    closed     `breaker_failures` in a row            -> open
    open       `breaker_open_ms` later                -> half-open
    half-open  `breaker_successes` probes went well   -> closed
    half-open  a probe failed                         -> open

Half-open lets one attempt through at a time. What began before a breaker opened is no probe: however it ends, it
neither closes the breaker nor opens it again. All of it is decided while entries are applied, by the time in the log,
so a change of leader neither opens nor closes one, and no second probe is sent. Releases, cancellations and lost nodes
say nothing about a capability and count for nothing.
"""

from mesh.ids import NodeId
from mesh.ledger.lease import leased
from mesh.ledger.registry import BREAKERS_MAX, Breaker
from mesh.ledger.table import Table
from mesh.ledger.task import Kind, Task


def is_shut(table: Table, node_id: NodeId, capability: str, at_ms: int) -> bool:
    """Whether a node may not be granted a task of this capability just now: it is open, or its probe is still out."""
    breaker = table.breakers.get((node_id, capability))
    if breaker is None or not breaker.opened_at_ms:
        return False
    if at_ms < breaker.opened_at_ms + table.settings.breaker_open_ms:
        return True
    return leased(table, breaker.probe_id, breaker.probe_token) is not None


def word(breaker: Breaker, at_ms: int, open_ms: int) -> str:
    """Its state, as people read it."""
    if not breaker.opened_at_ms:
        return "closed"
    return "open" if at_ms < breaker.opened_at_ms + open_ms else "half_open"


def granted(table: Table, task: Task) -> None:
    """A lease was granted where a breaker is not closed: that is its probe."""
    breaker = table.breakers.get((task.node_id, task.spec.capability))
    if breaker is not None and breaker.opened_at_ms:
        breaker.probe_id, breaker.probe_token = task.spec.task_id, task.token
        table.happened(Kind.BREAKER_PROBED, task, task.node_id, task.spec.capability)


def went_well(table: Table, task: Task) -> None:
    """The attempt under the task's latest lease completed."""
    node_id, capability = task.node_id, task.spec.capability
    breaker = table.breakers.get((node_id, capability))
    if breaker is None:
        return
    if breaker.opened_at_ms:
        if not _is_probe(breaker, task):
            return
        breaker.successes += 1
        if breaker.successes < table.settings.breaker_successes:
            return
        table.happened(Kind.BREAKER_CLOSED, None, node_id, capability)
    del table.breakers[node_id, capability]


def went_wrong(table: Table, task: Task) -> None:
    """The attempt under the task's latest lease failed."""
    failures_max = table.settings.breaker_failures
    if not failures_max:
        return
    node_id, capability = task.node_id, task.spec.capability
    breaker = table.breakers.get((node_id, capability))
    if breaker is None:
        if len(table.breakers) >= BREAKERS_MAX:
            return
        breaker = table.breakers[node_id, capability] = Breaker(node_id, capability)
    if breaker.opened_at_ms and not _is_probe(breaker, task):
        return
    breaker.failures += 1
    if not breaker.opened_at_ms and breaker.failures < failures_max:
        return
    breaker.opened_at_ms, breaker.successes = table.now.at_ms, 0
    table.happened(Kind.BREAKER_OPENED, None, node_id, f"{capability}: {breaker.failures} failures")


def _is_probe(breaker: Breaker, task: Task) -> bool:
    return breaker.probe_id == task.spec.task_id and breaker.probe_token == task.token


def forget_node(table: Table, node_id: NodeId) -> None:
    """Another incarnation of a node: what the last one could not do says nothing about it."""
    for key in [key for key in table.breakers if key[0] == node_id]:
        del table.breakers[key]
