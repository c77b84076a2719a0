"""What the ledger knows besides tasks and nodes outlives restarts and goes from node to node with the table (E.2).

A table is put down as the store does it, in bytes, and taken up again: from disk, and page by page as a node gets it
that fell behind. Nobody can tell the two from the one that ran on.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh import durable
from mesh.ids import FencingToken, LogIndex, TaskId
from mesh.ledger import intake as intake_module
from mesh.ledger import table as table_module
from mesh.ledger.applied import ALREADY, CONFLICT, DONE
from mesh.ledger.commands import (
    Batch,
    CancelTask,
    Command,
    PauseQueue,
    SetCron,
    SetSetting,
    SubmitTask,
)
from mesh.ledger.ledger import Ledger, Summary
from mesh.ledger.registry import Breaker, Cron, Pause, Registry, Window
from mesh.ledger.settings import Settings
from mesh.messages import TaskSpec
from mesh.node.admitting import NEVER_GRANTED
from mesh.options import Concurrency, CronSpec, Options, Rate, WhenFull
from mesh.wire.codec import decode_summary, decode_task, decode_value, encode
from tests.ledger import commands
from tests.ledger.cast import (
    ANA,
    BEN,
    MAIL,
    RESIZE,
    TERM,
    Log,
    Shelf,
    complete,
    fail,
    grant,
    levelled,
    spec,
    submit,
)

WINDOW = Options(window_ms=1_000)


def queue_of(ledger: Ledger) -> list[list[str]]:
    """Every lane, from the front, in no order of the lanes; and those whose time has not come."""
    queue = ledger.queue
    lanes = []
    for lane in queue.lanes.values():
        entries = [entry for heap in lane.rungs.values() for entry in heap if entry[3].ticket == entry[2]]
        lanes.append([str(entry[3].task_id) for entry in sorted(entries, key=lambda entry: entry[:2])])
    later = [entry for entry in queue._later if entry[3].ticket == entry[2]]
    return [*sorted(lanes), [str(entry[3].task_id) for entry in sorted(later, key=lambda entry: entry[:2])]]


def assert_equal(one: Ledger, other: Ledger) -> None:
    assert (one.digest, one.counts, one.at_ms, one.live_bytes) == (
        other.digest,
        other.counts,
        other.at_ms,
        other.live_bytes,
    )
    assert encode(one.registry()) == encode(other.registry())
    assert queue_of(one) == queue_of(other)
    assert (one.finished, one.finished_count) == (other.finished, other.finished_count)
    assert {task_id: encode_of(one, task_id) for task_id in one.tasks} == {
        task_id: encode_of(other, task_id) for task_id in other.tasks
    }
    assert (one.treated.holding, sorted(one.treated.limited)) == (other.treated.holding, sorted(other.treated.limited))


def encode_of(ledger: Ledger, task_id: TaskId) -> bytes:
    """A row but for the ticket, which is each queue's own."""
    task = ledger.tasks[task_id]
    ticket, task.ticket = task.ticket, 0
    data = encode(task)
    task.ticket = ticket
    return data


# --- all of it --------------------------------------------------------------------------------------------------------


def test_all_of_it_is_kept_with_the_table() -> None:
    """One of each, as it stands after a few entries."""
    log = levelled(ANA, BEN)
    cron = CronSpec("nightly", "0 3 * * *", "backup", b"\x80")
    options = Options(concurrency=Concurrency("door", 2), rates=(Rate("api", 2, 1_000),), sticky="eva")
    log.apply(
        SetSetting("breaker_failures", 1),
        SetSetting("breaker_open_ms", 4_000),
        PauseQueue("mail", 90_000, "429"),
        SetCron(cron, 80_000),
        submit(RESIZE, options=options),
        grant(RESIZE, ANA),
        submit(MAIL, attempts_max=1),
        grant(MAIL, BEN),
        at_ms=5_000,
    )
    log.apply(fail(MAIL, 3), at_ms=5_500)
    log.apply(submit(TaskId("probe")), grant(TaskId("probe"), BEN), at_ms=9_500)
    expected = Registry(
        1,
        Settings(breaker_failures=1, breaker_open_ms=4_000),
        {"mail": Pause(90_000, "429")},
        [Breaker(BEN, "image", 1, 5_500, 0, TaskId("probe"), FencingToken(5))],
        {"api": Window(2, 1_000, [5_000])},
        {"eva": ANA},
        [Cron(cron, 80_000)],
    )
    shelf = Shelf().write(log.ledger)
    for ledger in (shelf.started(), shelf.handed_over()):
        assert ledger.registry() == expected
        assert_equal(log.ledger, ledger)


