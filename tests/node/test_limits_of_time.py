"""Limits of time: proposed by whoever leads, decided by the log, once each (S2-26, C25; research E.17, E.18)."""

import pytest

from mesh.documents import EventPage
from mesh.ids import NodeId, TaskId
from mesh.ledger.task import STATE_NAMES
from mesh.messages import Action, Append, Code, Question, Stops
from mesh.options import Options
from mesh.wire.codec import encode
from tests.node.client import EPOCH_MS, Client, spec
from tests.node.trio import ANA, BEN, EVA, Trio, lease, settled

RUN = Options(run_timeout_ms=5_000)
PROGRESS = Options(progress_timeout_ms=5_000)
SCHEDULE = Options(schedule_timeout_ms=5_000)


def timed_out(client: Client) -> list[tuple[str | None, str]]:
    """Whose time ran out, and how."""
    page = client.now(Question.EVENTS, EventPage, limit=1_000)
    return [(line.task, line.detail) for line in page.events if line.event in ("task_timed_out", "task_cancelled")]


def submitted(
    options: Options, *, name: str = "t1", capability: str = "code", attempts_max: int = 1
) -> tuple[Trio, Client]:
    """At 3,000 ms, and from then on whatever it does."""
    trio = settled()
    client = trio.client(EVA)
    client.submit(spec(name, options=options, capability=capability, attempts_max=attempts_max), watch=False)
    trio.run(20)
    return trio, client


def state(trio: Trio, name: str = "t1") -> str:
    """As whoever leads has it; finished ones are gone."""
    task = trio.leader.node.ledger.tasks.get(TaskId(name))
    return "gone" if task is None else STATE_NAMES[task.state]


def holder(trio: Trio, name: str = "t1") -> tuple[NodeId, int]:
    task = trio.leader.node.ledger.tasks[TaskId(name)]
    return task.node_id, int(task.token)


# --- of an attempt ---


@pytest.mark.parametrize("name", [ANA, BEN, EVA])
def test_an_attempt_that_takes_too_long_is_stopped_at_its_node(name: NodeId) -> None:
    """Whoever leads, and whoever runs it. The order says when that will be; what the code says later is fenced."""
    trio = settled(apart={other: {"slots": 0} for other in (ANA, BEN, EVA) if other != name})
    client = trio.client(EVA)
    client.submit(spec("t1", options=RUN, attempts_max=1), watch=False)
    trio.run(20)
    [order] = trio[name].started
    granted_ms = order.deadline_ms - 5_000
    assert granted_ms - EPOCH_MS in range(3_000, 3_010)
    trio.begins(name, "t1", order.token)
    trio.run(granted_ms + 5_000 - EPOCH_MS - 1 - trio.now_ms)
    assert (trio[name].stopped, state(trio)) == ([], "running")
    trio.run(10)
    assert trio[name].stopped == [lease("t1", order.token)]
    error = "timeout_run: the attempt took more than 5000 ms"
    task = client.task("t1")
    assert (task.state, task.error, task.attempts) == ("dead", error, 1)
    assert [(fault.node, fault.error) for fault in task.faults] == [(name, error)]
    trio.ends(name, "t1", order.token)
    trio.run(2_000)
    assert client.task("t1").state == "dead"
    assert timed_out(client) == [("t1", error)]


def test_the_stop_is_sent_at_once_and_told_again_by_the_log() -> None:
    """eva's log lags: the leader's word reaches her before her own copy does."""
    trio = settled(apart={name: {"slots": 0} for name in (ANA, BEN)})
    trio.client(ANA).submit(spec("t1", options=RUN, attempts_max=1), watch=False)
    trio.run(4_000)
    [(task, token)] = trio[EVA].runs
    trio.lose(Append, to=EVA)
    trio.run(1_100)
    assert [message.leases for message in trio.messages(Stops, to=EVA)] == [[lease(task, token)]]
    assert trio[EVA].stopped == [lease(task, token)]


