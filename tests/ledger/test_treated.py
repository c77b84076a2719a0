"""Tasks that are treated in some way of their own: what is derived of them is what a recount finds."""

from hypothesis import given, settings

from mesh.ids import FencingToken, NodeId, TaskId
from mesh.ledger.applied import DONE, REFUSED
from mesh.ledger.commands import CancelTask, Command, DropDeadLetter, FailNode, RedriveTask
from mesh.ledger.ledger import Ledger
from mesh.ledger.task import DEAD, DISPATCHED, RUNNING
from mesh.ledger.treated import has_limit
from mesh.options import Concurrency, LossPolicy, Options, WhenFull
from tests.ledger import commands
from tests.ledger.cast import ANA, MAIL, RESIZE, Log, Shelf, complete, fail, grant, levelled, start, submit

AMY, BOB, CID, DAN = (TaskId(name) for name in ("zz amy", "yy bob", "xx cid", "ww dan"))
"""In the order they come in; by their ids they stand the other way round."""
OLDEST = Options(concurrency=Concurrency("door", 2, WhenFull.CANCEL_OLDEST))


def recount(ledger: Ledger) -> None:
    """Everything that is kept of the tasks beside the tasks is as these say."""
    treated = ledger.treated
    optioned = {task_id: task for task_id, task in ledger.tasks.items() if task.spec.options is not None}
    holding: dict[str, int] = {}
    under: dict[str, list[tuple[int, TaskId]]] = {}
    children: dict[TaskId, list[TaskId]] = {}
    limited = []
    for task_id, task in optioned.items():
        options = task.spec.options
        assert options is not None
        if has_limit(options):
            limited.append(task_id)
        if options.parent:
            children.setdefault(options.parent, []).append(task_id)
        if options.concurrency is not None and task.state != DEAD:
            under.setdefault(options.concurrency.key, []).append((task.order, task_id))
            if task.state in (DISPATCHED, RUNNING):
                key = options.concurrency.key
                holding[key] = holding.get(key, 0) + 1
    assert treated.holding == holding
    assert sorted(treated.limited) == sorted(limited)
    assert {key: sorted(found) for key, found in treated.children.items()} == {
        key: sorted(found) for key, found in children.items()
    }
    assert {
        key: sorted((task.order, task_id) for task_id, task in found.items()) for key, found in treated.under.items()
    } == {key: sorted(found) for key, found in under.items()}
    for key, found in under.items():
        assert treated.oldest(key).task_id == min(found)[1]
    assert ledger.live_bytes == sum(len(task.spec.payload) for task in ledger.tasks.values())


@settings(max_examples=200, deadline=None)
@given(commands.HISTORIES)
def test_what_is_counted_is_what_is_there(history: list[list[Command]]) -> None:
    """Any commands in any order: concurrency keys, limits, children and bytes of payloads never drift."""
    log = levelled()
    for entry in history:
        log.apply(*commands.meant(log.ledger, entry))
        recount(log.ledger)


# --- who is the oldest ------------------------------------------------------------------------------------------------


def test_the_oldest_is_the_same_after_a_restart() -> None:
    """Rows come back by their ids, which say nothing of who came first: every replica must drive out the same one."""
    log = levelled(ANA)
    log.apply(submit(AMY, options=OLDEST), submit(BOB, options=OLDEST))
    shelf = Shelf().write(log.ledger)
    for ledger in (log.ledger, shelf.started(), shelf.handed_over()):
        Log(ledger).apply(submit(CID, options=OLDEST), submit(DAN, options=OLDEST))
        assert sorted(ledger.tasks) == [DAN, CID]
        recount(ledger)


def test_a_dead_letter_does_not_count_under_its_key_and_counts_when_it_is_put_back() -> None:
    """It runs no more. Put back, it is the youngest: it stands at the end of the line."""
    log = levelled(ANA)
    options = Options(concurrency=Concurrency("door", 2, WhenFull.REJECT))
    log.apply(submit(AMY, options=options, attempts_max=1), submit(BOB, options=options), grant(AMY, ANA))
    assert list(log.apply(submit(CID, options=options)).outcomes) == [REFUSED]
    log.apply(fail(AMY, 3))
    assert list(log.apply(submit(CID, options=options)).outcomes) == [DONE]
    log.apply(CancelTask(CID, ""), RedriveTask(AMY))
    assert list(log.ledger.treated.under["door"]) == [BOB, AMY]
    assert list(log.apply(submit(DAN, options=options)).outcomes) == [REFUSED]
    recount(log.ledger)


def test_a_held_task_that_is_put_back_is_the_youngest_too() -> None:
    """It has lived under its key all along."""
    log = levelled(ANA)
    options = Options(concurrency=OLDEST.concurrency, on_loss=LossPolicy.HOLD)
    log.apply(submit(AMY, options=options), grant(AMY, ANA), submit(BOB, options=options))
    log.apply(start(AMY, 3), FailNode(ANA, 1, "silent"))
    assert log.ledger.treated.oldest("door").task_id == AMY
    log.apply(RedriveTask(AMY))
    assert log.ledger.treated.oldest("door").task_id == BOB
    shelf = Shelf().write(log.ledger)
    for ledger in (log.ledger, shelf.started(), shelf.handed_over()):
        Log(ledger).apply(submit(CID, options=options))
        assert sorted(ledger.tasks) == [CID, AMY]


# --- children ---------------------------------------------------------------------------------------------------------


def test_children_are_known_by_their_parent_as_long_as_they_are_there() -> None:
    """S1-35. A dead one is still somebody's child; a finished one is not, and a parent need not live."""
    log = levelled(ANA)
    options = Options(parent=RESIZE)
    log.apply(submit(AMY, options=options, attempts_max=1), submit(BOB, options=options), grant(AMY, ANA))
    log.apply(submit(MAIL), fail(AMY, 3))
    assert {parent: list(found) for parent, found in log.ledger.treated.children.items()} == {RESIZE: [AMY, BOB]}
    log.apply(CancelTask(BOB, ""))
    log.apply(DropDeadLetter(AMY, ""))
    assert log.ledger.treated.children == {}


def test_tasks_without_options_are_in_none_of_it() -> None:
    log = levelled(ANA)
    log.apply(submit(RESIZE), submit(MAIL, options=Options()), grant(RESIZE, ANA), grant(MAIL, ANA))
    log.apply(complete(RESIZE, 3), complete(MAIL, 3))
    treated = log.ledger.treated
    assert (treated.limited, treated.under, treated.holding, treated.children) == ({}, {}, {}, {})


def test_a_row_that_comes_again_counts_once() -> None:
    """While a table comes in the leader changes: amy is leased in the first one's rows, waits in the second's, bob has
    ended in it."""
    log = levelled(ANA)
    options = Options(concurrency=OLDEST.concurrency, parent=RESIZE, run_timeout_ms=9)
    log.apply(submit(AMY, options=options), submit(BOB, options=options), grant(AMY, ANA), grant(BOB, ANA))
    shelf = Shelf().write(log.ledger)
    before = dict(shelf.rows)
    log.apply(FailNode(NodeId("ana"), 1, "silent"), complete(BOB, FencingToken(3)))
    shelf.write(log.ledger)
    ledger = shelf.handed_over(before)
    recount(ledger)
    assert (ledger.treated.holding, list(ledger.tasks), list(ledger.finished)) == ({}, [AMY], [BOB])