def test_a_table_of_a_release_that_knew_none_of_it_is_taken_up() -> None:
    """Level 0: its summary says nothing of it."""
    old = encode([[], [0] * 10, 0, 7_000])
    assert decode_summary(old) == Summary([], [0] * 10, 0, 7_000, Registry())
    # And a task as such a release kept it, seventeen fields long.
    log = levelled()
    log.apply(submit(RESIZE))
    fields = decode_value(encode(log.ledger.tasks[RESIZE]))
    fields[0] = fields[0][:8]
    assert encode(decode_task(encode(fields[:17]))) == encode_of(log.ledger, RESIZE)


def test_what_is_changed_in_one_table_is_not_changed_in_another() -> None:
    """A summary that is not yet written shares nothing with the table that goes on."""
    log = levelled(ANA)
    log.apply(PauseQueue("mail", 0, ""))
    before = encode(log.ledger.registry())
    other = Ledger()
    other.register(log.ledger.registry())
    Log(other).apply(PauseQueue("image", 0, ""), SetSetting("strategy", 3))
    assert encode(log.ledger.registry()) == before


# --- any log ----------------------------------------------------------------------------------------------------------


@settings(max_examples=250, deadline=None)
@given(commands.HISTORIES, st.sets(st.integers(0, 30), max_size=4), st.booleans())
def test_whoever_is_restarted_on_the_way_stays_equal(
    history: list[list[Command]], stops: set[int], by_transfer: bool
) -> None:
    """Two replicas apply the same log. One is put down and taken up again at any points, from its disk or from pages of
    the other's; its store may have been written at other times too. Nobody can tell."""
    through, ledger = levelled().ledger, levelled().ledger
    shelf = Shelf().write(ledger)
    for position, entry in enumerate(history):
        if position in stops:
            shelf.write(ledger)
            ledger = shelf.handed_over() if by_transfer else shelf.started()
        elif position % 4 == 0:
            shelf.write(ledger)
        index = LogIndex(through.applied_index + 1)
        batch = Batch(1_000 * index, commands.meant(through, entry))
        data = encode(batch)
        one, other = through.apply(index, TERM, batch, data), ledger.apply(index, TERM, batch, data)
        assert one.outcomes == other.outcomes
        assert encode(one.events) == encode(other.events)
        assert one.ended == other.ended
        assert_equal(through, ledger)


# --- what is remembered of finished tasks -----------------------------------------------------------------------------


def ended(log: Log, name: str) -> int:
    """A task of this id comes and completes. Returns its token."""
    task_id = TaskId(name)
    token = log.apply(submit(task_id), grant(task_id, ANA)).index
    log.apply(complete(task_id, token))
    return int(token)


def again(name: str, token: int) -> SubmitTask:
    return SubmitTask(spec(TaskId(name), payload=b"new"), FencingToken(token))


def small_window(monkeypatch: pytest.MonkeyPatch, finished_max: int) -> None:
    for module in (table_module, intake_module, durable):
        assert module.FINISHED_MAX == 262_144
        monkeypatch.setattr(module, "FINISHED_MAX", finished_max)


def test_an_id_whose_window_is_over_is_another_task() -> None:
    """E.11: the leader has found it; the table only asks whether that is the end it knows."""
    log = levelled(ANA)
    token = ended(log, "a")
    wrong = log.apply(again("a", token + 1), again("b", 3))
    assert list(wrong.outcomes) == [CONFLICT, DONE]
    log.apply(CancelTask(TaskId("b"), ""))
    renewed = log.apply(again("a", token), again("a", token))
    assert (list(renewed.outcomes), renewed.submitted) == ([DONE, ALREADY], ["a", "a"])
    task = log.ledger.tasks[TaskId("a")]
    assert (task.spec.payload, task.token, task.attempts, log.state(TaskId("a"))) == (b"new", 0, 0, "pending")
    # What the first one's holder says once more is fenced.
    assert list(log.apply(complete(TaskId("a"), token)).outcomes) == [4]


