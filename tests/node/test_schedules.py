"""Schedules fire in time, or late, and never twice, whoever leads (S4 scheduling; research E.17)."""

from collections.abc import Iterable

import pytest

from mesh.config import DispatchConfig
from mesh.documents import EventLine, EventPage
from mesh.durable import EntryKind
from mesh.ids import NodeId, TaskId
from mesh.ledger.commands import FireCron
from mesh.messages import Action, Append, AppendReply, Code, Question, TasksRefused
from mesh.node.requests import conflict
from mesh.options import CatchUp, CronSpec, Overlap
from mesh.wire.codec import decode_batch, encode
from tests.node.client import EPOCH_MS, Client, spec
from tests.node.trio import ALL, ANA, BEN, EVA, Trio, settled

TEN = CronSpec("ten", "@every 10s", "nobody", b"\x01", overlap=Overlap.ALLOW)
"""Due at 10,000 ms by the cast's own clock, at 20,000, and so on. What it submits waits for ever."""


def begun(trio: Trio, *crons: CronSpec) -> Client:
    client = trio.client(BEN)
    for cron in crons:
        asked = client.order(Action.SET_CRON, value=encode(cron))
        trio.run(20)
        assert client.answers(asked) == [(Code.OK, "done")]
    return client


def changed(trio: Trio, cron: CronSpec) -> None:
    client = trio.client(trio.leader.name)
    client.order(Action.SET_CRON, value=encode(cron))
    trio.run(20)


def at(seconds: int) -> str:
    """The firing of `ten` that was due then, by the cast's own clock."""
    return f"ten@{EPOCH_MS + seconds * 1_000}"


def ats(seconds: Iterable[int]) -> list[str]:
    return [at(each) for each in seconds]


def told(trio: Trio, *kinds: str) -> list[EventLine]:
    client = trio.client(trio.leader.name)
    found: list[EventLine] = []
    after = ""
    while True:
        page = client.now(Question.EVENTS, EventPage, after=after, limit=1_000)
        found += [line for line in page.events if line.event in kinds]
        if not page.events:
            return found
        after = page.next


def fired(trio: Trio) -> list[str]:
    return [line.detail for line in told(trio, "cron_fired")]


def skipped(trio: Trio) -> list[str]:
    return [line.detail for line in told(trio, "cron_skipped")]


def firings_in_the_log(trio: Trio, name: NodeId) -> list[int]:
    """When each FireCron in a node's log was due, by the cast's own clock."""
    log = trio[name].node.raft.log
    entries = log.between(log.before_index, trio[name].node.raft.last_index)
    batches = [decode_batch(entry.data) for entry in entries if entry.kind == EntryKind.COMMANDS]
    return [command.due_ms - EPOCH_MS for batch in batches for command in batch.commands if type(command) is FireCron]


def test_a_schedule_fires_when_it_is_due_and_not_before() -> None:
    """Nothing else happens meanwhile that would make a turn: it is waited for."""
    trio = settled()
    client = begun(trio, TEN)
    trio.run(10_000 - trio.now_ms)
    assert trio.leader.node.ledger.tasks == {}
    trio.run(10)
    assert trio.leader.node.ledger.tasks.keys() == {at(10)}
    task = client.task(at(10))
    assert (task.capability, task.payload, task.submitted_at - EPOCH_MS) == ("nobody", 1, 10_000)
    trio.run(30_000)
    assert fired(trio) == ats([10, 20, 30, 40])
    assert firings_in_the_log(trio, ANA) == [10_000, 20_000, 30_000, 40_000]


def test_jitter_puts_the_task_off_and_not_the_schedule() -> None:
    trio = settled()
    begun(trio, CronSpec("ten", "@every 10s", "code", b"", overlap=Overlap.ALLOW, jitter_ms=5_000))
    trio.run(60_000 - trio.now_ms)
    tasks = trio.leader.node.ledger.tasks
    assert fired(trio) == ats([10, 20, 30, 40, 50, 60])
    delays_ms = [
        tasks[TaskId(name)].not_before_ms - EPOCH_MS - due
        for name, due in zip(ats((10, 20, 30)), (10_000, 20_000, 30_000), strict=True)
    ]
    assert all(0 <= delay_ms < 5_000 for delay_ms in delays_ms)
    assert len(set(delays_ms)) > 1


