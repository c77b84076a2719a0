"""Tasks, dead letters and events, from memory and from the store, page by page (S0-06; issue 2, 7 and 9)."""

from typing import Any

import msgspec
import pytest

from mesh.documents import DeadLetter, DeadLetterPage, EventPage, HistoryItem, Task, TaskLine, TaskPage
from mesh.effects import LoadHistory, LoadRows
from mesh.events import HistoryLoaded, RowsLoaded
from mesh.ids import NodeId, TaskId
from mesh.ledger.task import COMPLETED, FAILED, PENDING, RUNNING
from mesh.messages import Answer, Ask, Code, Question
from mesh.node import lists
from mesh.node.lists import WAITING_MAX
from mesh.node.requests import HERE
from tests.node.client import EPOCH_MS, Client, spec
from tests.node.trio import ALL, ANA, BEN, Trio, settled

FOUNDED = ["leader_elected", "node_joined", "node_joined", "node_joined", "level_raised"]
"""The events every trio begins with."""


def ids(page: TaskPage) -> list[str]:
    return [line.id for line in page.tasks]


def pages(client: Client, after: str = "", **fields: Any) -> list[list[str]]:
    """Every page of a list of tasks, following the cursor."""
    found: list[list[str]] = []
    for _ in range(50):
        page = client.now(Question.TASKS, TaskPage, after=after, **fields)
        found.append(ids(page))
        if page.next is None:
            return found
        after = page.next
    raise AssertionError("the cursor goes round in circles")


def finished(*names: str, settle_ms: int = 2_000, **settings: Any) -> Trio:
    """These tasks are done and, after `settle_ms`, on disk and out of memory."""
    trio = settled(slots=16, **settings)
    client = trio.client(ANA)
    for name in names:
        client.submit(spec(name))
        trio.run(20)
        [(host, token)] = [
            (host.name, token) for host in trio.hosts.values() for task, token in host.runs if task == name
        ]
        trio.ends(host, name, token)
        trio.run(20)
    trio.run(settle_ms)
    return trio


# --- one task ---


def test_a_task_in_all_its_fields_live_and_from_the_store() -> None:
    """CONTRACT `task show`: while it runs, when it has ended and is in memory, and when only the disk has it."""
    trio = settled()
    trio.client(ANA).submit(spec("t1", priority=2, payload=b"\x81\xa1a\x01", checkpoint=b"\x05"))
    trio.run(20)
    client = trio.client(BEN)
    assert client.task("t1") == Task(
        id="t1",
        capability="code",
        priority=2,
        state="dispatched",
        attempts=0,
        max_attempts=3,
        node="ana",
        token=4,
        result=None,
        error=None,
        checkpoint=5,
        submitted_at=3_000 + EPOCH_MS,
        finished_at=None,
        history=[
            HistoryItem(3_000 + EPOCH_MS, "task_submitted", None, 0, 0, "test"),
            HistoryItem(3_000 + EPOCH_MS, "task_dispatched", "ana", 0, 4, ""),
        ],
        payload={"a": 1},
    )
    trio.ends(ANA, "t1", 4)
    trio.run(20)
    ended = client.task("t1")
    assert (ended.state, ended.result, ended.node, ended.attempts) == ("completed", "t1", "ana", 1)
    assert ended.finished_at == 3_040 + EPOCH_MS
    assert [item.event for item in ended.history][2:] == ["task_completed"]
    trio.run(2_000)
    assert trio[ANA].node.behind.find(TaskId("t1")) is None
    assert client.task("t1") == ended
    nowhere = client.ask(Question.TASK, task_id="nowhere")
    trio.run(20)
    assert client.answers(nowhere) == [(Code.NOT_FOUND, "there is no task 'nowhere'")]


# --- lists ---


def test_pages_of_tasks_cross_memory_and_store_in_order_of_id() -> None:
    """b, d, f are on disk, e has ended a moment ago, a and c live: in order, none twice, none left out."""
    trio = finished("b", "d", "f")
    client = trio.client(ANA)
    client.submit(spec("a", capability="nobody"), spec("c"), spec("e"))
    trio.run(20)
    [(holder, token)] = [(host.name, token) for host in trio.hosts.values() for task, token in host.runs if task == "e"]
    trio.ends(holder, "e", token)
    trio.run(20)
    assert pages(client, limit=2) == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert pages(client, limit=6) == [["a", "b", "c", "d", "e", "f"]]
    assert pages(client, limit=0) == [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]
    assert pages(client, states=(COMPLETED,), limit=3) == [["b", "d", "e"], ["f"]]
    assert pages(client, states=(RUNNING,)) == [["c"]]
    assert pages(client, states=(PENDING, COMPLETED), limit=2) == [["a", "b"], ["d", "e"], ["f"]]
    assert pages(client, states=(FAILED,)) == [[]]
    assert pages(client, capability="nobody") == [["a"]]
    assert pages(client, capability="code", limit=4) == [["b", "c", "d", "e"], ["f"]]
    assert pages(client, after="d") == [["e", "f"]]
    assert pages(client, after="f") == [[]]
    line = client.now(Question.TASKS, TaskPage, limit=1, after="b").tasks
    assert line == [TaskLine("c", "code", 5, "dispatched", 0, "ana")]


