"""The ledger against the simulator's model of it, over logs that make no sense as well as over those that do.

The simulator compares the two wherever real nodes lead; there, nobody proposes nonsense.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.ids import FencingToken, LogIndex, NodeId, TaskId, Term
from mesh.ledger.commands import (
    BY_HAND,
    AdmitNode,
    Batch,
    CancelTask,
    Command,
    CompleteTask,
    DrainNode,
    DropDeadLetter,
    ElectLeader,
    FailAttempt,
    FailNode,
    GrantLease,
    LeaveNode,
    RedriveTask,
    ReleaseLease,
    SaveCheckpoint,
    StartTask,
    SubmitTask,
)
from mesh.ledger.ledger import Ledger
from mesh.ledger.task import COMPLETED, DEAD, DISPATCHED, FINISHED, RUNNING
from mesh.messages import TaskSpec
from mesh.sim.coverage import Coverage
from mesh.sim.model import Model
from mesh.wire.codec import encode

NAMES = [TaskId(name) for name in "abc"]
NODES = [NodeId("ana"), NodeId("ben")]
ATTEMPTS_MAX = 2

Sketch = tuple[str, int, int, int, bool]
"""What, which task, which node, how far from the token it would take, and yes or no."""

sketches = st.tuples(
    st.sampled_from(
        "submit submit grant grant grant start start save complete complete fail fail release cancel redrive redrive"
        " drop admit admit fail_node leave drain elect".split()
    ),
    st.integers(0, 2),
    st.integers(0, 1),
    st.sampled_from([0, 0, 0, 0, 0, 1, -1, 40]),
    st.booleans(),
)
logs = st.lists(st.tuples(st.lists(sketches, min_size=1, max_size=4), st.integers(0, 3_000)), min_size=15, max_size=40)


def command(sketch: Sketch, model: Model) -> Command:
    """The command a sketch stands for, mostly under the token that is in force."""
    what, which, who, off, yes = sketch
    task_id, node_id = NAMES[which], NODES[who]
    known, node = model.tasks.get(task_id), model.nodes.get(node_id)
    token = FencingToken(max(0, (known.token if known is not None else 0) + off))
    incarnation = max(1, (node.incarnation if node is not None else 1) + (1 if yes and off == 0 else 0))
    lived = node.incarnation if node is not None and off == 0 else 1
    match what:
        case "submit":
            later_ms = model.at_ms + 1_000 if off == 40 else 0
            payload = b"\x02" if off == -1 else b"\x01"
            return SubmitTask(TaskSpec(task_id, "code", payload, 5, ATTEMPTS_MAX, later_ms))
        case "grant":
            return GrantLease(task_id, node_id)
        case "start":
            return StartTask(task_id, token)
        case "save":
            return SaveCheckpoint(task_id, token, BY_HAND if off == 1 else which + 1, b"\x07")
        case "complete":
            return CompleteTask(task_id, token, b"\x05")
        case "fail":
            return FailAttempt(task_id, token, "boom", "Traceback", 50 * which, yes and off == 0)
        case "release":
            return ReleaseLease(task_id, token, "drained")
        case "cancel":
            return CancelTask(task_id, "changed my mind")
        case "redrive":
            return RedriveTask(task_id)
        case "drop":
            return DropDeadLetter(task_id, "not worth it")
        case "admit":
            return AdmitNode(node_id, incarnation)
        case "fail_node":
            return FailNode(node_id, lived, "silent")
        case "leave":
            return LeaveNode(node_id, lived)
        case "drain":
            return DrainNode(node_id, yes)
        case _:
            return ElectLeader(node_id, Term(3))


@settings(max_examples=150)
@given(logs)
def test_the_ledger_does_what_its_model_says(log: list[tuple[list[Sketch], int]]) -> None:
    """Every outcome, every task's state, token, attempts and holder, and all counts, after every entry. Tokens only
    grow, what has ended stays as it ended, a task is completed once.
    """
    ledger, model = Ledger(), Model(Coverage())
    tokens: dict[TaskId, int] = {}
    ends: dict[TaskId, int] = {}
    completions: dict[TaskId, int] = {}
    at_ms = 0
    model.apply(1, Batch(0, [AdmitNode(node_id, 1) for node_id in NODES]))
    first = Batch(0, [AdmitNode(node_id, 1) for node_id in NODES])
    ledger.apply(LogIndex(1), Term(2), first, encode(first))
    for number, (entry, pause_ms) in enumerate(log, 2):
        at_ms += pause_ms
        batch = Batch(at_ms, [command(sketch, model) for sketch in entry])
        applied = ledger.apply(LogIndex(number), Term(2), batch, encode(batch))
        assert bytes(applied.outcomes) == model.apply(number, batch), batch.commands
        assert ledger.counts == model.counts
        for task_id, ought in model.tasks.items():
            task = ledger.tasks.get(task_id)
            assert (task is None) == (ought.state in FINISHED)
            if task is None:
                assert ends.setdefault(task_id, ought.state) == ought.state
                continue
            node_id = task.node_id if task.state in (DISPATCHED, RUNNING) else NodeId("")
            ought_node = ought.node_id if ought.state in (DISPATCHED, RUNNING) else ""
            assert (task.state, task.token, task.attempts) == (ought.state, ought.token, ought.attempts)
            assert node_id == ought_node
            assert task.token == 0 or task.token >= tokens.get(task_id, 0)
            tokens[task_id] = max(tokens.get(task_id, 0), task.token)
        for task in applied.finished:
            if task.state == COMPLETED:
                completions[task.task_id] = completions.get(task.task_id, 0) + 1
            assert task.state in FINISHED or task.state == DEAD
    assert all(count == 1 for count in completions.values())
