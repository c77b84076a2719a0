"""The courier and a node that is up and never says a word."""

import asyncio
import gc
import time
from random import Random
from typing import Any

import pytest

from mesh.client.courier import LEARN_AFTER_S, Courier
from mesh.client.links import LinkEvents
from mesh.errors import InvalidPayload, MeshUnavailable
from mesh.messages import Action
from tests.client.cast import play


class SilentNode:
    """A link that is up at once and answers nothing."""

    def __init__(self, _address: str, events: LinkEvents) -> None:
        asyncio.get_running_loop().call_soon(events.on_up, "n1", 1)

    def send(self, _data: bytes) -> bool:
        return True

    def close(self) -> None: ...


async def _client() -> Courier:
    courier = Courier(["127.0.0.1:21000"], SilentNode, Random(7))
    await courier.open(1.0)
    return courier


@pytest.fixture
def complaints() -> list[Any]:
    """What the event loop complains about."""
    return []


def test_a_client_closed_while_it_learns_the_voters_leaves_no_complaint(complaints: list[Any]) -> None:
    """Its own question, which the user knows nothing of, fails when it closes; asyncio printed that as a traceback."""

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        courier = await _client()
        await asyncio.sleep(LEARN_AFTER_S + 0.05)
        courier.close()
        await asyncio.sleep(0)
        del courier
        gc.collect()

    play(story)
    assert complaints == []


def test_a_result_is_waited_for_no_longer_than_was_said() -> None:
    """Whether the task exists is asked first, and that counts too."""

    async def story() -> None:
        courier = await _client()
        started = time.monotonic()
        with pytest.raises(MeshUnavailable):
            await courier.handle("t1").result(timeout=0.3)
        assert time.monotonic() - started < 5.0
        courier.close()

    play(story)


def test_a_request_that_cannot_be_sent_is_refused_at_once() -> None:
    async def story() -> None:
        courier = await _client()
        with pytest.raises(InvalidPayload, match="not valid Unicode"):
            await courier.order(Action.DRAIN, "\ud800")
        courier.close()

    play(story)