def test_the_leader_dies_between_proposing_a_firing_and_its_commit() -> None:
    """S0-03: the entry is on ana's disk alone. The next leader fires instead; when ana is back hers is gone."""
    trio = settled()
    begun(trio, TEN)
    trio.run(9_990 - trio.now_ms)
    trio.lose(Append)
    trio.run(15)
    assert firings_in_the_log(trio, ANA) == [10_000]
    assert trio[ANA].node.ledger.crons["ten"].fired == 0
    trio.kill(ANA)
    trio.heal()
    trio.run(3_000)
    assert fired(trio) == ats([10])
    trio.start(ANA)
    trio.run(3_000)
    assert [host.node.ledger.tasks.keys() for host in trio.hosts.values()] == [{at(10)}] * 3
    trio.run(6_000)
    assert fired(trio) == ats([10, 20])


def test_the_leader_dies_when_a_firing_is_at_the_others_and_nobody_knows() -> None:
    """The entry has reached ben and eva. Whoever leads next commits it, and proposes none of its own."""
    trio = settled()
    begun(trio, TEN)
    trio.run(9_990 - trio.now_ms)
    trio.lose(AppendReply)
    trio.run(15)
    assert firings_in_the_log(trio, BEN) == firings_in_the_log(trio, EVA) == [10_000]
    trio.kill(ANA)
    trio.heal()
    trio.run(3_000)
    assert fired(trio) == ats([10])
    assert firings_in_the_log(trio, trio.leader.name) == [10_000]


def test_a_deposed_leader_fires_nothing() -> None:
    """ana is cut off and thinks for a while that she leads. What she fires is nobody's; nothing fires twice."""
    trio = settled()
    begun(trio, TEN)
    trio.run(9_900 - trio.now_ms)
    trio.cut(ANA)
    trio.run(5_000)
    assert firings_in_the_log(trio, ANA)[:1] == [10_000]
    trio.heal()
    trio.run(5_500)
    assert fired(trio) == ats([10, 20])
    assert firings_in_the_log(trio, ANA) == [10_000, 20_000]


