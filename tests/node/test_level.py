"""Upgrades while work goes on: what some nodes cannot apply yet is not said, and is said as soon as all can.

A node that says levels=0 stands for one of the release before.
"""

from typing import Any

import msgspec
import pytest

from mesh.config import LEVEL
from mesh.documents import EventPage, SettingsView, Touched
from mesh.durable import LedgerMark
from mesh.gossip.members import Health
from mesh.ids import LogIndex, NodeId, TaskId
from mesh.ledger import rulings as ledger_rulings
from mesh.ledger.commands import RaiseLevel
from mesh.messages import Accepted, Action, Append, Code, Question, TaskRefusal, TasksRefused
from mesh.node.rulings import NOT_YET
from mesh.options import CronSpec, Options, Selection
from mesh.wire.codec import decode_batch, decode_summary, encode
from tests.node.client import Client, spec
from tests.node.trio import ANA, BEN, EVA, Trio, settled

NO_OPTIONS = "not all nodes of the mesh have said yet that they know options of tasks; try again later"
OLD: dict[str, Any] = {"level": 0}


def level(trio: Trio) -> int:
    return trio.leader.node.ledger.level


def told(client: Client) -> list[tuple[list[str], list[TaskRefusal]]]:
    """Everything said about submits: ids accepted, or refusals."""
    said: list[tuple[list[str], list[TaskRefusal]]] = []
    for reply in client.heard:
        if isinstance(reply, Accepted):
            said.append((list(reply.task_ids), []))
        elif isinstance(reply, TasksRefused):
            said.append(([], reply.refusals))
    return said


@pytest.mark.parametrize("old", [ANA, BEN, EVA])
def test_while_one_node_is_old_options_are_refused_to_be_asked_for_again(old: NodeId) -> None:
    """The leader or a follower, it makes no difference. Tasks without options go on, in the same message too."""
    trio = settled(apart={old: OLD})
    client = trio.client(BEN)
    client.submit(spec("plain"), spec("treated", options=Options(run_timeout_ms=5_000)), watch=False)
    trio.run(20)
    refusal = TaskRefusal(TaskId("treated"), Code.BACKPRESSURE, NO_OPTIONS, 500)
    assert told(client) == [([], [refusal]), (["plain"], [])]
    assert level(trio) == 0
    assert [host.runs for host in trio.hosts.values() if host.runs] == [[("plain", 4)]]
    assert trio.leader.node.ledger.tasks.keys() == {"plain"}


def test_children_are_taken_without_saying_whose() -> None:
    """To refuse them would stop in the middle what their parent does. With anything beside their parent they wait."""
    trio = settled(apart={EVA: OLD})
    client = trio.client(BEN)
    top = TaskId("top")
    client.submit(spec("child", options=Options(parent=top)), spec("none", options=Options()), watch=False)
    client.submit(spec("more", options=Options(parent=top, run_timeout_ms=5_000)), watch=False)
    trio.run(20)
    tasks = trio.leader.node.ledger.tasks
    assert {name: task.spec.options for name, task in tasks.items()} == {"child": None, "none": None}
    assert client.task("child").parent is None
    [refused] = client.told(TasksRefused)
    assert [(each.task_id, each.message) for each in refused.refusals] == [("more", NO_OPTIONS)]


ORDERS: list[tuple[Action, str, Any]] = [
    (Action.REPRIORITIZE, "t1", 1),
    (Action.SET, "strategy", 1),
    (Action.PAUSE, "code", None),
    (Action.RESUME, "code", None),
    (Action.CLOSE_BREAKER, "ana/code", None),
    (Action.SET_CRON, "", CronSpec("daily", "@daily", "code", b"")),
    (Action.DROP_CRON, "daily", None),
    (Action.PAUSE_CRON, "daily", None),
    (Action.RESUME_CRON, "daily", None),
    (Action.RETRY, "t1", {"another": "payload"}),
]


@pytest.mark.parametrize(("action", "target", "value"), ORDERS)
def test_orders_that_not_all_know_are_refused_to_be_given_again(action: Action, target: str, value: Any) -> None:
    trio = settled(apart={EVA: OLD})
    client = trio.client(BEN)
    client.submit(spec("t1", attempts_max=1), watch=False)
    trio.run(20)
    trio.ends(ANA, "t1", 4, error="no")
    trio.run(20)
    before = trio.leader.node.ledger.applied_index
    asked = client.order(action, target, value=b"" if value is None else encode(value))
    trio.run(20)
    assert client.answers(asked) == [(Code.UNAVAILABLE, NOT_YET)]
    assert trio.leader.node.ledger.applied_index == before