def test_another_attempt_is_made_where_there_is_one_left_and_has_its_own_time() -> None:
    trio, client = submitted(RUN, attempts_max=2)
    trio.run(5_010)
    first = client.task("t1").history
    assert [item.event for item in first] == ["task_submitted", "task_dispatched", "task_timed_out", "task_retried"]
    trio.run(1_200)
    _, token = holder(trio)
    assert state(trio) in ("dispatched", "running")
    trio.run(4_500)
    assert state(trio) in ("dispatched", "running")
    trio.run(800)
    assert (client.task("t1").state, client.task("t1").attempts) == ("dead", 2)
    assert [each for each, _ in timed_out(client)] == ["t1", "t1"]
    assert token > 4


def test_an_attempt_without_a_checkpoint_for_long_has_stalled() -> None:
    """Each checkpoint gives it time anew."""
    trio, client = submitted(PROGRESS)
    node, token = holder(trio)
    trio.begins(node, "t1", token)
    for sequence in (1, 2):
        trio.run(4_000)
        trio.saves(node, "t1", token, sequence, b"\x01")
    trio.run(4_900)
    assert state(trio) == "running"
    trio.run(200)
    error = "timeout_progress: no checkpoint for more than 5000 ms"
    assert (client.task("t1").state, client.task("t1").error) == ("dead", error)
    assert timed_out(client) == [("t1", error)]


def test_an_attempt_that_ends_in_time_is_left_alone() -> None:
    trio, client = submitted(Options(run_timeout_ms=5_000, progress_timeout_ms=4_000))
    trio.run(3_900)
    trio.ends(*_swapped(holder(trio)))
    trio.run(10_000)
    assert (client.task("t1").state, timed_out(client)) == ("completed", [])


def _swapped(held: tuple[NodeId, int]) -> tuple[NodeId, str, int]:
    return held[0], "t1", held[1]


# --- of waiting ---


def test_what_nobody_begins_in_time_is_unschedulable() -> None:
    """C25: by the log it waited for 5,000 ms and not less. A delay counts not."""
    trio, client = submitted(SCHEDULE, capability="nobody")
    trio.run(4_970)
    assert state(trio) == "pending"
    trio.run(50)
    task = client.task("t1")
    assert (task.state, task.error) == ("dead", "unschedulable: no attempt began within 5000 ms")
    assert timed_out(client) == [("t1", "unschedulable: no attempt began within 5000 ms")]


def test_a_delay_is_no_waiting() -> None:
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("t1", options=SCHEDULE, capability="nobody", after_ms=20_000), watch=False)
    trio.run(24_900 - trio.now_ms)
    assert state(trio) == "scheduled"
    trio.run(200)
    assert state(trio) == "dead"


def test_what_has_not_begun_by_its_expiry_is_cancelled() -> None:
    trio, client = submitted(Options(expires_at_ms=8_000 + EPOCH_MS), capability="nobody")
    trio.run(8_000 - trio.now_ms - 1)
    assert state(trio) == "pending"
    trio.run(20)
    assert client.task("t1").state == "cancelled"
    assert timed_out(client) == [("t1", "expired: it had not begun in time")]


def test_what_has_begun_expires_no_more() -> None:
    trio, client = submitted(Options(expires_at_ms=8_000 + EPOCH_MS, schedule_timeout_ms=5_000))
    node, token = holder(trio)
    trio.begins(node, "t1", token)
    trio.run(20_000)
    assert (state(trio), timed_out(client)) == ("running", [])


# --- whoever leads ---