@pytest.mark.parametrize("rows_a_page", [1, 2, 3])
def test_no_task_is_left_out_where_the_store_ends_its_page_early(rows_a_page: int) -> None:
    """Large rows: the store gives fewer than it was asked for. The page ends there, and the next one begins there."""
    trio = finished("a", "b", "d", "f")
    trio[ANA].disk.rows_a_page = rows_a_page
    client = trio.client(ANA)
    client.submit(spec("c", capability="nobody"), spec("e", capability="nobody"), spec("g", capability="nobody"))
    trio.run(20)
    found = [task for page in pages(client, limit=100) for task in page]
    assert found == ["a", "b", "c", "d", "e", "f", "g"]
    assert [task for page in pages(client, limit=2) for task in page] == found
    assert pages(client, limit=2, states=(PENDING,)) == [["c", "e"], ["g"]]


def test_dead_letters_in_pages() -> None:
    """S0-06: three of them, each with its last error; two a page."""
    trio = settled()
    client = trio.client(ANA)
    client.submit(*(spec(name, attempts_max=1) for name in ("x", "y", "z")))
    trio.run(20)
    for host, name in zip(ALL, ("x", "y", "z"), strict=True):
        trio.ends(host, name, 4, error=f"ValueError: {name}")
        trio.run(20)
    first = client.now(Question.DEAD_LETTERS, DeadLetterPage, limit=2)
    letters = [
        DeadLetter("x", "code", 1, "ValueError: x", 3_020 + EPOCH_MS),
        DeadLetter("y", "code", 1, "ValueError: y", 3_041 + EPOCH_MS),
    ]
    assert first == DeadLetterPage(letters, "y")
    rest = client.now(Question.DEAD_LETTERS, DeadLetterPage, limit=2, after="y")
    assert ([letter.id for letter in rest.dead_letters], rest.next) == (["z"], None)


def test_a_large_table_is_looked_through_a_slice_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven tasks, two a turn: the page is the same, and meanwhile the node does something else. What finishes before
    its slice is looked at is shown as finished, or not, if such ones are not wanted."""
    trio = finished("a", "b", "d")
    client = trio.client(ANA)
    client.submit(*(spec(name, capability="nobody") for name in ("i", "c", "h", "e", "g")))
    trio.run(20)
    whole = pages(client, limit=3)
    monkeypatch.setattr(lists, "SLICE", 2)
    assert pages(client, limit=3) == whole == [["a", "b", "c"], ["d", "e", "g"], ["h", "i"]]
    assert pages(client, limit=2, states=(PENDING,)) == [["c", "e"], ["g", "h"], ["i"]]
    node = trio[ANA].node
    other = trio.client(ANA)
    node.lists.tasks((HERE, other.number), Ask(1, Question.TASKS, limit=5, states=(PENDING,)), [], is_cut=False)
    node.lists.work()
    assert (len(node.lists.waiting), node.next_deadline_ms() <= node.now_ms) == (1, True)
    node.ledger.tasks[TaskId("i")].state = COMPLETED  # The first in the table, and the last to be looked at.
    trio.run(20)
    assert not node.lists.waiting
    [answer] = [reply for reply in other.heard if isinstance(reply, Answer)]
    page = msgspec.msgpack.decode(answer.body, type=TaskPage)
    assert [line.id for line in page.tasks] == ["c", "e", "g", "h"]


def test_more_lists_than_are_made_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred wait; the next one is told to try again."""
    monkeypatch.setattr(lists, "SLICE", 1)
    trio = settled()
    client = trio.client(ANA)
    client.submit(spec("a", capability="nobody"), spec("b", capability="nobody"))
    trio.run(20)
    node = trio[ANA].node
    for number in range(WAITING_MAX + 1):
        node.lists.tasks((HERE, client.number), Ask(number, Question.TASKS), [], is_cut=False)
    trio.run(300)
    codes = [(answer.request, answer.code) for answer in client.heard if isinstance(answer, Answer)]
    assert codes == [(WAITING_MAX, Code.BACKPRESSURE), *((number, Code.OK) for number in range(WAITING_MAX))]


