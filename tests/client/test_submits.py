"""Submits on their way. ana is a client; what she sends lands in a list, and the mesh's answers are written out."""

import asyncio
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from mesh.client.handle import Handle
from mesh.client.submits import NEVER_MS, SPECS_MAX, Submits
from mesh.errors import Backpressure, Conflict, InvalidPayload, MeshUnavailable
from mesh.ids import LogIndex, TaskId
from mesh.messages import Accepted, Code, SubmitTasks, TaskRefusal, TaskSpec, TasksRefused
from mesh.options import Concurrency, Options, WhenFull
from mesh.wire.codec import decode_request


class Ana:
    """A client's submits, with what left it and the futures of those who wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.sent: list[list[str]] = []
        self.loop = loop
        self.waiting: dict[str, asyncio.Future[None]] = {}
        self.submits = Submits(self._send, Random(7))

    def _send(self, data: bytes) -> bool:
        message = decode_request(data)
        assert isinstance(message, SubmitTasks)
        assert message.watch
        self.sent.append([spec.task_id for spec in message.specs])
        return True

    def submit(
        self,
        *names: str,
        now_ms: int = 0,
        deadline_ms: int = 30_000,
        payload: bytes = b"\xc0",
        options: Options | None = None,
    ) -> None:
        for name in names:
            task_id = TaskId(name)
            future: asyncio.Future[None] = self.loop.create_future()
            handle = Handle(None, task_id)  # type: ignore[arg-type]  # Nobody awaits it here.
            spec = TaskSpec(task_id, "code", payload, options=options)
            self.submits.add(spec, handle, future, deadline_ms, now_ms)
            self.waiting[name] = future

    def refuse(self, name: str, code: Code, why: str = "no", retry_after_ms: int = 0, now_ms: int = 0) -> None:
        self.submits.refused(TasksRefused([TaskRefusal(TaskId(name), code, why, retry_after_ms)]), now_ms)

    def accept(self, *names: str) -> None:
        self.submits.accepted(Accepted(LogIndex(9), [TaskId(name) for name in names]))

    def failure(self, name: str) -> BaseException:
        error = self.waiting[name].exception()
        assert error is not None
        return error


@pytest.fixture
def ana() -> Iterator[Ana]:
    loop = asyncio.new_event_loop()
    yield Ana(loop)
    loop.close()


def test_submits_of_one_turn_leave_in_one_message(ana: Ana) -> None:
    """Three submits, one flush, one message; each waits for its own answer."""
    ana.submit("t1", "t2", "t3")
    assert ana.sent == []
    ana.submits.flush()
    assert ana.sent == [["t1", "t2", "t3"]]

    ana.accept("t1", "t3")
    assert {name: future.done() for name, future in ana.waiting.items()} == {"t1": True, "t2": False, "t3": True}
    assert len(ana.submits) == 1


def test_a_message_is_cut_by_number_and_by_size(ana: Ana) -> None:
    ana.submit(*(f"t{i}" for i in range(SPECS_MAX + 1)))
    ana.submits.flush()
    assert [len(ids) for ids in ana.sent] == [SPECS_MAX, 1]

    ana.sent.clear()
    ana.submit("big1", "big2", "big3", payload=b"x" * 600_000)
    ana.submits.flush()
    assert ana.sent == [["big1"], ["big2"], ["big3"]]


def test_what_has_no_answer_for_a_second_is_sent_again_under_the_same_id(ana: Ana) -> None:
    """Not a millisecond sooner; and whoever was asked has been silent."""
    ana.submit("t1")
    ana.submits.flush()
    assert ana.submits.due_ms() == 1_000

    ana.submits.tick(999)
    assert not ana.submits.silent(999)
    assert ana.sent == [["t1"]]

    assert ana.submits.silent(1_000)
    ana.submits.tick(1_000)
    assert ana.sent == [["t1"], ["t1"]]
    assert ana.submits.due_ms() == 2_000


def test_another_leader_is_asked_at_once_for_whatever_has_no_answer(ana: Ana) -> None:
    ana.submit("t1", "t2")
    ana.submits.flush()
    ana.accept("t1")
    ana.submits.resend_all(300)
    assert ana.sent == [["t1", "t2"], ["t2"]]


def test_unavailable_is_tried_again_after_a_pause_that_grows(ana: Ana) -> None:
    """20 to 40 ms at first, 500 at most. The silence of a postponed submit accuses nobody."""
    ana.submit("t1")
    ana.submits.flush()
    pauses = []
    now_ms = 0
    for _ in range(12):
        ana.refuse("t1", Code.UNAVAILABLE, now_ms=now_ms)
        due_ms = ana.submits.due_ms()
        pauses.append(due_ms - now_ms)
        ana.submits.tick(due_ms - 1)
        before = len(ana.sent)
        ana.submits.tick(due_ms)
        assert len(ana.sent) == before + 1
        now_ms = due_ms
    assert 20 <= pauses[0] <= 40
    assert all(20 <= pause <= 500 for pause in pauses)
    assert max(pauses) > 200
    assert not ana.submits.silent(now_ms + 999)


def test_a_full_mesh_is_asked_again_when_it_said(ana: Ana) -> None:
    """Until the deadline; then the caller hears how long to wait."""
    ana.submit("t1", deadline_ms=5_000)
    ana.submits.flush()
    ana.refuse("t1", Code.BACKPRESSURE, "1,000,000 tasks wait", retry_after_ms=2_500)
    assert not ana.submits.silent(2_499)
    ana.submits.tick(2_499)
    assert ana.sent == [["t1"]]
    ana.submits.tick(2_500)
    assert ana.sent == [["t1"], ["t1"]]

    ana.refuse("t1", Code.BACKPRESSURE, "1,000,000 tasks wait", retry_after_ms=2_500, now_ms=2_501)
    ana.submits.tick(5_000)
    error = ana.failure("t1")
    assert isinstance(error, Backpressure)
    assert error.retry_after == 2.5
    assert str(error) == "1,000,000 tasks wait; 't1' was not taken"


@pytest.mark.parametrize(("code", "kind"), [(Code.CONFLICT, Conflict), (Code.INVALID, InvalidPayload)])
def test_a_definite_no_ends_it(ana: Ana, code: Code, kind: type[Exception]) -> None:
    ana.submit("t1")
    ana.submits.flush()
    ana.refuse("t1", code, "because")
    assert isinstance(ana.failure("t1"), kind)
    assert str(ana.failure("t1")) == "because"
    assert len(ana.submits) == 0


def test_at_the_deadline_a_refused_submit_is_certainly_not_in_the_log(ana: Ana) -> None:
    """As many refusals as sends: nothing is left that could still be accepted."""
    ana.submit("t1", deadline_ms=10_000)
    ana.submits.flush()
    ana.refuse("t1", Code.UNAVAILABLE, "no leader is known here")
    ana.submits.tick(10_000)
    assert isinstance(ana.failure("t1"), MeshUnavailable)
    assert str(ana.failure("t1")) == "no leader is known here; 't1' is certainly not in the log"


def test_at_the_deadline_an_unanswered_submit_is_of_unknown_outcome(ana: Ana) -> None:
    """It was refused once, but another send of it had no answer: that one may be in the log."""
    ana.submit("t1", deadline_ms=10_000)
    ana.submits.flush()
    ana.submits.resend_all(500)
    ana.refuse("t1", Code.UNAVAILABLE, "no leader is known here", now_ms=600)
    ana.submits.tick(10_000)
    assert "is unknown" in str(ana.failure("t1"))


def test_the_same_submit_twice_at_once_is_one(ana: Ana) -> None:
    """Two callers, one id, one payload: one message, and both hear the answer. Another payload is refused here."""
    ana.submit("t1")
    first = ana.waiting["t1"]
    ana.submit("t1")
    ana.submits.flush()
    assert ana.sent == [["t1"]]
    with pytest.raises(Conflict):
        ana.submit("t1", payload=b"\x01")
    ana.accept("t1")
    assert first.done()
    assert ana.waiting["t1"].done()


def test_who_stops_waiting_is_forgotten(ana: Ana) -> None:
    """The caller was cancelled: nothing is sent again, and a late answer harms nobody."""
    ana.submit("t1")
    ana.submits.flush()
    ana.submits.give_up(TaskId("t1"), ana.waiting["t1"])
    ana.submits.tick(5_000)
    ana.accept("t1")
    assert ana.sent == [["t1"]]
    assert ana.submits.due_ms() == NEVER_MS


def test_closing_fails_whatever_waits(ana: Ana) -> None:
    ana.submit("t1", "t2")
    ana.submits.abandon(MeshUnavailable("closed"))
    assert [str(ana.failure(name)) for name in ("t1", "t2")] == ["closed", "closed"]
    assert len(ana.submits) == 0


def test_the_number_of_unanswered_submits_is_bounded(ana: Ana, monkeypatch: Any) -> None:
    monkeypatch.setattr("mesh.client.submits.UNACCEPTED_MAX", 2)
    ana.submit("t1", "t2")
    with pytest.raises(Backpressure):
        ana.submit("t3")


def test_whoever_would_rather_be_rejected_than_wait_hears_so_at_once(ana: Ana) -> None:
    """The others are asked again until there is room, or their time is up."""
    ana.submit("t1", options=Options(concurrency=Concurrency("gpu", 1, WhenFull.REJECT)))
    ana.submit("t2", options=Options(concurrency=Concurrency("gpu", 1, WhenFull.QUEUE)))
    ana.submit("t3", options=Options(fairness="ana"))
    ana.submit("t4")
    ana.submits.flush()
    for name in ("t1", "t2", "t3", "t4"):
        ana.refuse(name, Code.BACKPRESSURE, "the key 'gpu' is taken", retry_after_ms=1_500)
    assert [name for name, future in ana.waiting.items() if future.done()] == ["t1"]
    error = ana.failure("t1")
    assert isinstance(error, Backpressure)
    assert (str(error), error.retry_after) == ("the key 'gpu' is taken; 't1' was not taken", 1.5)
