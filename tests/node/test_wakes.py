"""A leader wakes when something is due, to the millisecond, and otherwise sleeps: nothing is looked for meanwhile.

These nodes beat three times a minute, and look as often whether what they hold was answered, so that nothing else makes
a turn by chance.
"""

from collections.abc import Callable
from typing import Any

import pytest

from mesh.config import DispatchConfig, GossipConfig
from mesh.documents import HistoryItem
from mesh.ids import TaskId
from mesh.messages import Action, Code
from mesh.options import Concurrency, CronSpec, Options, Overlap, Rate
from mesh.wire.codec import encode
from tests.node.client import EPOCH_MS, Client, spec
from tests.node.trio import ALL, Trio

HOUR_MS = 3_600_000
TWICE_AN_HOUR = Options(rates=(Rate("r", 1, HOUR_MS // 2),))


def calm(*, capabilities: tuple[str, ...] = ("code",)) -> tuple[Trio, Client]:
    """Somebody leads, everybody has said what it runs, and nothing is going on."""
    trio = Trio(
        capabilities=capabilities,
        dispatch=DispatchConfig(report_resend_ms=20_000),
        gossip=GossipConfig(heartbeat_interval_ms=20_000),
        raft={"heartbeat_ms": 20_000, "election_timeout_ms": 60_000},
    )
    trio.run(400_000)
    assert trio.leader.node.leading.dispatcher.unreported() == []
    assert trio.leader.node.ledger.level
    return trio, trio.client(trio.leader.name)


def ordered(trio: Trio, client: Client, action: Action, target: str = "", value: Any = None) -> None:
    asked = client.order(action, target, value=b"" if value is None else encode(value))
    trio.run(20)
    assert client.answers(asked) == [(Code.OK, "done")]


def submitted(trio: Trio, client: Client, *names: str, **fields: Any) -> None:
    client.submit(*(spec(name, **fields) for name in names), watch=False)
    trio.run(20)


def happened(client: Client, name: str, event: str) -> list[int]:
    """When it happened to a task, by the cast's own clock."""
    history: list[HistoryItem] = client.task(name).history
    return [item.at - EPOCH_MS for item in history if item.event == event]


def test_a_delayed_task_is_granted_when_its_time_has_come() -> None:
    trio, client = calm()
    due_ms = trio.now_ms + 7_777
    submitted(trio, client, "t1", after_ms=due_ms)
    trio.run(7_800)
    assert happened(client, "t1", "task_dispatched") == [due_ms]


def test_a_rate_lets_the_next_one_go_when_it_may() -> None:
    """Three in a row: each as long after the one before as the rate says, and no longer."""
    trio, client = calm()
    submitted(trio, client, "t1", "t2", "t3", options=Options(rates=(Rate("r", 1, 7_777),)))
    trio.run(20_000)
    [[first_ms], [second_ms], [third_ms]] = [happened(client, name, "task_dispatched") for name in ("t1", "t2", "t3")]
    assert (second_ms - first_ms, third_ms - second_ms) == (7_777, 7_777)


def test_a_queue_goes_on_when_its_pause_ends() -> None:
    trio, client = calm()
    until_ms = trio.now_ms + 7_777
    ordered(trio, client, Action.PAUSE, "code", until_ms + EPOCH_MS)
    submitted(trio, client, "t1")
    trio.run(7_800)
    assert happened(client, "t1", "task_dispatched") == [until_ms]


def test_a_breaker_is_tried_when_it_has_been_open_for_long_enough() -> None:
    """S2-22: all three have failed once, and one is enough. Whoever failed first is tried first."""
    trio, client = calm()
    ordered(trio, client, Action.SET, "breaker_failures", 1)
    ordered(trio, client, Action.SET, "breaker_open_ms", 7_777)
    submitted(trio, client, "a", "b", "c", attempts_max=1)
    for host in trio.hosts.values():
        for task, token in host.runs:
            trio.ends(host.name, task, token, error="no")
    trio.run(20)
    ledger = trio.leader.node.ledger
    opened_ms = min(breaker.opened_at_ms for breaker in ledger.breakers.values()) - EPOCH_MS
    assert len(ledger.breakers) == 3
    submitted(trio, client, "t1")
    trio.run(7_800)
    assert happened(client, "t1", "task_dispatched") == [opened_ms + 7_777]


def test_a_schedule_fires_when_it_is_due() -> None:
    trio, client = calm()
    ordered(trio, client, Action.SET_CRON, value=CronSpec("c", "@every 7s", "code", b"", overlap=Overlap.ALLOW))
    trio.run(14_100)
    fired = sorted(trio.leader.node.ledger.tasks)
    assert len(fired) == 2
    for name in fired:
        due_ms = int(name.partition("@")[2]) - EPOCH_MS
        assert (due_ms + EPOCH_MS) % 7_000 == 0
        assert happened(client, name, "task_submitted") == [due_ms]


@pytest.mark.parametrize(
    ("fields", "event"),
    [
        ({"options": Options(schedule_timeout_ms=7_777), "capability": "nobody"}, "task_timed_out"),
        ({"options": Options(run_timeout_ms=7_777)}, "task_timed_out"),
        ({"options": Options(progress_timeout_ms=7_777)}, "task_timed_out"),
    ],
)
def test_a_limit_is_kept_when_it_passes(fields: dict[str, Any], event: str) -> None:
    """From the submit, or from the grant."""
    trio, client = calm()
    submitted(trio, client, "t1", attempts_max=1, **fields)
    trio.run(7_800)
    since = "task_dispatched" if "capability" not in fields else "task_submitted"
    assert happened(client, "t1", event) == [happened(client, "t1", since)[0] + 7_777]


def test_an_expiry_is_kept_when_it_passes() -> None:
    trio, client = calm()
    expires_ms = trio.now_ms + 7_777
    submitted(trio, client, "t1", capability="nobody", options=Options(expires_at_ms=expires_ms + EPOCH_MS))
    trio.run(7_800)
    assert happened(client, "t1", "task_cancelled") == [expires_ms]


def test_what_is_told_by_many_things_comes_with_the_first_of_them() -> None:
    """A pause ends before a rate lets go, and a delay after both."""
    trio, client = calm()
    start_ms = trio.now_ms
    ordered(trio, client, Action.PAUSE, "code", start_ms + 3_000 + EPOCH_MS)
    submitted(trio, client, "late", after_ms=start_ms + 9_000)
    submitted(trio, client, "t1", "t2", options=Options(rates=(Rate("r", 1, 2_000),)))
    trio.run(10_000)
    times_ms = [happened(client, name, "task_dispatched")[0] - start_ms for name in ("t1", "t2", "late")]
    assert times_ms == [3_000, 5_000, 9_000]


# --- and in between it sleeps ---


def delayed(trio: Trio, client: Client) -> None:
    submitted(trio, client, "t1", after_ms=trio.now_ms + 2 * HOUR_MS)


def rated(trio: Trio, client: Client) -> None:
    options = Options(rates=(Rate("r", 1, 2 * HOUR_MS),))
    submitted(trio, client, "t1", "t2", "t3", options=options)


def crowded(trio: Trio, client: Client) -> None:
    submitted(trio, client, "t1", "t2", "t3", options=Options(concurrency=Concurrency("k", 1)))


def paused(trio: Trio, client: Client) -> None:
    ordered(trio, client, Action.PAUSE, "code", trio.now_ms + 2 * HOUR_MS + EPOCH_MS)
    submitted(trio, client, "t1", "t2")


def paused_for_good(trio: Trio, client: Client) -> None:
    ordered(trio, client, Action.PAUSE, "code")
    submitted(trio, client, "t1", "t2")


def broken(trio: Trio, client: Client) -> None:
    ordered(trio, client, Action.SET, "breaker_failures", 1)
    ordered(trio, client, Action.SET, "breaker_open_ms", 2 * HOUR_MS)
    submitted(trio, client, "a", "b", "c", attempts_max=1)
    for host in trio.hosts.values():
        for task, token in host.runs:
            trio.ends(host.name, task, token, error="no")
    trio.run(20)
    submitted(trio, client, "t1")


def half_open(trio: Trio, client: Client) -> None:
    """The probes are out, and stay out."""
    ordered(trio, client, Action.SET, "breaker_open_ms", 1_000)
    ordered(trio, client, Action.SET, "breaker_failures", 1)
    submitted(trio, client, "a", "b", "c", attempts_max=1)
    for host in trio.hosts.values():
        for task, token in host.runs:
            trio.ends(host.name, task, token, error="no")
    trio.run(20)
    submitted(trio, client, "t1", "t2", "t3", "t4", "t5")
    trio.run(2_000)


def scheduled(trio: Trio, client: Client) -> None:
    for number in range(5):
        cron = CronSpec(f"c{number}", "0 0 1 1 *", "code", b"", zone="Europe/Berlin")
        ordered(trio, client, Action.SET_CRON, value=cron)
    ordered(trio, client, Action.SET_CRON, value=CronSpec("p", "@every 1s", "code", b"", is_paused=True))


def limited(trio: Trio, client: Client) -> None:
    options = Options(
        schedule_timeout_ms=2 * HOUR_MS,
        run_timeout_ms=2 * HOUR_MS,
        progress_timeout_ms=2 * HOUR_MS,
        expires_at_ms=trio.now_ms + 2 * HOUR_MS + EPOCH_MS,
    )
    submitted(trio, client, "t1", "t2", options=options)
    submitted(trio, client, "t3", capability="nobody", options=options)


def begun_and_limited(trio: Trio, client: Client) -> None:
    """The time to begin by is over, and it has begun."""
    options = Options(schedule_timeout_ms=1_000, expires_at_ms=trio.now_ms + 1_000 + EPOCH_MS)
    submitted(trio, client, "t1", options=options)
    held = trio.leader.node.ledger.tasks[TaskId("t1")]
    trio.begins(held.node_id, "t1", held.token)
    trio.run(100)


def unplaceable(trio: Trio, client: Client) -> None:
    submitted(trio, client, "t1", capability="nobody")
    submitted(trio, client, "t2", options=Options(require=(("gpu", "yes"),)))


def full(trio: Trio, client: Client) -> None:
    submitted(trio, client, *(f"t{number:02}" for number in range(20)))
    submitted(trio, client, "r1", "r2", options=TWICE_AN_HOUR)


def failing_to_be_told(trio: Trio, client: Client) -> None:
    """A schedule is due whose zone this host does not know (any more)."""
    ordered(trio, client, Action.SET_CRON, value=CronSpec("c", "@every 1s", "code", b""))
    trio.leader.node.ledger.crons["c"].spec = CronSpec("c", "0 * * * *", "code", b"", zone="Nowhere/Nothing")
    trio.run(2_000)


@pytest.mark.parametrize(
    "pending",
    [
        delayed,
        rated,
        crowded,
        paused,
        paused_for_good,
        broken,
        half_open,
        scheduled,
        limited,
        begun_and_limited,
        unplaceable,
        full,
        failing_to_be_told,
    ],
)
def test_a_quiet_hour_makes_no_more_turns_than_one_with_nothing_pending(
    pending: Callable[[Trio, Client], None],
) -> None:
    """Beats, three nodes that look after what they hold, and hardly anything else: nobody comes back to what cannot be
    helped yet.
    """
    idle, _ = calm()
    trio, client = calm()
    pending(trio, client)
    for each in (idle, trio):
        each.run(5_000)
        before = each.events
        each.run(HOUR_MS)
        each.events -= before
    assert 500 < idle.events < 5_000
    assert trio.events < idle.events + 3 * HOUR_MS // 20_000 + 60


def test_a_mesh_whose_log_is_ahead_of_all_clocks_sleeps_as_well() -> None:
    """Time in the log is an hour ahead and goes slower for that; what is due in half an hour is not looked for all the
    time, and comes no sooner.
    """
    trio, client = calm()
    submitted(trio, client, "first")
    for name in ALL:
        trio.kill(name, silent=True)
    trio.epoch_ms -= HOUR_MS
    for name in ALL:
        trio.start(name)
    trio.run(400_000)
    client = trio.client(trio.leader.name)
    log_ms = trio.leader.node.leading.log_ms()
    assert log_ms - trio.now_ms - trio.epoch_ms > HOUR_MS // 2
    submitted(trio, client, "t1", after_ms=log_ms + HOUR_MS // 2 - EPOCH_MS)
    before = trio.events
    trio.run(HOUR_MS // 2)
    assert trio.events - before < 1_700
    assert happened(client, "t1", "task_dispatched") == []
    trio.run(HOUR_MS // 10)
    assert len(happened(client, "t1", "task_dispatched")) == 1