def test_events_in_pages_across_store_and_memory() -> None:
    """CONTRACT `mesh events -f`: from the beginning, from a cursor, and nothing new at the end."""
    trio = finished("a", "b")
    client = trio.client(BEN)
    everything = client.now(Question.EVENTS, EventPage)
    kinds = ["task_submitted", "task_dispatched", "task_completed"]
    assert [line.event for line in everything.events] == [*FOUNDED, *kinds, *kinds]
    trio.client(ANA).submit(spec("c"))
    trio.run(20)
    fresh = client.now(Question.EVENTS, EventPage, after=everything.next)
    assert [(line.event, line.task) for line in fresh.events] == [("task_submitted", "c"), ("task_dispatched", "c")]
    assert int(fresh.next) == int(everything.next) + 1
    assert client.now(Question.EVENTS, EventPage, after=fresh.next) == EventPage([], fresh.next)
    found, after = [], ""
    while (page := client.now(Question.EVENTS, EventPage, after=after, limit=1)).events:
        found += page.events
        after = page.next
    assert found == everything.events + fresh.events


@pytest.mark.parametrize("cursor", ["", "rubbish", "-1", "1.5", "\u00b2", "9" * 5_000, "\u0661"])
def test_a_cursor_that_is_no_log_index_begins_at_the_beginning(cursor: str) -> None:
    """Issue 2, bad input: nothing a client writes there may stop a node. A superscript two is a digit and no number."""
    trio = settled()
    page = trio.client(BEN).now(Question.EVENTS, EventPage, after=cursor)
    assert [line.event for line in page.events] == FOUNDED


def test_a_cursor_beyond_the_end_finds_nothing() -> None:
    trio = settled()
    page = trio.client(BEN).now(Question.EVENTS, EventPage, after="9" * 18)
    assert page == EventPage([], "9" * 18)


def test_a_payload_that_is_no_value_is_shown_as_the_bytes_it_is() -> None:
    """A client of another language sent rubbish, or two values where one belongs: its task can be looked at all the
    same, and the fields behind it are not taken for others.
    """
    trio = settled()
    client = trio.client(BEN)
    client.submit(
        spec("rubbish", payload=b"\xc1", capability="nobody"),
        spec("two", payload=b"\x01\x02", checkpoint=b"\x03\x04", capability="nobody"),
        spec("none", payload=b"", capability="nobody"),
    )
    trio.run(20)
    shown = [client.task(name) for name in ("rubbish", "two", "none")]
    assert [(task.payload, task.checkpoint) for task in shown] == [
        (b"\xc1", None),
        (b"\x01\x02", b"\x03\x04"),
        (None, None),
    ]


def reads(trio: Trio, name: NodeId) -> list[LoadHistory | LoadRows]:
    return [effect for effect in trio[name].performed if isinstance(effect, LoadHistory | LoadRows)]


@pytest.mark.parametrize("question", [Question.EVENTS, Question.TASKS])
def test_what_is_written_while_a_page_is_read_is_not_left_out(question: Question) -> None:
    """The store is read before t1's end is in it; t1's end has left memory when the answer comes. It is read again.

    Found by 90 s of restarts on real disks: a follower of events was never shown 790 ends.
    """
    trio = settled()
    trio.run(1_000)
    client = trio.client(ANA)
    client.submit(spec("t1"))
    trio.run(10)
    trio.ends(ANA, "t1", 4)
    trio.run(10)
    trio[ANA].are_reads_stuck = True
    asked = client.ask(question)
    trio.run(5)
    [read] = reads(trio, ANA)
    trio.run(2_000)
    empty = HistoryLoaded(read.read_id, []) if question == Question.EVENTS else RowsLoaded(read.read_id, [], "")
    trio.feed(ANA, empty)
    assert client.answers(asked) == []
    again = reads(trio, ANA)[1]
    whole = trio._read(trio[ANA], again)
    trio.feed(ANA, whole)
    if question == Question.EVENTS:
        ends = [line.task for line in client.document(asked, EventPage).events if line.event == "task_completed"]
        assert ends == ["t1"]
    else:
        assert ids(client.document(asked, TaskPage)) == ["t1"]


def test_a_table_that_never_stands_still_is_not_read_for_ever() -> None:
    """Ten times something is written while a page is read. Then whoever asks is told to try again."""
    trio = settled()
    client = trio.client(ANA)
    trio[ANA].are_reads_stuck = True
    asked = client.ask(Question.EVENTS)
    trio.run(5)
    for count in range(10):
        read = reads(trio, ANA)[-1]
        trio[ANA].node.behind.moves += 1
        assert client.answers(asked) == []
        assert len(reads(trio, ANA)) == count + 1
        trio.feed(ANA, HistoryLoaded(read.read_id, []))
    text = "the table was written too often while it was read; try again"
    assert client.answers(asked) == [(Code.BACKPRESSURE, text)]
