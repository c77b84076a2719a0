"""What the leader proposes about nodes until table and detector agree, and which leases it takes back."""

from mesh.config import GossipConfig
from mesh.dispatch import verdicts
from mesh.gossip.detector import Detector
from mesh.gossip.members import Health
from mesh.ids import FencingToken, NodeId, TaskId
from mesh.ledger.commands import (
    AdmitNode,
    DrainNode,
    FailNode,
    LeaveNode,
    ReleaseLease,
    SaveCheckpoint,
    StartTask,
    SubmitTask,
)
from mesh.ledger.ledger import Ledger
from mesh.ledger.task import PENDING
from mesh.messages import TaskSpec
from mesh.options import LossPolicy, Options
from tests.ledger.cast import ANA, BEN, Log, grant, submit


def detector(**members: tuple[int, Health]) -> Detector:
    """ana and ben as somebody sees them: incarnation and health."""
    made = Detector(GossipConfig(), NodeId("boss"), "c", [(NodeId(name), "h") for name in members], 0)
    for name, (incarnation, health) in members.items():
        state = made.member(NodeId(name))
        assert state is not None
        state.incarnation, state.health = incarnation, health  # type: ignore[assignment]
    return made


def due(ledger: Ledger, seen: Detector) -> list[AdmitNode | FailNode]:
    return verdicts.due(ledger, seen, {ANA: "link lost"})


def test_a_node_that_is_heard_is_admitted() -> None:
    """ana has been heard, ben not yet, and the boss knows nothing of himself."""
    seen = detector(ana=(1, Health.HEALTHY), ben=(0, Health.HEALTHY))
    assert due(Ledger(), seen) == [AdmitNode(ANA, 1)]


def test_a_new_incarnation_is_admitted_even_before_it_is_healthy() -> None:
    """Its old leases end all the sooner."""
    log = Log()
    log.apply(AdmitNode(ANA, 1))
    assert due(log.ledger, detector(ana=(2, Health.RECOVERING))) == [AdmitNode(ANA, 2)]


def test_a_failed_node_is_given_up_once_with_the_reason() -> None:
    """Also when what failed is an incarnation the table has not heard of: the old one holds the leases."""
    log = Log()
    log.apply(AdmitNode(ANA, 1), AdmitNode(BEN, 1))
    seen = detector(ana=(1, Health.FAILED), ben=(2, Health.FAILED))
    assert due(log.ledger, seen) == [FailNode(ANA, 1, "link lost"), FailNode(BEN, 1, "silent")]
    log.apply(FailNode(ANA, 1, "link lost"), FailNode(BEN, 1, "silent"))
    assert due(log.ledger, seen) == []


def test_a_node_that_recovers_is_admitted_when_it_is_healthy_again() -> None:
    """S0-03: recovering is not enough; a degraded one that never failed is left alone."""
    log = Log()
    log.apply(AdmitNode(ANA, 1), AdmitNode(BEN, 1), FailNode(ANA, 1, "silent"))
    assert due(log.ledger, detector(ana=(1, Health.RECOVERING), ben=(1, Health.DEGRADED))) == []
    assert due(log.ledger, detector(ana=(1, Health.HEALTHY), ben=(1, Health.HEALTHY))) == [AdmitNode(ANA, 1)]


def test_load_is_evened_out_by_leases_that_have_not_started() -> None:
    """S0-26: ana holds four, one of them running; ben holds none and has as many slots."""
    log = Log()
    log.apply(AdmitNode(ANA, 1), AdmitNode(BEN, 1))
    names = [TaskId(name) for name in "abcd"]
    log.apply(*(submit(name) for name in names), *(grant(name, ANA) for name in names))
    log.apply(StartTask(names[0], FencingToken(2)))
    moves = verdicts.moves(log.ledger, {ANA: 4, BEN: 4})
    assert moves == [ReleaseLease(TaskId(name), FencingToken(2), "rebalanced") for name in "bc"]


def test_a_node_that_may_not_be_granted_to_gives_back_all_that_has_not_started() -> None:
    """It drains; but where nobody could take over, nothing moves."""
    log = Log()
    log.apply(AdmitNode(ANA, 1), submit(TaskId("a")), grant(TaskId("a"), ANA))
    assert verdicts.moves(log.ledger, {BEN: 4}) == [ReleaseLease(TaskId("a"), FencingToken(1), "rebalanced")]
    assert verdicts.moves(log.ledger, {}) == []


def test_what_runs_on_a_node_that_drains_moves_if_it_has_a_checkpoint() -> None:
    """S0-26: of three on ana, who drains, one is running from a checkpoint, one has none, and one must not be begun
    twice. The first alone moves, and is not charged for it.
    """
    log = Log()
    held = Options(on_loss=LossPolicy.HOLD)
    log.apply(AdmitNode(ANA, 1), AdmitNode(BEN, 1))
    log.apply(submit(TaskId("a")), submit(TaskId("b")), SubmitTask(TaskSpec(TaskId("c"), "image", b"", options=held)))
    log.apply(*(grant(TaskId(name), ANA) for name in "abc"))
    log.apply(*(StartTask(TaskId(name), FencingToken(3)) for name in "abc"))
    log.apply(*(SaveCheckpoint(TaskId(name), FencingToken(3), 1, b"\x01") for name in "ac"), DrainNode(ANA, True))
    moves = verdicts.moves(log.ledger, {BEN: 4})
    assert moves == [ReleaseLease(TaskId("a"), FencingToken(3), "rebalanced")]
    log.apply(*moves)
    task = log.ledger.tasks[TaskId("a")]
    assert (task.state, task.attempts, task.checkpoint) == (PENDING, 0, b"\x01")


def test_who_left_is_neither_admitted_nor_given_up_until_it_is_another_life() -> None:
    """Heard still, for a moment, or silent by now."""
    log = Log()
    log.apply(AdmitNode(ANA, 1))
    log.apply(LeaveNode(ANA, 1))
    assert [due(log.ledger, detector(ana=(1, health))) for health in (Health.HEALTHY, Health.FAILED)] == [[], []]
    assert due(log.ledger, detector(ana=(2, Health.HEALTHY))) == [AdmitNode(ANA, 2)]


def test_who_is_watched_no_more_is_given_up() -> None:
    """ben was removed from the mesh while he held leases."""
    log = Log()
    log.apply(AdmitNode(ANA, 1), AdmitNode(BEN, 1))
    assert due(log.ledger, detector(ana=(1, Health.HEALTHY))) == [FailNode(BEN, 1, "removed from the mesh")]
