"""A broken promise, found while a run was watched."""


class Violation(AssertionError):
    """An invariant does not hold.

    Attributes:
        invariant: its number and name, as tests/sim/README.md lists them.
        detail: what was seen.
        task_id: the task it is about, empty if it is about none.
    """

    def __init__(self, invariant: str, detail: str, task_id: str = "") -> None:
        super().__init__(f"{invariant}: {detail}")
        self.invariant = invariant
        self.detail = detail
        self.task_id = task_id