def test_leaders_come_and_go_and_every_firing_happens_once() -> None:
    """E.17: every 10 s somebody dies, mostly whoever leads, just about when a schedule is due; ten minutes long."""
    trio = settled()
    begun(trio, TEN)
    for turn in range(60):
        victim = trio.leader.name if turn % 3 else ALL[turn % 2]
        trio.run(10_000 - trio.now_ms % 10_000 - 6 + turn % 12)
        trio.kill(victim)
        trio.run(3_000)
        trio.start(victim)
        trio.run(2_000)
    trio.run(3_000)
    events = fired(trio)
    assert events == ats(range(10, trio.now_ms // 1_000 + 1, 10))
    assert skipped(trio) == []
    assert len({host.node.ledger.digest for host in trio.hosts.values()}) == 1


def outage(trio: Trio, until_ms: int) -> None:
    """Nobody leads: two of three are down."""
    for name in (ANA, EVA):
        trio.kill(name)
    trio.run(until_ms - trio.now_ms)
    for name in (ANA, EVA):
        trio.start(name)
    trio.run(5_000)


@pytest.mark.parametrize(
    ("catch_up", "fires", "skips"),
    [
        (CatchUp.ALL, range(10, 310, 10), []),
        (CatchUp.ONE, range(250, 310, 10), [f"{at(10)}: missed; next at {EPOCH_MS + 250_000}"]),
        (CatchUp.NONE, range(250, 310, 10), [f"{at(10)}: missed; next at {EPOCH_MS + 250_000}"]),
    ],
)
def test_what_was_missed_while_nobody_led(catch_up: CatchUp, fires: range, skips: list[str]) -> None:
    """Five minutes without a leader. What is less than a minute late has not been missed; of the rest, as it says."""
    trio = settled()
    begun(trio, CronSpec("ten", "@every 10s", "nobody", b"", overlap=Overlap.ALLOW, catch_up=catch_up))
    outage(trio, 300_000)
    assert fired(trio) == ats(fires)
    assert skipped(trio) == skips


@pytest.mark.parametrize(
    ("catch_up", "fires", "skips"),
    [
        (CatchUp.ALL, [3_600, 7_200, 10_800], 0),
        (CatchUp.ONE, [10_800], 1),
        (CatchUp.NONE, [], 1),
    ],
)
def test_what_was_missed_long_ago(catch_up: CatchUp, fires: list[int], skips: int) -> None:
    """Hours without a leader, and the last firing was minutes ago: one for all of them is that one."""
    trio = settled()
    begun(trio, CronSpec("ten", "@every 1h", "nobody", b"", overlap=Overlap.ALLOW, catch_up=catch_up))
    base_s = 3_600 - EPOCH_MS // 1_000 % 3_600
    hours = [base_s + each - 3_600 for each in fires]
    trio.kill(ANA)
    trio.kill(EVA)
    trio.now_ms += (base_s + 2 * 3_600 + 600) * 1_000
    trio.start(ANA)
    trio.start(EVA)
    trio.run(5_000)
    assert fired(trio) == ats(hours)
    assert len(skipped(trio)) == skips
    assert trio.leader.node.ledger.crons["ten"].next_ms == EPOCH_MS + (base_s + 3 * 3_600) * 1_000


def test_a_schedule_changed_and_dropped_while_it_is_due() -> None:
    """Paused it is not due; resumed it is due next in the future; dropped it is due no more."""
    trio = settled()
    client = begun(trio, TEN)
    changed(trio, CronSpec("ten", "@every 10s", "nobody", b"\x01", overlap=Overlap.ALLOW, is_paused=True))
    trio.run(25_000 - trio.now_ms)
    assert fired(trio) == []
    changed(trio, TEN)
    trio.run(10_000)
    assert fired(trio) == ats([30])
    client.order(Action.DROP_CRON, "ten")
    trio.run(20_000)
    assert (fired(trio), skipped(trio)) == (ats([30]), [])


def test_while_the_mesh_is_full_schedules_are_late_and_nobody_spins() -> None:
    """E.14: there is no room for what they submit. When there is, what was due in between is made up for."""
    trio = settled(dispatch=DispatchConfig(queued_max=1))
    begun(trio, TEN)
    client = trio.client(ANA)
    client.submit(spec("t1", priority=0, capability="nobody"), watch=False)
    trio.run(9_000 - trio.now_ms)
    before = trio.events
    trio.run(900)
    usual = trio.events - before
    trio.run(1_000)
    before = trio.events
    trio.run(900)
    assert trio.events - before <= usual + 10
    assert fired(trio) == []
    client.order(Action.SET, "reserve_permille", value=encode(0))
    client.order(Action.CANCEL, "t1")
    trio.run(20)
    assert fired(trio) == ats([10])


def test_many_schedules_are_due_at_once() -> None:
    """A hundred are proposed in a turn, the others in the next ones; each fires once."""
    trio = settled()
    client = trio.client(ANA)
    for number in range(250):
        client.order(Action.SET_CRON, value=encode(CronSpec(f"c{number:03}", "@every 10s", "nobody", b"")))
    trio.run(10_200 - trio.now_ms)
    assert sorted(fired(trio)) == [f"c{number:03}@{EPOCH_MS + 10_000}" for number in range(250)]


def test_a_submit_may_have_the_id_of_a_firing_first() -> None:
    """Then the schedule has nothing to submit, and goes on; once it has fired it is the submit that comes too late."""
    trio = settled()
    client = begun(trio, TEN)
    client.submit(spec(at(10), capability="nobody"), watch=False)
    trio.run(20_100 - trio.now_ms)
    client.submit(spec(at(20)), watch=False)
    trio.run(20)
    assert fired(trio) == ats([20])
    assert client.told(TasksRefused) == [TasksRefused([conflict(TaskId(at(20)))])]


def test_a_firing_and_a_submit_with_its_id_share_an_entry() -> None:
    """The submit came in the very turn the schedule was due: commands go first, and it is a conflict, not a halt."""
    trio = settled()
    begun(trio, TEN)
    client = trio.client(ANA)
    trio.run(9_999 - trio.now_ms)
    trio.now_ms = 10_000
    client.submit(spec(at(10)), watch=False)
    trio.run(20)
    assert fired(trio) == ats([10])
    assert client.told(TasksRefused) == [TasksRefused([conflict(TaskId(at(10)))])]


def test_a_firing_waits_while_leadership_is_handed_over() -> None:
    """ana takes no entries meanwhile; ben does not answer, and she goes on with what she had gathered."""
    trio = settled()
    begun(trio, TEN)
    trio.run(9_950 - trio.now_ms)
    trio.cut(BEN)
    trio.client(ANA).order(Action.TRANSFER, "ben")
    trio.run(100)
    assert trio[ANA].node.ledger.crons["ten"].fired == 0
    trio.run(400)
    assert fired(trio) == ats([10])
