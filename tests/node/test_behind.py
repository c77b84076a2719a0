"""The table is written behind, in order and in one piece; the log goes only as far as the table covers (issue 2, 7)."""

import pytest

from mesh.config import DispatchConfig
from mesh.documents import EventPage, TaskPage
from mesh.effects import TrimLog, WriteLedger
from mesh.ids import LogIndex, TaskId, Term
from mesh.ledger.task import COMPLETED, DISPATCHED
from mesh.messages import Question
from mesh.node import behind
from mesh.wire.codec import decode_happenings, decode_summary, decode_task
from tests.node.client import spec
from tests.node.trio import ANA, BEN, EVA, Trio, settled


def written(trio: Trio) -> list[int]:
    """Where the table stood, each time ana wrote it."""
    return [effect.write.mark.applied_index for effect in trio[ANA].effects(WriteLedger)]


def submitted(trio: Trio, *names: str) -> None:
    """One entry each."""
    client = trio.client(ANA)
    for name in names:
        client.submit(spec(name, capability="nobody"))
        trio.run(4)


def test_what_changed_is_written_every_half_second_in_one_piece() -> None:
    """t1 is granted and done within one pace: one row, as it stands; the events of both entries; the mark with them."""
    trio = settled()
    submitted(trio, "before")
    trio[ANA].performed.clear()
    trio.client(ANA).submit(spec("t1"))
    trio.run(10)
    trio.ends(ANA, "t1", 5)
    trio.run(480)
    assert written(trio) == []
    trio.run(20)
    [effect] = trio[ANA].effects(WriteLedger)
    write = effect.write
    ledger = trio[ANA].node.ledger
    assert (write.mark.applied_index, write.mark.applied_term, write.mark.digest) == (6, 2, ledger.digest)
    assert decode_summary(write.mark.summary) == ledger.summary()
    [row] = write.rows
    assert (row.task_id, row.state, row.capability, row.finished) == ("t1", COMPLETED, "code", 1)
    assert decode_task(row.record).result == b"\xa2t1"
    assert [(index, len(decode_happenings(events))) for index, events in write.events] == [(5, 2), (6, 1)]
    assert (write.forgotten, write.events_from) == ([], 0)
    assert trio[ANA].node.behind.find(TaskId("t1")) is None


def test_a_live_row_is_no_finished_one() -> None:
    """Its fingerprint and number say so: the store finds it only when it starts."""
    trio = settled()
    trio.client(ANA).submit(spec("t1"))
    trio.run(1_000)
    row = trio[ANA].disk.table.rows[TaskId("t1")]
    assert (row.state, row.finished, row.fingerprint) == (DISPATCHED, 0, 0)


def test_one_write_at_a_time_and_what_is_on_its_way_is_still_found() -> None:
    """The disk hangs for seconds: nothing more is written, and everything is answered from memory meanwhile."""
    trio = settled()
    client = trio.client(ANA)
    client.submit(spec("t1"))
    trio.run(10)
    trio.ends(ANA, "t1", 4)
    trio.run(10)
    trio[ANA].is_disk_stuck = True
    trio.run(600)
    [*_, on_its_way] = written(trio)
    assert on_its_way == 5
    task = trio[ANA].node.behind.find(TaskId("t1"))
    assert task is not None and task.result == b"\xa2t1"
    page = client.now(Question.TASKS, TaskPage, stale=True)
    assert [line.id for line in page.tasks] == ["t1"]
    events = client.now(Question.EVENTS, EventPage, after="3", stale=True).events
    assert [line.event for line in events] == ["task_submitted", "task_dispatched", "task_completed"]
    assert trio[ANA].node.behind.next_deadline_ms() is None
    trio.sync(ANA)
    trio.run(1_000)
    assert written(trio)[-1] == on_its_way


def test_many_changes_are_written_before_their_time() -> None:
    """Four rows are enough here: the pace is a minute."""
    trio = settled(dispatch=DispatchConfig(ledger_flush_ms=60_000, ledger_flush_rows_max=4))
    submitted(trio, "a", "b", "c")
    assert written(trio) == []
    submitted(trio, "d")
    assert written(trio) == [7]


