"""Frames: cut anywhere, over the bound, rubbish; and a socket whose other end does not read."""

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.ids import FencingToken, TaskId
from mesh.messages import AttemptOrder, AttemptOutcome, Lease
from nodes.agent_wire import (
    FRAME_BYTES_MAX,
    UNSENT_BYTES_MAX,
    AgentWord,
    Began,
    Ended,
    FrameReader,
    Hello,
    Kept,
    NodeWord,
    Offered,
    Rubbish,
    Run,
    Stop,
    Wire,
    frames,
    from_agent,
    from_node,
)

T1 = TaskId("t1")
LEASE: Lease = (T1, FencingToken(7))
WORDS: list[AgentWord] = [
    Hello([("code", "loop", ""), ("search", "process", "2.1")]),
    Began([LEASE]),
    Offered(*LEASE, 1, b"x" * 300_000),
    Ended([AttemptOutcome(*LEASE, b"", "ValueError: no"), AttemptOutcome(*LEASE, b"x" * 10)]),
]


def read_all(reader: FrameReader[AgentWord], data: bytes, cuts: list[int]) -> list[AgentWord]:
    """Feed `data` in pieces cut at these places."""
    words: list[AgentWord] = []
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        while at < cut:
            with reader.room() as room:
                count = min(cut - at, len(room))
                room[:count] = data[at : at + count]
            words += reader.received(count)
            at += count
    return words


@given(st.lists(st.integers(0, 600_000), max_size=8))
def test_words_come_out_as_they_went_in_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    data = b"".join(b"".join(frames([word])) for word in WORDS) + b"".join(frames(WORDS))
    reader = FrameReader(from_agent)
    assert read_all(reader, data, [cut for cut in cuts if cut < len(data)]) == [*WORDS, *WORDS]


def test_what_is_too_large_for_one_frame_takes_several_in_order() -> None:
    """Nine orders of 1 MB between two other words: the words are cut apart, then the orders."""
    orders = [AttemptOrder(TaskId(f"t{i}"), FencingToken(i), 1, "code", b"x" * 1_000_000, b"") for i in range(9)]
    words: list[NodeWord] = [Stop([LEASE]), Run(orders), Kept(*LEASE, 1, True)]
    cut = list(frames(words))
    assert len(cut) > 1
    assert all(len(frame) <= FRAME_BYTES_MAX + 4 for frame in cut)
    heard = [word for frame in cut for word in from_node(memoryview(frame)[4:])]
    assert heard[0] == words[0]
    assert heard[-1] == words[2]
    assert [order for word in heard if isinstance(word, Run) for order in word.orders] == orders


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",  # A frame of 4 GB.
        b"\x00\x00\x00\x01\xc1",  # No MessagePack.
        b"\x00\x00\x00\x03\x91\x91\x63",  # A word that does not exist.
        b"\x00\x00\x00\x00",  # Nothing at all.
    ],
)
def test_rubbish_is_called_rubbish(data: bytes) -> None:
    with pytest.raises(Rubbish):
        read_all(FrameReader(from_agent), data, [])


def test_a_wire_says_when_the_other_end_does_not_read_and_when_it_does_again() -> None:
    """Ana says 80 MB to Ben, who does not listen: her end is full. He reads it all: she hears that it is not."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        drained = asyncio.Event()
        closed: list[str] = []
        said: list[NodeWord] = [Run([AttemptOrder(T1, FencingToken(1), 1, "code", b"x" * 1_000_000, b"")])]
        ana: Wire[AgentWord, NodeWord] = Wire(
            loop,
            ours,
            from_agent,
            heard=lambda _: None,
            gather=lambda: said,
            closed=closed.append,
            drained=drained.set,
        )
        for _ in range(80):
            ana.flush()
        assert ana.unsent_bytes > UNSENT_BYTES_MAX
        heard: list[NodeWord] = []
        ben: Wire[NodeWord, AgentWord] = Wire(
            loop, theirs, from_node, heard=heard.extend, gather=list, closed=lambda _: None
        )
        await asyncio.wait_for(drained.wait(), 20)
        assert ana.unsent_bytes <= UNSENT_BYTES_MAX
        while len(heard) < 80:
            await asyncio.sleep(0)
        assert heard == said * 80
        ben.close()
        while ana.open:
            await asyncio.sleep(0)
        assert closed == ["closed"]

    asyncio.run(story())
