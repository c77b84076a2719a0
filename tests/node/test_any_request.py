"""Whatever a client says, no node stops, tables agree, the store is asked only what it can answer, and work goes on."""

from hypothesis import given
from hypothesis import strategies as st

from mesh.effects import LoadHistory, LoadRows
from mesh.ids import ClientId, NodeId, TaskId
from mesh.messages import Accepted, Ask, ClientRequest, Forward, Order, SubmitTasks, TaskSpec, WatchTasks
from mesh.wire.codec import encode
from tests.node.client import spec
from tests.node.trio import ALL, ANA, BEN, settled

INT64 = (1 << 63) - 1

texts = st.text(max_size=12) | st.sampled_from(["", "ana", "t1", "t2", "9" * 30, "\x00", "x" * 300, "zoe@h:1", "²"])
task_ids = st.builds(TaskId, st.sampled_from(["t1", "t2", "ghost"]) | texts)
numbers = st.integers(-3, 12) | st.integers(-(1 << 63), (1 << 64) - 1)
payloads = st.binary(max_size=12) | st.sampled_from([b"\x01", b"\xc1", b"\xc0"])
specs = st.builds(
    TaskSpec,
    task_ids,
    st.sampled_from(["code", "nobody"]) | texts,
    payloads,
    st.integers(-3, 12) | numbers,
    st.integers(1, 3) | numbers,
    numbers,
    texts,
    payloads,
)
requests = st.one_of(
    st.builds(SubmitTasks, st.booleans(), st.lists(specs, max_size=4)),
    st.builds(WatchTasks, st.lists(task_ids, max_size=4)),
    st.builds(
        Ask,
        st.integers(0, INT64),
        st.integers(0, 6) | numbers,
        st.booleans(),
        texts | task_ids,
        texts,
        numbers,
        st.lists(st.integers(0, 9) | numbers, max_size=3).map(tuple),
        texts,
    ),
    st.builds(Order, st.integers(0, INT64), st.integers(0, 9) | numbers, texts | task_ids, texts, payloads),
)


def deliver(name: NodeId, request: ClientRequest, number: int) -> Forward:
    """As a client of a node that does not lead says it."""
    return Forward(ClientId(number), encode(request))


@given(st.lists(st.tuples(st.sampled_from(ALL), requests, st.integers(0, 30)), min_size=1, max_size=8))
def test_no_request_stops_a_node(said: list[tuple[NodeId, ClientRequest, int]]) -> None:
    """Any requests, to any nodes, with any pauses, while two tasks live. Then a good one is accepted as ever."""
    trio = settled()
    clients = {name: trio.client(name) for name in ALL}
    clients[BEN].submit(spec("t1"), spec("t2", capability="nobody"))
    trio.run(10)
    for number, (name, request, pause_ms) in enumerate(said):
        clients[name].say(request)
        trio.tell(ANA, BEN, deliver(name, request, number))
        trio.run(pause_ms)
    trio.run(3_000)
    client = trio.client(trio.leader.name)
    client.submit(spec("the good one", capability="good"))
    trio.run(100)
    assert [reply.task_ids for reply in client.told(Accepted)] == [["the good one"]]
    assert len({host.node.ledger.digest for host in trio.hosts.values()}) == 1
    for host in trio.hosts.values():
        for history in host.effects(LoadHistory):
            assert 0 <= history.after <= INT64
            assert 1 <= history.limit <= 1_000
        for load in host.effects(LoadRows):
            assert 0 <= load.limit <= 1_001
            assert len(load.states) <= 3