def test_nothing_new_is_nothing_written() -> None:
    trio = settled()
    trio.run(2_000)
    before = written(trio)
    trio.run(60_000)
    assert written(trio) == before
    assert trio[ANA].node.behind.next_deadline_ms() is None


def test_the_log_is_trimmed_to_what_the_table_covers_minus_a_tail() -> None:
    """A tail of eight: with the table at 17 the log may begin at 9, and not before the table is durable."""
    trio = settled(dispatch=DispatchConfig(log_tail_entries_max=8, ledger_flush_ms=100))
    trio.run(200)
    trio[ANA].performed.clear()
    submitted(trio, *(f"t{number}" for number in range(14)))
    trio.run(200)
    assert (trio[ANA].node.ledger.applied_index, written(trio)) == (17, [4, 17])
    assert trio[ANA].effects(TrimLog) == [TrimLog(LogIndex(9), Term(2))]
    assert (trio[ANA].node.raft.first_index, trio[ANA].disk.before_index) == (9, 8)


def test_the_log_is_not_trimmed_for_a_few_entries() -> None:
    """Each trim costs a write: it waits until an eighth of the tail has gathered."""
    trio = settled(dispatch=DispatchConfig(log_tail_entries_max=16, ledger_flush_ms=100))
    for name in "abcdefghijklmnopqrst":
        submitted(trio, name)
        trio.run(150)
    firsts = [trim.first_index for trim in trio[ANA].effects(TrimLog)]
    assert firsts == [3, 5, 7]


def test_a_stuck_table_keeps_the_log() -> None:
    """What the table does not cover stays, however much it is; the restarted node replays it."""
    trio = settled(dispatch=DispatchConfig(log_tail_entries_max=8, ledger_flush_ms=60_000, ledger_flush_rows_max=1_000))
    submitted(trio, *(f"t{number}" for number in range(40)))
    assert (written(trio), trio[ANA].node.raft.first_index) == ([], 1)
    trio.kill(ANA)
    trio.start(ANA)
    trio.run(100)
    assert len(trio[ANA].node.ledger.tasks) == 40
    assert trio[ANA].node.ledger.digest == trio[BEN].node.ledger.digest


def test_old_events_leave_the_store() -> None:
    """Events of the last ten entries are kept; the store drops what is older with the next write."""
    trio = settled(dispatch=DispatchConfig(events_kept_max=10, ledger_flush_ms=100))
    submitted(trio, *(f"t{number}" for number in range(19)))
    trio.run(300)
    submitted(trio, "last")
    trio.run(300)
    assert trio[ANA].effects(WriteLedger)[-1].write.events_from == 13
    assert [index for index, _ in trio[ANA].disk.table.events] == list(range(13, 24))


def test_a_node_restarts_from_its_table_and_the_rest_of_its_log() -> None:
    """Issue 2, 7: eva's table stands at some entry, her log goes on from there. She has it all, queue included."""
    trio = settled(dispatch=DispatchConfig(log_tail_entries_max=8, ledger_flush_ms=200))
    submitted(trio, *(f"t{number:02}" for number in range(20)))
    trio.run(20)
    before = trio[EVA].node.ledger
    mark = trio[EVA].disk.table.mark
    assert mark is not None
    assert 3 < mark.applied_index < before.applied_index
    trio.kill(EVA)
    trio.start(EVA)
    trio.run(1_500)
    after = trio[EVA].node.ledger
    assert (after.digest, list(after.tasks)) == (trio[ANA].node.ledger.digest, list(trio[ANA].node.ledger.tasks))
    first = after.queue.first("nobody")
    assert first is not None and first.task_id == "t00"


def test_what_is_kept_for_a_follower_that_is_sent_a_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """65,536 entries behind the table at most; ten here."""
    trio = settled(dispatch=DispatchConfig(log_tail_entries_max=8, ledger_flush_ms=100))
    submitted(trio, *(f"t{number}" for number in range(17)))
    node = trio[ANA].node
    node.behind.written(20, LogIndex(3))
    assert node.raft.first_index <= 4
    monkeypatch.setattr(behind, "NEEDED_ENTRIES_MAX", 10)
    node.behind.written(20, LogIndex(3))
    assert node.raft.first_index == 10
