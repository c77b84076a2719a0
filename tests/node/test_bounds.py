"""Nothing a client asks for makes a message no link takes, a read no store answers, or a memory without end.

Issue 2, "bad input"; DESIGN: no queue, buffer, loop or retry is without a bound.
"""

from typing import Any

import pytest

from mesh.config import PAYLOAD_BYTES_MAX, DispatchConfig
from mesh.documents import EventPage, Task
from mesh.effects import Channel, LoadRows, TrimLog
from mesh.events import AttemptsEnded, TurnEnded
from mesh.ids import FencingToken, TaskId
from mesh.ledger.task import CANCELLED, COMPLETED, TaskState
from mesh.messages import (
    Action,
    Append,
    AppendReply,
    AttemptOutcome,
    Code,
    Grants,
    Heartbeat,
    Order,
    Question,
    Reports,
    SubmitTasks,
    TaskEnd,
    TasksEnded,
    TaskSpec,
    TasksRefused,
)
from mesh.node.clients import ENTRIES_A_PAGE_MAX, LOADED_AT_ONCE_MAX
from mesh.node.requests import ENDS_BYTES_MAX, in_parts, unfit
from mesh.transport.sockets import BYTES_MAX
from mesh.wire.codec import encode
from tests.node.client import spec
from tests.node.trio import ANA, BEN, EVA, Trio, settled

MIB = 1 << 20


def largest(trio: Trio, kind: type[Any]) -> int:
    """Bytes of the longest message of a kind that left."""
    return max(len(encode(message)) for message in trio.messages(kind))


def ended(trio: Trio, *, result: bytes) -> None:
    """Everything that runs ends with this result."""
    for host in trio.hosts.values():
        outcomes = [AttemptOutcome(TaskId(task), FencingToken(token), result) for task, token in host.runs]
        trio.feed(host.name, AttemptsEnded(outcomes))


def test_the_heaviest_submits_make_entries_that_links_take() -> None:
    """21 tasks of a 1 MiB payload and a 1 MiB checkpoint each, in one turn: many entries, all of them committed."""
    trio = settled(slots=64)
    client = trio.client(ANA)
    heavy = {"payload": bytes(PAYLOAD_BYTES_MAX), "checkpoint": bytes(PAYLOAD_BYTES_MAX)}
    for turn in range(7):
        specs = [spec(f"t{turn}{number}", **heavy) for number in range(3)]  # type: ignore[arg-type]
        client.say(SubmitTasks(True, specs), ends_turn=False)
    trio.feed(ANA, TurnEnded())
    trio.run(200)
    assert len(trio[EVA].node.ledger.tasks) == 21
    assert largest(trio, Append) < BYTES_MAX[Channel.DATA]
    assert largest(trio, Grants) < BYTES_MAX[Channel.DATA]
    ended(trio, result=bytes(PAYLOAD_BYTES_MAX))
    trio.run(200)
    assert trio[EVA].node.ledger.counts[COMPLETED] == 21
    assert largest(trio, Append) < BYTES_MAX[Channel.DATA]
    assert largest(trio, Reports) < BYTES_MAX[Channel.DATA]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"target": "x" * 501}, "a target has 500 characters at most, this one 501"),
        ({"target": "t1", "reason": "x" * (5 * MIB)}, "a reason has 1000 characters at most, this one 5242880"),
        ({"target": "t1", "value": bytes(MIB + 1)}, "the value takes 1048577 bytes; 1048576 at most travel inline"),
    ],
)
def test_an_order_too_large_for_the_log_is_refused(fields: dict[str, Any], why: str) -> None:
    """Two of them in one entry and no link would take it: the log would stand still for good, whoever leads."""
    trio = settled()
    client = trio.client(BEN)
    request = client.order(Action.CANCEL, **fields)
    trio.run(20)
    assert client.answers(request) == [(Code.INVALID, why)]
    assert trio.messages(Append) and all(append.entries == () for append in trio.messages(Append))
    assert unfit(Order(1, Action.CANCEL, "x" * 500, "x" * 1_000, bytes(MIB))) == ""


def test_a_source_is_a_name_and_no_novel() -> None:
    trio = settled()
    client = trio.client(ANA)
    client.submit(TaskSpec(TaskId("t1"), "code", b"\x01", source="x" * 201))
    [refused] = client.told(TasksRefused)
    [refusal] = refused.refusals
    assert (refusal.code, refusal.message) == (Code.INVALID, "a source has 200 characters at most, this one 201")


def test_more_states_than_there_are_never_reach_the_store() -> None:
    """SQLite takes so many variables and no more; a store that cannot read stops its node, and the client asks the next
    one.
    """
    trio = settled()
    client = trio.client(BEN)
    for stale in (True, False):
        request = client.ask(Question.TASKS, states=(CANCELLED,) * 11, stale=stale)
        trio.run(20)
        assert client.answers(request) == [(Code.INVALID, "there are 10 states, not 11")]
    client.ask(Question.TASKS, states=tuple(TaskState), stale=True)
    assert [load.states for load in trio[BEN].effects(LoadRows)] == [(6, 7, 8)]


def test_ends_too_large_for_one_message_come_in_several() -> None:
    """Ten results of 900 KiB: told as they end, asked for from memory, and asked for from the store."""
    trio = settled(slots=64)
    client = trio.client(BEN)
    names = [f"t{number}" for number in range(10)]
    client.submit(*(spec(name) for name in names))
    trio.run(20)
    ended(trio, result=bytes(900 << 10))
    trio.run(100)
    late = trio.client(BEN)
    late.watch(*names)
    trio.run(20)
    trio.run(3_000)
    later = trio.client(BEN)
    later.watch(*names)
    trio.run(20)
    for one in (client, late, later):
        assert sorted(end.task_id for told in one.told(TasksEnded) for end in told.ends) == names
        assert max(len(encode(told)) for told in one.told(TasksEnded)) < BYTES_MAX[Channel.DATA]


