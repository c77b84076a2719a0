"""One node's right to complete one task: grants, starts, checkpoints, and giving back."""

import pytest

from mesh.ids import FencingToken, NodeId, TaskId
from mesh.ledger.applied import ALREADY, DONE, FENCED, REFUSED, UNKNOWN, EndedLease, KeptCheckpoint
from mesh.ledger.commands import BY_HAND, DrainNode, FailNode, ReleaseLease, SaveCheckpoint, StartTask
from mesh.messages import AttemptOrder
from tests.ledger.cast import ANA, BEN, RESIZE, complete, fail, grant, kinds, submit, with_nodes

TOKEN = FencingToken(2)


def start(token: int = 2) -> StartTask:
    return StartTask(RESIZE, FencingToken(token))


def save(sequence: int, state: bytes, token: int = 2) -> SaveCheckpoint:
    return SaveCheckpoint(RESIZE, FencingToken(token), sequence, state)


def test_the_token_is_the_index_of_the_grant_and_grows() -> None:
    """ana is granted the task at entry 2; after she fails it, ben gets it at entry 4."""
    log = with_nodes(ANA, BEN)
    granted = log.apply(submit(RESIZE), grant(RESIZE, ANA))
    assert [task.attempt_order(2) for task in granted.granted] == [
        AttemptOrder(RESIZE, FencingToken(2), 1, "image", b"\x80", b"")
    ]
    log.apply(fail(RESIZE, 2), at_ms=2_000)
    log.apply(grant(RESIZE, BEN), at_ms=3_000)
    assert (log.ledger.tasks[RESIZE].token, log.state(RESIZE)) == (4, "dispatched")


def test_a_task_has_one_holder() -> None:
    """While ana holds it, nobody else can have it, and neither can she twice."""
    log = with_nodes(ANA, BEN)
    log.apply(submit(RESIZE), grant(RESIZE, ANA))
    refused = log.apply(grant(RESIZE, BEN), grant(RESIZE, ANA))
    assert list(refused.outcomes) == [REFUSED, REFUSED]
    assert list(log.ledger.holder_leases(ANA)) == [RESIZE]


@pytest.mark.parametrize("verdict", [FailNode(ANA, 1, "silent"), DrainNode(ANA, True)])
def test_a_node_that_failed_or_drains_is_granted_nothing(verdict: FailNode | DrainNode) -> None:
    """The grant was proposed before the verdict and comes after it in the log."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE), verdict)
    assert list(log.apply(grant(RESIZE, ANA)).outcomes) == [REFUSED]
    assert log.state(RESIZE) == "pending"


def test_unknown_tasks_and_nodes_are_refused() -> None:
    """A grant of nothing, or to nobody."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE))
    applied = log.apply(grant(TaskId("nothing"), ANA), grant(RESIZE, NodeId("nobody")))
    assert list(applied.outcomes) == [UNKNOWN, UNKNOWN]


def test_two_grants_of_one_task_in_one_entry_would_share_a_token_so_the_second_is_refused() -> None:
    """ana's lease is released and granted to ben within the very entry that granted it to her."""
    log = with_nodes(ANA, BEN)
    release = ReleaseLease(RESIZE, TOKEN, "rebalanced")
    applied = log.apply(submit(RESIZE), grant(RESIZE, ANA), release, grant(RESIZE, BEN))
    assert list(applied.outcomes) == [DONE, DONE, DONE, REFUSED]
    assert log.state(RESIZE) == "pending"


