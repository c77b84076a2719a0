"""Questions and orders: one request, one answer, asked again until it comes."""

import asyncio
from collections.abc import Iterator
from random import Random

import pytest

from mesh.client.requests import Requests
from mesh.errors import MeshUnavailable, NotFound, Refused
from mesh.messages import Answer, Code


class Ana:
    """A client's requests, and what left it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.sent: list[bytes] = []
        self.loop = loop
        self.requests = Requests(self._send, Random(7))

    def _send(self, data: bytes) -> bool:
        self.sent.append(data)
        return True

    def ask(self, data: bytes, deadline_ms: int = 30_000) -> tuple[int, asyncio.Future[bytes]]:
        number = self.requests.next_number()
        future: asyncio.Future[bytes] = self.loop.create_future()
        self.requests.add(number, data, future, deadline_ms, 0)
        return number, future


@pytest.fixture
def ana() -> Iterator[Ana]:
    loop = asyncio.new_event_loop()
    yield Ana(loop)
    loop.close()


def test_answers_find_their_questions(ana: Ana) -> None:
    """Out of order, and one that nobody asked for."""
    one, first = ana.ask(b"one")
    two, second = ana.ask(b"two")
    assert ana.sent == [b"one", b"two"]
    ana.requests.answered(Answer(two, Code.OK, "", b"2"), 5)
    ana.requests.answered(Answer(99, Code.OK, "", b"?"), 5)
    ana.requests.answered(Answer(one, Code.OK, "", b"1"), 5)
    assert (first.result(), second.result()) == (b"1", b"2")


def test_an_unanswered_question_is_asked_again_less_and_less_often(ana: Ana) -> None:
    ana.ask(b"q")
    times = []
    for now_ms in range(0, 20_000, 500):
        before = len(ana.sent)
        ana.requests.tick(now_ms)
        times += [now_ms] * (len(ana.sent) - before)
    assert times == [1_000, 3_000, 7_000, 15_000]


def test_a_refusal_is_an_error_of_its_own_kind(ana: Ana) -> None:
    number, future = ana.ask(b"q")
    ana.requests.answered(Answer(number, Code.NOT_FOUND, "there is no task 't1'", b""), 5)
    assert isinstance(future.exception(), NotFound)
    assert str(future.exception()) == "there is no task 't1'"


def test_a_refusal_of_a_repeated_order_says_that_an_earlier_one_may_have_succeeded(ana: Ana) -> None:
    """The first answer was lost; what the second says may be the doing of the first."""
    number, future = ana.ask(b"retry t1")
    ana.requests.resend_all(100)
    ana.requests.answered(Answer(number, Code.REFUSED, "it is no dead letter", b""), 200)
    assert isinstance(future.exception(), Refused)
    assert str(future.exception()) == "it is no dead letter (an earlier try may have succeeded)"


def test_unavailable_is_asked_again_until_the_deadline(ana: Ana) -> None:
    number, future = ana.ask(b"q", deadline_ms=2_000)
    ana.requests.answered(Answer(number, Code.UNAVAILABLE, "no leader is known here", b""), 0)
    assert 20 <= ana.requests.due_ms() <= 40
    assert not ana.requests.silent(40)
    ana.requests.tick(40)
    assert ana.sent == [b"q", b"q"]
    ana.requests.tick(2_000)
    assert isinstance(future.exception(), MeshUnavailable)
    assert str(future.exception()) == "no leader is known here"


def test_who_asked_and_went_away_is_forgotten(ana: Ana) -> None:
    _, future = ana.ask(b"q")
    future.cancel()
    ana.requests.tick(1_000)
    assert ana.sent == [b"q"]
