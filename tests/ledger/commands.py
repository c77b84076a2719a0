"""Any commands, sensible or not, about few tasks on two nodes: for tests that hold of every log."""

from hypothesis import strategies as st
from msgspec import structs

from mesh.ids import FencingToken, NodeId, TaskId
from mesh.ledger.commands import (
    AdmitNode,
    CancelTask,
    CloseBreaker,
    Command,
    CompleteTask,
    DrainNode,
    DropDeadLetter,
    FailAttempt,
    FailNode,
    FallBack,
    GrantLease,
    LeaveNode,
    Limit,
    PauseQueue,
    RaiseLevel,
    RedriveTask,
    ReleaseLease,
    Reprioritize,
    ResumeQueue,
    SaveCheckpoint,
    SetSetting,
    StartTask,
    SubmitTask,
    TimeOut,
)
from mesh.ledger.ledger import Ledger
from mesh.messages import Failure, TaskSpec
from mesh.node.admitting import NEVER_GRANTED
from mesh.options import Concurrency, LossPolicy, Options, Rate, Retry, WhenFull

NAMES = [TaskId(name) for name in "abcdef"]
NODES = [NodeId("ana"), NodeId("ben")]
LATEST = FencingToken(999)
"""Stands for the token that the task has when the command comes; see `meant`."""
TOKENS = st.just(LATEST) | st.just(LATEST) | st.integers(0, 30).map(FencingToken)
TASKS = st.sampled_from(NAMES)
NODE = st.sampled_from(NODES)
CAPABILITIES = st.sampled_from(["image", "sketch"])
DICE = st.integers(0, 100)
OPTIONS = st.none() | st.builds(
    Options,
    retry=st.none() | st.just(Retry(base_ms=500, never=("Final",))),
    schedule_timeout_ms=st.sampled_from([0, 0, 2_000]),
    run_timeout_ms=st.sampled_from([0, 1_000]),
    progress_timeout_ms=st.sampled_from([0, 0, 1_000]),
    expires_at_ms=st.sampled_from([0, 0, 9_000, 20_000]),
    on_loss=st.sampled_from(list(LossPolicy)),
    fallback=st.sampled_from(["", "", "sketch"]),
    concurrency=st.none()
    | st.builds(Concurrency, st.sampled_from(["x", "y"]), st.integers(1, 2), st.sampled_from(list(WhenFull))),
    rates=st.lists(
        st.builds(Rate, st.sampled_from(["r", "s"]), st.integers(1, 3), st.sampled_from([500, 3_000])), max_size=2
    ).map(tuple),
    fairness=st.sampled_from(["", "eva"]),
    sticky=st.sampled_from(["", "w", "v"]),
    is_sticky_hard=st.booleans(),
    parent=st.sampled_from([TaskId(""), TaskId("a")]),
    window_ms=st.sampled_from([0, 1]),
)
SPECS = st.builds(
    lambda task_id, capability, payload, attempts_max, not_before_ms, options: TaskSpec(
        task_id, capability, payload, 5, attempts_max, not_before_ms, options=options
    ),
    TASKS,
    CAPABILITIES,
    st.sampled_from([b"1", b"22"]),
    st.integers(1, 2),
    st.sampled_from([0, 0, 8_000]),
    OPTIONS,
)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(SubmitTask, SPECS),
    st.builds(SubmitTask, SPECS, st.just(LATEST) | st.integers(-1, 30).map(FencingToken)),
    st.builds(GrantLease, TASKS, NODE),
    st.builds(GrantLease, TASKS, NODE),
    st.builds(StartTask, TASKS, TOKENS),
    st.builds(SaveCheckpoint, TASKS, TOKENS, st.integers(0, 3), st.just(b"s")),
    st.builds(CompleteTask, TASKS, TOKENS, st.just(b"r")),
    st.builds(
        FailAttempt,
        TASKS,
        TOKENS,
        st.sampled_from(["e: 1", "Final: 2"]),
        st.just("d"),
        DICE,
        st.booleans(),
        st.sampled_from(list(Failure)),
    ),
    st.builds(ReleaseLease, TASKS, TOKENS, st.just("why")),
    st.builds(CancelTask, TASKS, st.just("why")),
    st.builds(RedriveTask, TASKS, st.sampled_from([None, b"333"])),
    st.builds(DropDeadLetter, TASKS, st.just("why")),
    st.builds(AdmitNode, NODE, st.integers(1, 3)),
    st.builds(AdmitNode, NODE, st.just(1)),
    st.builds(FailNode, NODE, st.integers(1, 3), st.just("why")),
    st.builds(DrainNode, NODE, st.booleans()),
    st.builds(LeaveNode, NODE, st.integers(1, 2)),
    st.builds(TimeOut, TASKS, TOKENS, st.sampled_from([int(limit) for limit in Limit]), DICE),
    st.builds(Reprioritize, TASKS, st.integers(0, 9)),
    st.builds(
        SetSetting,
        st.sampled_from(["breaker_failures", "breaker_successes", "breaker_open_ms", "dead_after_crashes"]),
        st.integers(0, 3),
    ),
    st.builds(PauseQueue, CAPABILITIES, st.sampled_from([0, 7_000]), st.just("why")),
    st.builds(ResumeQueue, CAPABILITIES),
    st.builds(FallBack, TASKS),
    st.builds(CloseBreaker, NODE, CAPABILITIES),
    st.just(RaiseLevel(1)),
)
ALIVE: st.SearchStrategy[list[Command]] = st.builds(
    lambda spec, node: [AdmitNode(node, 1), SubmitTask(spec), GrantLease(spec.task_id, node)], SPECS, NODE
)
"""What leads somewhere, so that much happens."""
ENTRIES = st.lists(COMMANDS, min_size=1, max_size=4) | ALIVE
HISTORIES = st.lists(ENTRIES, max_size=30)


def meant(ledger: Ledger, entry: list[Command]) -> list[Command]:
    """The same commands about the leases that there are."""
    found: list[Command] = []
    for command in entry:
        if isinstance(command, SubmitTask) and command.renews == LATEST:
            token = FencingToken(ledger.finished.get(command.spec.task_id, 0) >> 32)
            found.append(SubmitTask(command.spec, token or NEVER_GRANTED))
        elif getattr(command, "token", 0) == LATEST:
            task = ledger.tasks.get(command.task_id)  # type: ignore[union-attr]  # Those with a token have it.
            granted_here = any(isinstance(other, GrantLease) for other in entry)
            token = FencingToken(ledger.applied_index + 1) if granted_here or task is None else task.token
            found.append(structs.replace(command, token=token))
        else:
            found.append(command)
    return found