@pytest.mark.parametrize(
    ("options", "capability", "said"),
    [
        (RUN, "code", "timeout_run: the attempt took more than 5000 ms"),
        (PROGRESS, "code", "timeout_progress: no checkpoint for more than 5000 ms"),
        (SCHEDULE, "nobody", "unschedulable: no attempt began within "),
        (Options(expires_at_ms=8_000 + EPOCH_MS), "nobody", "expired: it had not begun in time"),
    ],
)
@pytest.mark.parametrize("dies_ms", [3_500, 7_500, 7_990])
def test_a_leader_that_took_office_later_keeps_to_them(
    options: Options, capability: str, said: str, dies_ms: int
) -> None:
    """ana dies long before it is time, shortly before, and so that it passes while nobody leads. It is on record once,
    though she comes back.
    """
    trio = settled(apart={ANA: {"slots": 0}})
    client = trio.client(EVA)
    client.submit(spec("t1", options=options, capability=capability, attempts_max=1), watch=False)
    trio.run(dies_ms - trio.now_ms)
    trio.kill(ANA)
    trio.run(7_900 - trio.now_ms if dies_ms == 3_500 else 0)
    assert all("t1" in host.node.ledger.tasks for host in (trio[BEN], trio[EVA]))
    trio.run(3_000)
    assert state(trio) in ("dead", "gone")
    trio.start(ANA)
    trio.run(5_000)
    assert [(task, detail[: len(said)]) for task, detail in timed_out(client)] == [("t1", said)]


def test_a_proposal_that_was_lost_is_made_again() -> None:
    """ana proposes it, and it never leaves her; she is deposed. Her successor proposes it, and it happens once."""
    trio, client = submitted(SCHEDULE, capability="nobody")
    trio.run(7_950 - trio.now_ms)
    trio.cut(ANA)
    trio.run(3_000)
    trio.heal()
    trio.run(3_000)
    assert [task for task, _ in timed_out(client)] == ["t1"]
    assert state(trio) == "dead"


def test_while_nothing_can_be_committed_it_is_not_proposed_again_and_again() -> None:
    """The followers' disks hang for less than an election: one command a second, whatever the turns."""
    trio, client = submitted(SCHEDULE, capability="nobody")
    trio[BEN].is_disk_stuck = trio[EVA].is_disk_stuck = True
    trio.run(8_000 - trio.now_ms + 150)
    before = trio[ANA].node.raft.last_index
    trio.run(50)
    assert trio[ANA].node.raft.last_index == before
    trio.sync(BEN)
    trio.run(1_500)
    assert [task for task, _ in timed_out(client)] == ["t1"]


def test_very_many_limits_are_looked_through_a_part_at_a_time() -> None:
    """A new leader takes 2,000 a turn; all of them run out in time."""
    trio = settled()
    client = trio.client(ANA)
    for first in range(0, 5_000, 500):
        names = (f"t{number:04}" for number in range(first, first + 500))
        options = Options(schedule_timeout_ms=20_000)
        client.submit(*(spec(name, capability="nobody", options=options) for name in names), watch=False)
        trio.run(20)
    trio.kill(ANA)
    trio.run(25_000)
    counts = trio.leader.node.ledger.counts
    assert {STATE_NAMES[number]: count for number, count in enumerate(counts) if count} == {"dead": 5_000}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(expires_at_ms=8_000 + EPOCH_MS), "expired: it had not begun in time"),
        (SCHEDULE, "unschedulable: no attempt began within "),
    ],
)
def test_what_is_given_back_unbegun_after_its_time_is_not_forgotten(options: Options, said: str) -> None:
    """When its time passed it was at a node, which never began it and drains. Nobody else is there."""
    trio, client = submitted(options)
    node, _ = holder(trio)
    for name in (ANA, BEN, EVA):
        client.order(Action.DRAIN, name)
        trio.run(20)
    trio.run(10_000)
    assert state(trio) == "dispatched"
    client.order(Action.RECOVER, node)
    trio.run(1_200)
    assert [(task, detail[: len(said)]) for task, detail in timed_out(client)] == [("t1", said)]


def test_a_dead_letter_put_back_has_its_time_anew() -> None:
    """It was unschedulable, and somebody knows that now there will be a node for it."""
    trio, client = submitted(SCHEDULE, capability="nobody")
    trio.run(6_000)
    assert state(trio) == "dead"
    client.order(Action.RETRY, "t1")
    trio.run(2_000)
    assert state(trio) == "pending"
    trio.kill(ANA)
    trio.run(2_000)
    assert state(trio) == "pending"
    trio.run(3_000)
    assert state(trio) == "dead"
    asked = client.order(Action.SET, "strategy", value=encode(1))
    trio.run(20)
    assert client.answers(asked) == [(Code.OK, "done")]
