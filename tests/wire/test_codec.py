"""Objects to bytes and back; and what is not ours is Rubbish, never a crash."""

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.durable import Configuration, Entry, Member
from mesh.ids import ClientId, FencingToken, LogIndex, NodeId, TaskId, Term
from mesh.ledger.commands import AdmitNode, Batch, CompleteTask, GrantLease, SubmitTask
from mesh.ledger.ledger import Summary
from mesh.ledger.task import Happening, Kind, NodeRecord, Task
from mesh.messages import (
    Accepted,
    Append,
    AttemptOutcome,
    Forward,
    Grants,
    Heartbeat,
    PeerView,
    Reports,
    SubmitTasks,
    TaskEnd,
    TasksEnded,
    TaskSpec,
    WatchTasks,
)
from mesh.wire import codec
from mesh.wire.codec import Rubbish, encode

SPEC = TaskSpec(TaskId("t1"), "code", b"\x81\xa1a\x01", 3, 2, 9, "eva")
HEARTBEAT = Heartbeat(
    cluster="c",
    node_id=NodeId("n1"),
    incarnation=2,
    sequence=7,
    address="h:1",
    pid=4242,
    slots=10,
    running=1,
    draining=False,
    capabilities=("code",),
    labels=(("zone", "eu"),),
    held=((TaskId("t1"), FencingToken(9)),),
    held_total=1,
    term=Term(3),
    leader=None,
    commit=LogIndex(12),
    applied=LogIndex(11),
    digest=b"d" * 16,
    views=(PeerView(NodeId("n2"), 1, 0, True),),
)
ENTRY = Entry(LogIndex(4), Term(2), 1, b"batch")
PEER = [
    Append(Term(2), LogIndex(3), Term(2), LogIndex(2), 8, (ENTRY,)),
    Grants(Term(2), 1, []),
    Reports([AttemptOutcome(TaskId("t1"), FencingToken(9), b"\x01", "", "", False)]),
    Forward(ClientId(3), b"anything"),
]
DECODERS: list[Callable[[bytes], Any]] = [
    codec.decode_peer,
    codec.decode_request,
    codec.decode_reply,
    codec.decode_heartbeat,
    codec.decode_value,
]


@pytest.mark.parametrize("message", PEER, ids=lambda message: type(message).__name__)
def test_what_nodes_say_comes_back_as_it_was(message: Any) -> None:
    """Encoded, decoded, equal."""
    assert codec.decode_peer(encode(message)) == message


def test_what_clients_and_nodes_say_comes_back_as_it_was() -> None:
    """Requests, replies, gossip, commands and records, one of each kind."""
    submit = SubmitTasks(True, [SPEC])
    ended = TasksEnded([TaskEnd(TaskId("t1"), 6, b"\x01", "", "", NodeId("n1"), 1)])
    batch = Batch(5, [SubmitTask(SPEC), GrantLease(TaskId("t1"), NodeId("n1")), AdmitNode(NodeId("n2"), 4)])
    configuration = Configuration((Member(NodeId("n1"), "h:1"),))
    happening = Happening(4, 5, Kind.TASK_SUBMITTED, NodeId(""), TaskId("t1"), 0, FencingToken(0), "eva")
    task = Task(SPEC, 4_096, 0, 5, [happening])
    assert codec.decode_request(encode(submit)) == submit
    assert codec.decode_request(encode(WatchTasks([]))) == WatchTasks([])
    assert codec.decode_reply(encode(ended)) == ended
    assert codec.decode_reply(encode(Accepted(LogIndex(4), [TaskId("t1")]))) == Accepted(LogIndex(4), [TaskId("t1")])
    assert codec.decode_heartbeat(encode(HEARTBEAT)) == HEARTBEAT
    assert codec.decode_batch(encode(batch)) == batch
    assert codec.decode_configuration(encode(configuration)) == configuration
    assert codec.decode_task(encode(task)) == task
    assert codec.decode_happenings(encode([happening])) == [happening]
    summary = Summary([NodeRecord(NodeId("n1"), 3)], [0] * 10, 7, 5)
    assert codec.decode_summary(encode(summary)) == summary
    assert codec.decode_value(encode({"a": [1, None, "x"]})) == {"a": [1, None, "x"]}


def test_any_language_can_read_it() -> None:
    """The plain MessagePack library sees arrays whose first element is the tag, and writes bytes we read."""
    submit = SubmitTasks(True, [SPEC])
    plain = msgpack.unpackb(encode(submit))
    assert plain == [50, True, [["t1", "code", b"\x81\xa1a\x01", 3, 2, 9, "eva", b"", None]]]
    assert codec.decode_request(msgpack.packb(plain)) == submit
    command = CompleteTask(TaskId("t1"), FencingToken(9), b"\x01")
    assert msgpack.unpackb(encode(Batch(5, [command]))) == [5, [[5, "t1", 9, b"\x01"]]]


def test_fields_added_later_are_left_out_by_older_speakers() -> None:
    """A task without the optional fields at its end is a task with their defaults."""
    short = msgpack.packb([50, False, [["t1", "code", b""]]])
    assert codec.decode_request(short) == SubmitTasks(False, [TaskSpec(TaskId("t1"), "code", b"")])


@pytest.mark.parametrize("decode", DECODERS, ids=lambda decode: decode.__name__)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x92\x05",
        b"\x91" * 5_000,
        encode([99, 1]),
        b"GET / HTTP/1.1\r\n\r\n"[:1] * 3 + b"\xdd\xff\xff\xff\xff",
    ],
    ids=["empty", "never used", "cut short", "nested too deep", "unknown tag", "huge length"],
)
def test_garbage_is_rubbish(decode: Callable[[bytes], Any], data: bytes) -> None:
    """Whoever decodes drops it and counts; nothing else is raised."""
    if decode is codec.decode_value and data == encode([99, 1]):
        assert decode(data) == [99, 1]
        return
    with pytest.raises(Rubbish):
        decode(data)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.integers(0, 60).map(lambda at: _flip(encode(PEER[0]), at))))
def test_no_bytes_do_more_than_decode_or_be_rubbish(data: bytes) -> None:
    """Random bytes, and good messages with one byte changed."""
    for decode in DECODERS:
        try:
            decode(data)
        except Rubbish:
            continue


def _flip(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def test_a_command_that_is_not_known_here_stops_the_node() -> None:
    """A later release proposed it. To pass over it would be to have another table than the others."""
    with pytest.raises(AssertionError, match=r"commands that this release does not know .*; upgrade it"):
        codec.decode_batch(msgpack.packb([1_000, [[99, "t1"]]]))