def test_one_that_ended_before_it_was_granted_may_be_another_task_too() -> None:
    """It was cancelled, or has expired, while it waited: there is no token to name it by."""
    log = levelled(ANA)
    log.apply(submit(RESIZE), CancelTask(RESIZE, ""))
    assert list(log.apply(again(RESIZE, 0)).outcomes) == [CONFLICT]
    assert list(log.apply(again(RESIZE, NEVER_GRANTED)).outcomes) == [DONE]
    token = ended(log, "b")
    assert list(log.apply(again("b", NEVER_GRANTED), again("b", token)).outcomes) == [CONFLICT, DONE]


def test_an_id_that_is_turned_down_is_not_freed() -> None:
    """Its concurrency key is full: refused, and nothing has changed, here as everywhere."""
    log = levelled(ANA)
    options = Options(concurrency=Concurrency("door", 1, WhenFull.REJECT), window_ms=1)
    token = ended(log, "a")
    log.apply(submit(RESIZE, options=options))
    renewal = SubmitTask(TaskSpec(TaskId("a"), "image", b"new", options=options), FencingToken(token))
    refused = log.apply(renewal, submit(TaskId("a")))
    assert (list(refused.outcomes), refused.turned_down) == ([5, ALREADY], ["a"])
    assert list(log.ledger.finished_order) == ["a"]


@pytest.mark.parametrize("renewed", ["a", "b", "c", "abc", ""])
@pytest.mark.parametrize("is_ended", [True, False])
def test_what_is_remembered_is_the_same_for_whoever_was_restarted(
    monkeypatch: pytest.MonkeyPatch, renewed: str, is_ended: bool
) -> None:
    """Four are remembered. a, b and c end as the first three; some ids are taken again, and end again or not. Those
    leave their old numbers empty, in the window's front, middle or end, and for whoever finds the table on disk, or is
    handed it, the others leave the window at the very same entry as for whoever ran on."""
    small_window(monkeypatch, 4)
    log = levelled(ANA)
    tokens = {name: ended(log, name) for name in "abc"}
    for name in renewed:
        token = log.apply(again(name, tokens[name]), grant(TaskId(name), ANA)).index
        if is_ended:
            log.apply(complete(TaskId(name), token))
    shelf = Shelf().write(log.ledger)
    others = [Log(shelf.started()), Log(shelf.handed_over())]
    for number in range(6):
        for one in (log, *others):
            ended(one, f"n{number}")
            known = [list(one.apply(*(submit(TaskId(name)) for name in "abc")).outcomes)]
            assert (known, one.ledger.finished) == (known, log.ledger.finished)
            assert len(one.ledger.finished_order) <= 4
        assert len({one.ledger.digest for one in (log, *others)}) == 1
        assert [one.ledger.take_changes().forgotten for one in others] == [log.ledger.take_changes().forgotten] * 2


def test_rows_of_two_leaders_make_one_table() -> None:
    """A node has got rows of one leader when the next one takes over. In between ids have been taken again: a, which
    lives; b, which has ended once more; and c was cancelled twice without ever having been granted."""
    log = levelled(ANA)
    tokens = {name: ended(log, name) for name in "ab"}
    log.apply(submit(TaskId("c")), CancelTask(TaskId("c"), ""))
    ended(log, "d")
    shelf = Shelf().write(log.ledger)
    before = dict(shelf.rows)
    log.apply(*(again(name, tokens[name]) for name in "ab"), SubmitTask(spec(TaskId("c")), NEVER_GRANTED))
    log.apply(grant(TaskId("b"), ANA), CancelTask(TaskId("c"), ""))
    log.apply(complete(TaskId("b"), log.ledger.applied_index))
    ledger = shelf.write(log.ledger).handed_over(before)
    assert (list(ledger.tasks), list(ledger.finished)) == (["a"], ["d", "c", "b"])
    assert list(ledger.finished_order) == ["d", "c", "b"]
    assert_equal(log.ledger, ledger)
    # It goes on as the others do: `d` is the oldest that is remembered, and its place is where it was.
    assert ledger.finished_count == log.ledger.finished_count == 6