def test_an_attempt_is_charged_when_its_user_code_starts() -> None:
    """Dispatched is not started: the attempt counts from StartTask on, and once."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE), grant(RESIZE, ANA))
    assert log.ledger.tasks[RESIZE].attempts == 0
    assert list(log.apply(start(), start()).outcomes) == [DONE, ALREADY]
    assert (log.state(RESIZE), log.ledger.tasks[RESIZE].attempts) == ("running", 1)
    assert log.ledger.tasks[RESIZE].attempt_order(2).attempt == 1
    assert list(log.apply(start(token=1)).outcomes) == [FENCED]


def test_checkpoints_go_forward_and_are_read_back_by_the_next_attempt() -> None:
    """S0-05, S0-28: ana saves twice, an old save comes late, she fails; ben begins where she was."""
    log = with_nodes(ANA, BEN)
    log.apply(submit(RESIZE), grant(RESIZE, ANA))
    kept = log.apply(save(1, b"\x0a"), save(2, b"\x14"), save(1, b"\x0a"))
    assert list(kept.outcomes) == [DONE, DONE, ALREADY]
    assert kept.checkpoints == [
        KeptCheckpoint(RESIZE, TOKEN, 1, True),
        KeptCheckpoint(RESIZE, TOKEN, 2, True),
        KeptCheckpoint(RESIZE, TOKEN, 1, True),
    ]
    assert kinds(kept) == ["task_started", "task_checkpointed", "task_checkpointed"]

    log.apply(fail(RESIZE, 2), at_ms=3_000)
    late = log.apply(save(3, b"\x1e"))
    assert late.checkpoints == [KeptCheckpoint(RESIZE, TOKEN, 3, False)]
    granted = log.apply(grant(RESIZE, BEN), at_ms=9_000)
    assert granted.granted[0].attempt_order(2).checkpoint == b"\x14"
    # ben counts his own checkpoints from 1 again.
    assert list(log.apply(save(1, b"\x28", token=6)).outcomes) == [DONE]


def test_a_lease_given_back_costs_no_attempt() -> None:
    """S0-26: ana is told to stop, the task waits at its old place, and what she may still report is fenced later."""
    log = with_nodes(ANA, BEN)
    log.apply(submit(RESIZE), grant(RESIZE, ANA), start())
    released = log.apply(ReleaseLease(RESIZE, TOKEN, "rebalanced"))
    assert released.ended == [EndedLease(ANA, RESIZE, TOKEN)]
    assert kinds(released) == ["task_released"]
    assert (log.state(RESIZE), log.ledger.tasks[RESIZE].attempts) == ("pending", 0)
    assert list(log.apply(ReleaseLease(RESIZE, TOKEN, "again")).outcomes) == [FENCED]
    log.apply(grant(RESIZE, BEN))
    assert list(log.apply(complete(RESIZE, 2)).outcomes) == [FENCED]


def test_history_is_bounded_and_keeps_its_beginning() -> None:
    """A task that is granted and given back 150 times still says when it was submitted."""
    log = with_nodes(ANA)
    log.apply(submit(RESIZE))
    for _ in range(150):
        token = log.ledger.applied_index + 1
        log.apply(grant(RESIZE, ANA))
        log.apply(ReleaseLease(RESIZE, FencingToken(token), "again"))
    history = log.ledger.tasks[RESIZE].history
    assert (len(history), history[0].index, history[-1].index) == (200, 2, 302)


def test_a_checkpoint_saved_by_hand_stands_outside_the_attempts_own_sequence() -> None:
    """S0-28: twice by hand, which charges nothing; then ana's own first one, which is no repetition of those."""
    log = with_nodes(ANA, BEN)
    log.apply(submit(RESIZE), grant(RESIZE, ANA))
    by_hand = log.apply(save(BY_HAND, b"\x01"), save(BY_HAND, b"\x02"))
    assert list(by_hand.outcomes) == [DONE, DONE]
    task = log.ledger.tasks[RESIZE]
    assert (task.checkpoint, task.checkpoint_sequence, task.attempts, log.state(RESIZE)) == (
        b"\x02",
        0,
        0,
        "dispatched",
    )
    assert list(log.apply(save(1, b"\x0a"), save(BY_HAND, b"\x03"), save(1, b"\x0a")).outcomes) == [DONE, DONE, ALREADY]
    assert (task.checkpoint, task.checkpoint_sequence, task.attempts, log.state(RESIZE)) == (b"\x03", 1, 1, "running")
    assert list(log.apply(save(BY_HAND, b"\x04", token=1)).outcomes) == [FENCED]