def test_ends_are_cut_where_the_next_would_be_too_much() -> None:
    def end(size: int) -> TaskEnd:
        return TaskEnd(TaskId("t"), COMPLETED, bytes(size), "", "", ANA, 1)

    half = end(ENDS_BYTES_MAX // 2 - 64)
    assert list(in_parts([])) == []
    assert list(in_parts([half, half, half])) == [[half, half], [half]]
    assert list(in_parts([half, end(2 * MIB), half])) == [[half], [end(2 * MIB)], [half]]


def test_ends_are_fetched_from_the_store_a_few_at_a_time() -> None:
    """512 ids in one message; a row may weigh 3 MiB."""
    trio = settled()
    trio.client(ANA).watch(*(f"t{number}" for number in range(512)))
    assert [len(load.task_ids) for load in trio[ANA].effects(LoadRows)] == [LOADED_AT_ONCE_MAX] * 8


def test_a_page_of_events_holds_whole_entries_and_no_more_than_asked_for() -> None:
    """Entries of 300 tasks, from the store and from memory: a page of 700 holds one of them, not a hundred."""
    trio = settled(capabilities=("code",))
    client = trio.client(ANA)
    for turn in range(4):
        client.submit(*(spec(f"t{turn}-{number}", capability="nobody") for number in range(300)))
        trio.run(700 if turn < 3 else 5)
    trio.run(5)
    sizes, after, found = [], "", 0
    while (page := client.now(Question.EVENTS, EventPage, after=after, limit=700)).events:
        assert page.next == str(page.events[-1].index)
        sizes.append(len(page.events))
        found += len({line.task for line in page.events} - {None})
        after = page.next
    assert (sizes, found) == ([605, 600], 1_200)


def test_pages_of_events_go_on_where_the_store_was_cut() -> None:
    """More entries with events than one read brings: what is only in memory is not told before what is on disk."""
    trio = settled()
    client = trio.client(ANA)
    for number in range(ENTRIES_A_PAGE_MAX + 20):
        client.submit(spec(f"t{number:03}", capability="nobody"))
        trio.run(3)
    trio.run(600)
    client.submit(spec("last", capability="nobody"))
    trio.run(3)
    first = client.now(Question.EVENTS, EventPage, limit=1_000)
    rest = client.now(Question.EVENTS, EventPage, limit=1_000, after=first.next)
    tasks = [line.task for page in (first, rest) for line in page.events if line.task]
    assert tasks == [*(f"t{number:03}" for number in range(ENTRIES_A_PAGE_MAX + 20)), "last"]


def test_a_log_of_heavy_entries_is_trimmed_by_their_bytes() -> None:
    """The tail is kept for followers that lag: 4,096 entries of a few hundred bytes, but not of a MiB each."""
    dispatch = DispatchConfig(log_tail_bytes_max=8 * MIB)
    trio = settled(dispatch=dispatch)
    client = trio.client(ANA)
    for number in range(20):
        client.submit(spec(f"t{number}", capability="nobody", payload=bytes(PAYLOAD_BYTES_MAX)))
        trio.run(5)
    trio.run(1_500)
    for host in trio.hosts.values():
        log = host.node.raft.log
        kept = sum(len(entry.data) for entry in log.between(log.before_index, log.last_index))
        assert 7 * MIB <= kept <= 8 * MIB
        assert host.effects(TrimLog)
    trio.kill(EVA)
    trio.start(EVA)
    trio.run(2_000)
    assert len(trio[EVA].node.ledger.tasks) == 20


def test_a_heartbeat_fits_its_link_however_long_the_ids() -> None:
    """400 leases, each id 200 characters of four bytes: a beat too long is no beat, and the node is given up."""
    trio = settled(slots=1_000)
    names = [f"{number:04}" + "\U0001f600" * 196 for number in range(1_200)]
    client = trio.client(ANA)
    for at in range(0, 1_200, 400):
        client.submit(*(spec(name) for name in names[at : at + 400]))
        trio.run(20)
    beats: list[Heartbeat] = []
    for name in (ANA, BEN, EVA):
        trio.run(1_000)
        own = trio[name].node.detector.member(name)
        assert own is not None and own.last is not None
        beats.append(own.last)
    assert [beat.held_total for beat in beats] == [400, 400, 400]
    assert max(len(encode(beat)) for beat in beats) < BYTES_MAX[Channel.GOSSIP]


def test_a_client_never_hears_what_an_earlier_one_of_its_number_asked() -> None:
    """ben's client 1 asks about a; before ana can answer, ben restarts, and his next client, 1 again, asks about b."""
    trio = settled()
    before = trio.client(BEN)
    before.submit(spec("a", capability="nobody"), spec("b", capability="nobody"))
    trio.run(20)
    trio.lose(AppendReply)
    request = before.ask(Question.TASK, task_id="a")
    trio.run(5)
    trio.kill(BEN)
    trio.start(BEN)
    after = trio.client(BEN, number=before.number)
    trio.run(5)
    assert after.ask(Question.TASK, task_id="b") == request
    trio.heal()
    trio.run(100)
    assert after.document(request, Task).id == "b"
    assert trio[BEN].node.counters["relays_for_past_incarnation"] == 1
