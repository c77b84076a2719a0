"""27 to 30, 32 and 33 bite: each is shown what a ledger that forgot a limit would do, and what an honest one does."""

import pytest

from mesh.durable import LedgerWrite
from mesh.ids import FencingToken, LogIndex, NodeId, TaskId
from mesh.ledger import commands
from mesh.ledger.applied import DONE, REFUSED
from mesh.messages import TaskSpec
from mesh.options import Concurrency, CronSpec, Options, Rate
from mesh.sim import invariants_queue
from mesh.sim.coverage import Coverage
from mesh.sim.invariants_limits import Limits
from mesh.sim.model import Model
from mesh.sim.model_limits import ModelBreaker
from mesh.sim.record import Record
from mesh.sim.violation import Violation
from tests.sim.cast import mark

ANA = NodeId("ana")
T1, T2, T3 = TaskId("t1"), TaskId("t2"), TaskId("t3")
END_MS = 1_000


class Story:
    """The model and the checker of limits, over one log. All entries are of the time they are given."""

    def __init__(self) -> None:
        self.model = Model(Coverage())
        self.limits = Limits()
        self.apply(0, commands.AdmitNode(ANA, 1), commands.RaiseLevel(1))

    def apply(self, at_ms: int, *some: commands.Command, outcomes: list[int] | None = None) -> None:
        """`outcomes` are the ledger's; as they ought to be, if none are given."""
        batch = commands.Batch(at_ms, list(some))
        ought = self.model.apply(self.model.index + 1, batch)
        self.limits.applied(self.model, batch, ought if outcomes is None else bytes(outcomes))
        if outcomes is not None:
            invariants_queue.outcomes_agree(self.model, batch, bytes(outcomes), ought)

    def submit(self, *task_ids: TaskId, **options: object) -> None:
        treated = Options(**options)  # type: ignore[arg-type]  # As they are given.
        self.apply(0, *(commands.SubmitTask(TaskSpec(name, "code", b"", options=treated)) for name in task_ids))

    def grant(self, at_ms: int, task_id: TaskId, outcome: int = DONE) -> None:
        self.apply(at_ms, commands.GrantLease(task_id, ANA), outcomes=[outcome])


def breaks(number: str) -> "pytest.RaisesExc[Violation]":
    return pytest.raises(Violation, match=rf"^{number} ")


def test_27_three_grants_where_two_are_allowed() -> None:
    """Two in 100 ms: at 10 and 50. A third at 109 is one too many, at 110 it is not."""
    for at_ms, is_broken in ((109, True), (110, False)):
        story = Story()
        story.submit(T1, T2, T3, rates=(Rate("api", 2, 100),))
        story.grant(10, T1)
        story.grant(50, T2)
        if is_broken:
            story.grant(at_ms, T3, REFUSED)
            with breaks("27"):
                story.grant(at_ms, T3)
        else:
            story.grant(at_ms, T3)


def test_27_is_counted_by_what_the_ledger_did_whatever_the_model_thinks() -> None:
    story = Story()
    story.submit(T1, T2, rates=(Rate("api", 1, 100),))
    story.grant(10, T1)
    story.model.limits.granted_ms.clear()
    with breaks("27"):
        story.grant(20, T2)


def test_28_one_too_many_under_a_key() -> None:
    """t1 holds the key; t2 is granted all the same, by the model's books or against them; then t1 ends."""
    for forgets in (False, True):
        story = Story()
        story.submit(T1, T2, concurrency=Concurrency("db", 1))
        story.grant(10, T1)
        story.grant(10, T2, REFUSED)
        if forgets:
            story.model.limits.held.clear()
        with breaks("28"):
            story.grant(10, T2)
    story = Story()
    story.submit(T1, T2, concurrency=Concurrency("db", 1))
    story.grant(10, T1)
    story.apply(20, commands.CompleteTask(T1, FencingToken(story.model.index), b""))
    story.grant(20, T2)


def test_28_tasks_of_one_entry_are_counted_as_they_were_granted() -> None:
    """t1 would be alone and was, when it was granted; t2 puts up with another."""
    story = Story()
    story.submit(T1, concurrency=Concurrency("db", 1))
    story.submit(T2, concurrency=Concurrency("db", 2))
    grants = [commands.GrantLease(T1, ANA), commands.GrantLease(T2, ANA)]
    story.apply(10, *grants, outcomes=[DONE, DONE])


def test_29_a_second_probe() -> None:
    """The breaker opened at 5. t1 was granted before and does not count; t2 is the probe; t3 is one too many."""
    for forgets in (False, True):
        story = Story()
        story.submit(T1, T2, T3)
        story.grant(1, T1)
        story.model.limits.settings["breaker_open_ms"] = 10
        breaker = ModelBreaker(failures=5, opened_ms=5, opened_index=story.model.index)
        story.model.limits.breakers[ANA, "code"] = breaker
        story.grant(14, T2, REFUSED)
        story.grant(15, T2)
        if forgets:
            breaker.probe = None
        with breaks("29"):
            story.grant(16, T3)


def test_30_a_firing_that_comes_twice_or_too_soon() -> None:
    firing = commands.FireCron("tick", 100, 200, 0, False)
    for at_ms, again in ((100, True), (99, False)):
        story = Story()
        story.apply(0, commands.SetCron(CronSpec("tick", "@every 1s", "code", b""), 100))
        if again:
            story.apply(at_ms, firing, outcomes=[DONE])
        with breaks("30"):
            story.apply(at_ms, firing, outcomes=[DONE])


def test_30_a_firing_by_another_schedule_of_the_name() -> None:
    """It was changed while the firing was on its way: that time is not due any more."""
    story = Story()
    spec = CronSpec("tick", "@every 1s", "code", b"")
    story.apply(0, commands.SetCron(spec, 150))
    with breaks("30"):
        story.apply(100, commands.FireCron("tick", 100, 200, 0, False), outcomes=[DONE])


def test_32_a_grant_from_a_paused_queue() -> None:
    story = Story()
    story.submit(T1)
    story.apply(10, commands.PauseQueue("code", 50, ""))
    with breaks("32"):
        story.grant(49, T1)
    story.grant(50, T1)


def test_33_an_id_that_is_taken_again_too_soon() -> None:
    """t1 ended at 1,000 ms, and its id is free 500 ms later; or never, if it has no window."""
    for at_ms, window_ms, is_broken in ((1_499, 500, True), (1_500, 500, False), (9_000, 0, True)):
        story = Story()
        story.submit(T1, window_ms=500)
        story.grant(10, T1)
        token = FencingToken(story.model.index)
        story.apply(END_MS, commands.CompleteTask(T1, token, b""))
        again = TaskSpec(T1, "code", b"", options=Options(window_ms=window_ms))
        if is_broken:
            with breaks("33"):
                story.apply(at_ms, commands.SubmitTask(again, token))
        else:
            story.apply(at_ms, commands.SubmitTask(again, token))


def test_4_another_summary_of_the_same_entry() -> None:
    """Both have written the table as of entry 3, with other schedules in it."""
    seen = Record(Coverage())
    one = mark(3, 1)
    other = type(one)(LogIndex(3), one.applied_term, one.digest, b"others", one.configuration)
    invariants_queue.same_rows_written(seen, "n1", LedgerWrite(one, [], [], [], 0))
    with breaks("4"):
        invariants_queue.same_rows_written(seen, "n2", LedgerWrite(other, [], [], [], 0))
