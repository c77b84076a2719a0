"""Who waits for the end of which task. ana waits; what she asks for lands in a list."""

import asyncio
from collections.abc import Iterator

import pytest

from mesh.client.handle import UNKNOWN, Handle
from mesh.client.submits import NEVER_MS
from mesh.client.waits import UNKNOWN_MAX, Waits
from mesh.errors import MeshUnavailable, TaskTimeout
from mesh.ids import NodeId, TaskId
from mesh.ledger.task import COMPLETED
from mesh.messages import TaskEnd, TasksEnded, WatchTasks
from mesh.wire.codec import decode_request


class Ana:
    """A client's waits, and what left it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.asked: list[list[str]] = []
        self.loop = loop
        self.waits = Waits(self._send)

    def _send(self, data: bytes) -> bool:
        message = decode_request(data)
        assert isinstance(message, WatchTasks)
        self.asked.append([*message.task_ids])
        return True

    def accepted(self, name: str) -> Handle:
        handle = Handle(None, TaskId(name))  # type: ignore[arg-type]  # It is not asked for anything here.
        self.waits.expect(handle)
        handle.index = 4
        return handle

    def wait(self, handle: Handle, *, now_ms: int = 0, deadline_ms: int = NEVER_MS) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self.loop.create_future()
        self.waits.wait(handle, future, deadline_ms, now_ms)
        self.waits.flush()
        return future

    def ends(self, name: str, state: int = COMPLETED) -> TaskEnd:
        end = TaskEnd(TaskId(name), state, b"\x01", "", "", NodeId("n1"), 1)
        self.waits.ended(TasksEnded([end]))
        return end


@pytest.fixture
def ana() -> Iterator[Ana]:
    loop = asyncio.new_event_loop()
    yield Ana(loop)
    loop.close()


def test_a_task_submitted_here_is_told_of_unasked(ana: Ana) -> None:
    """The submit watches already. Everyone who waits goes on, and the handle is let go."""
    handle = ana.accepted("t1")
    first, second = ana.wait(handle), ana.wait(handle)
    assert ana.asked == []
    end = ana.ends("t1")
    assert (first.done(), second.done(), handle.end) == (True, True, end)
    assert ana.waits.handles == {}
    assert ana.waits.due_ms() == NEVER_MS


def test_an_end_may_come_before_anybody_waits(ana: Ana) -> None:
    handle = ana.accepted("t1")
    end = ana.ends("t1")
    assert handle.end == end


def test_a_task_of_somebody_else_is_asked_for(ana: Ana) -> None:
    ana.wait(Handle(None, TaskId("t7")))  # type: ignore[arg-type]
    assert ana.asked == [["t7"]]


def test_an_end_that_does_not_come_is_asked_for_again(ana: Ana) -> None:
    """After five seconds, and every five seconds."""
    ana.wait(ana.accepted("t1"), now_ms=100)
    assert ana.waits.due_ms() == 5_100
    ana.waits.tick(5_099)
    assert ana.asked == []
    ana.waits.tick(5_100)
    assert ana.asked == [["t1"]]
    ana.waits.tick(10_100)
    assert ana.asked == [["t1"], ["t1"]]


def test_after_a_change_of_leader_every_end_is_asked_for(ana: Ana) -> None:
    """Whether or not somebody waits just now; but not for a submit that has no answer yet."""
    ana.wait(ana.accepted("t1"))
    ana.accepted("t2")
    ana.waits.expect(Handle(None, TaskId("t3")))  # type: ignore[arg-type]
    ana.waits.watch_all(1_000)
    assert ana.asked == [["t1", "t2"]]

    # Who starts to wait right after need not ask again.
    ana.wait(ana.waits.handles[TaskId("t2")], now_ms=1_001)
    assert ana.asked == [["t1", "t2"]]


def test_a_leader_just_elected_is_asked_again_until_it_serves(ana: Ana) -> None:
    """It says that it leads before it can say what has ended: what it was asked meanwhile it has not heard."""
    ana.wait(ana.accepted("t1"))
    ana.accepted("t2")
    ana.waits.watch_all(1_000)
    ana.asked.clear()
    times = []
    for now_ms in range(1_000, 5_000, 50):
        before = len(ana.asked)
        ana.waits.tick(now_ms)
        times += [now_ms] * (len(ana.asked) - before)
    assert times == [1_100, 1_400, 2_600]
    assert ana.asked == [["t1"]] * 3

    # t2 was asked for only at first, and nobody waited: who does so now asks for it.
    ana.wait(ana.waits.handles[TaskId("t2")], now_ms=5_000)
    assert ana.asked[3:] == [["t2"]]


def test_a_wait_ends_at_its_deadline_and_the_task_goes_on(ana: Ana) -> None:
    handle = ana.accepted("t1")
    impatient, patient = ana.wait(handle, deadline_ms=700), ana.wait(handle)
    ana.waits.tick(699)
    assert not impatient.done()
    ana.waits.tick(700)
    assert isinstance(impatient.exception(), TaskTimeout)
    assert not patient.done()
    ana.ends("t1")
    assert patient.done()


def test_no_such_task_is_not_believed_at_once_of_a_task_just_accepted(ana: Ana) -> None:
    """A node that lags may not know it. In the end it is believed."""
    handle = ana.accepted("t1")
    future = ana.wait(handle)
    for _ in range(UNKNOWN_MAX):
        ana.ends("t1", UNKNOWN)
        assert not future.done()
    ana.ends("t1", UNKNOWN)
    assert handle.end is not None
    assert handle.end.state == UNKNOWN


def test_who_stops_waiting_costs_nothing_more(ana: Ana) -> None:
    handle = ana.accepted("t1")
    future = ana.wait(handle, deadline_ms=9_000)
    ana.waits.stop(handle, future)
    ana.waits.tick(20_000)
    assert ana.asked == []
    assert not future.done()


def test_a_task_that_was_not_accepted_is_forgotten(ana: Ana) -> None:
    handle = Handle(None, TaskId("t1"))  # type: ignore[arg-type]
    ana.waits.expect(handle)
    ana.waits.forget(handle)
    assert ana.waits.handles == {}


def test_closing_fails_whoever_waits(ana: Ana) -> None:
    future = ana.wait(ana.accepted("t1"))
    ana.waits.abandon(MeshUnavailable("closed"))
    assert str(future.exception()) == "closed"


def test_many_ids_are_cut_into_messages(ana: Ana) -> None:
    for number in range(1_000):
        ana.accepted(f"t{number}")
    ana.waits.watch_all(0)
    assert [len(ids) for ids in ana.asked] == [512, 488]