def test_orders_made_of_what_all_know_are_done() -> None:
    """Many tasks are cancelled one by one, with a command that every release has. So is a dead letter put back."""
    trio = settled(apart={EVA: OLD})
    client = trio.client(BEN)
    client.submit(spec("t1"), spec("t2"), spec("t3", attempts_max=1), watch=False)
    trio.run(20)
    trio.ends(EVA, "t3", 4, error="no")
    trio.run(20)
    asked = client.order(Action.CANCEL_MANY, value=encode(Selection(capability="code")))
    retried = client.order(Action.RETRY, "t3")
    trio.run(20)
    assert client.document(asked, Touched).count == 2
    assert client.answers(retried) == [(Code.OK, "done")]


def test_once_the_last_is_upgraded_the_level_rises_by_itself_and_options_are_taken() -> None:
    """eva is stopped, upgraded and started. It is on record once, and stays so for whoever leads later."""
    trio = settled(apart={EVA: OLD})
    client = trio.client(BEN)
    trio.run(5_000)
    assert level(trio) == 0
    trio.kill(EVA)
    trio.apart.clear()
    trio.start(EVA)
    trio.run(3_000)
    assert level(trio) == LEVEL
    client.submit(spec("t1", options=Options(run_timeout_ms=5_000)), watch=False)
    trio.run(20)
    assert [ids for ids, _ in told(client)] == [["t1"]]
    trio.kill(ANA)
    trio.run(3_000)
    assert level(trio) == LEVEL
    trio.start(ANA)
    trio.run(3_000)
    page = client.now(Question.EVENTS, EventPage, limit=1_000)
    raised = [(line.event, line.detail) for line in page.events if line.event == "level_raised"]
    assert raised == [("level_raised", "1")]
    assert client.now(Question.SETTINGS, SettingsView).level == LEVEL
    assert {host.node.ledger.level for host in trio.hosts.values()} == {LEVEL}


def test_a_node_that_is_away_for_long_keeps_nobody_back() -> None:
    """eva, of the old release, is given up. Before that she is waited for, silent as she is."""
    trio = settled(apart={EVA: OLD})
    trio.cut(EVA)
    trio.run(2_000)
    assert (level(trio), trio[ANA].node.detector.health(EVA)) == (0, Health.DEGRADED)
    trio.run(2_000)
    assert (level(trio), trio[ANA].node.detector.health(EVA)) == (LEVEL, Health.FAILED)


def test_a_level_whose_entry_was_lost_is_proposed_again() -> None:
    """ana hears that eva is upgraded, and proposes it. It reaches nobody, and she loses office: ben proposes it."""
    trio = settled(apart={EVA: OLD})
    trio.kill(EVA, silent=True)
    trio.apart.clear()
    trio.lose(Append)
    trio.start(EVA)
    trio.run(10)
    raft = trio[ANA].node.raft
    lost = raft.log.between(LogIndex(trio[BEN].node.raft.last_index), raft.last_index)
    assert RaiseLevel(LEVEL) in [command for entry in lost for command in decode_batch(entry.data).commands]
    trio.heal()
    trio.cut(ANA)
    trio.run(5_000)
    assert (trio[ANA].node.ledger.level, trio[BEN].node.ledger.level) == (0, LEVEL)


def test_a_release_that_cannot_apply_a_level_stops_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mesh has gone on while eva was away; what she would make of its entries would be another table."""
    trio = settled(apart={EVA: OLD})
    trio.kill(EVA)
    trio.run(5_000)
    assert level(trio) == LEVEL
    monkeypatch.setattr(ledger_rulings, "LEVEL", 0)  # As it stands in the release before.
    trio.start(EVA)
    sentence = "the mesh has gone on to level 1, this release knows 0; upgrade it"
    with pytest.raises(AssertionError, match=sentence):
        trio.run(5_000)


def test_a_release_that_finds_a_table_of_a_later_level_stops_with_a_sentence() -> None:
    """eva was upgraded, and is put back: in her table what is written does not say what it says to this release."""
    trio = settled()
    trio.run(2_000)
    trio.kill(EVA)
    table = trio[EVA].disk.table
    assert table.mark is not None
    table.mark = later(table.mark)
    with pytest.raises(AssertionError, match="the table is of level 2, this release knows 1; upgrade it"):
        trio.start(EVA)


def later(mark: LedgerMark) -> LedgerMark:
    """The same table, as a later release would have written it."""
    summary = decode_summary(mark.summary)
    summary.registry.level = LEVEL + 1
    return msgspec.structs.replace(mark, summary=encode(summary))


def test_a_window_is_no_way_around_the_level() -> None:
    """t1 has ended, and its window is over: to take it anew would need an option, and not all know that yet."""
    trio = settled(apart={EVA: OLD})
    client = trio.client(ANA)
    client.submit(spec("t1"), watch=False)
    trio.run(20)
    trio.ends(ANA, "t1", 4)
    trio.run(5_000)
    client.submit(spec("t1", options=Options(window_ms=1_000)), watch=False)
    trio.run(20)
    assert told(client) == [
        (["t1"], []),
        ([], [TaskRefusal(TaskId("t1"), Code.BACKPRESSURE, NO_OPTIONS, 500)]),
    ]
    assert trio.leader.node.ledger.tasks == {}
