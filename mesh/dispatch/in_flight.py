"""What the leader has proposed and not yet seen applied. Until then the table does not show it, and it must count."""

import msgspec

from mesh.ids import FencingToken, NodeId, TaskId
from mesh.ledger.task import Task


class Reporting(msgspec.Struct, frozen=True, gc=False):
    """A report on its way through the log."""

    token: FencingToken
    node_id: NodeId


class InFlight:
    """Grants and reports of this office."""

    def __init__(self) -> None:
        self.granting: dict[TaskId, NodeId] = {}
        self.unplaced: dict[TaskId, str] = {}
        """Submits proposed without a grant, by capability: until they are applied they are in no queue, and nobody may
        overtake them.
        """
        self.reporting: dict[TaskId, Reporting] = {}
        self.falling: dict[TaskId, int] = {}
        """Tasks that wait, and are on their way to their fallback or their end: how many commands say so. They are in
        no queue: a node that was chosen for one may not do for where it goes.
        """
        self._counted: dict[TaskId, tuple[str, ...]] = {}
        """Concurrency and rate keys that a grant counts under."""
        self._keys: dict[str, int] = {}
        self._probes: dict[TaskId, tuple[NodeId, str]] = {}
        self.probing: dict[tuple[NodeId, str], int] = {}
        """Grants to a node whose breaker for the capability is half-open."""

    def clear(self) -> list[TaskId]:
        """Forget everything. Returns the tasks that were taken from the queue."""
        taken = [*self.granting, *self.falling]
        self.__init__()  # type: ignore[misc]  # Everything, as at first.
        return taken

    def falls(self, task_id: TaskId) -> None:
        """A command is proposed that sends a waiting task to its fallback, or ends it."""
        self.falling[task_id] = self.falling.get(task_id, 0) + 1

    def fell(self, task_id: TaskId) -> None:
        """It was applied, or is not to be."""
        count = self.falling.pop(task_id, 1)
        if count > 1:
            self.falling[task_id] = count - 1

    def grant(self, task_id: TaskId, node_id: NodeId) -> None:
        self.granting[task_id] = node_id

    def count(self, task: Task) -> None:
        """A grant of this task is proposed: it counts under its keys."""
        options = task.spec.options
        if options is None or not (options.concurrency or options.rates):
            return
        keys = tuple(dict.fromkeys(f"rate {rate.key}" for rate in options.rates))
        if options.concurrency is not None:
            keys += (f"concurrency {options.concurrency.key}",)
        self._counted[task.spec.task_id] = keys
        for key in keys:
            self._keys[key] = self._keys.get(key, 0) + 1

    def under(self, kind: str, key: str) -> int:
        """Grants proposed under a key; `kind` is `rate` or `concurrency`."""
        return self._keys.get(f"{kind} {key}", 0)

    def probe(self, task_id: TaskId, node_id: NodeId, capability: str) -> None:
        """This grant tries a half-open breaker."""
        self._probes[task_id] = node_id, capability
        self.probing[node_id, capability] = self.probing.get((node_id, capability), 0) + 1

    def settle(self, task_id: TaskId) -> NodeId | None:
        """A grant was applied, or is not to be. Returns to whom it was; None if it is not one of ours."""
        node_id = self.granting.pop(task_id, None)
        if self._counted:
            for key in self._counted.pop(task_id, ()):
                self._keys[key] -= 1
                if not self._keys[key]:
                    del self._keys[key]
        if self._probes:
            probed = self._probes.pop(task_id, None)
            if probed is not None:
                self.probing[probed] -= 1
                if not self.probing[probed]:
                    del self.probing[probed]
        return node_id
