"""eva has fallen so far behind that the log does not reach back to her: she is sent the table (Raft 7; issue 2, 7)."""

import msgspec
import pytest

from mesh.config import FINISHED_MAX, DispatchConfig
from mesh.documents import EventPage, Task
from mesh.durable import LedgerMark, TaskRow
from mesh.effects import (
    CloseSnapshot,
    InstallSnapshot,
    OpenSnapshot,
    ReadSnapshot,
    Send,
    StageSnapshot,
    TrimLog,
    WriteLedger,
)
from mesh.events import SnapshotOpened, SnapshotRead
from mesh.ids import LogIndex, NodeId, TaskId, Term
from mesh.ledger.intake import Intake, Leftovers
from mesh.ledger.ledger import Summary
from mesh.messages import Action, Append, Question, SnapshotChunk, SnapshotOffer, SnapshotPull
from mesh.node import transfers
from mesh.node.transfers import GONE, PULLS_MAX, STAGING_MAX, Receiving, Transfers
from mesh.raft.progress import ProgressState
from mesh.wire.codec import decode_peer, encode
from tests.node.client import spec
from tests.node.trio import ANA, BEN, EVA, Trio, settled

SHORT_LOG = DispatchConfig(log_tail_entries_max=8, ledger_flush_ms=100)
FIRST_TRANSFER = (1 << 20) + 1


def work(trio: Trio, name: NodeId, *tasks: str) -> None:
    """These are done, one after another, by whoever gets them."""
    client = trio.client(name)
    for task in tasks:
        client.submit(spec(task))
        trio.run(10)
        [(host, token)] = [(h.name, token) for h in trio.hosts.values() if h.is_up for t, token in h.runs if t == task]
        trio.ends(host, task, token)
        trio.run(10)


def left_behind(*, tasks: int = 20) -> Trio:
    """eva was cut off while the others did this much; their logs begin after what she has. She is not healed yet."""
    trio = settled(dispatch=SHORT_LOG, chunk_rows=6)
    trio.client(ANA).order(Action.DRAIN, "eva")
    trio.client(ANA).submit(spec("lives", capability="nobody"))
    trio.run(20)
    trio.cut(EVA)
    work(trio, ANA, *(f"t{number:02}" for number in range(tasks)))
    trio.run(500)
    assert trio[ANA].node.raft.first_index > trio[EVA].node.raft.last_index + 1
    trio.said.clear()
    return trio


def state_of_eva(trio: Trio) -> str:
    """How her leader replicates to her."""
    return {peer: state for peer, _, state in trio.leader.node.raft.peers()}[EVA]


def assert_level(trio: Trio) -> None:
    """eva has what ana has, in memory and on disk, and follows."""
    ana, eva = trio.leader.node, trio[EVA].node
    assert (eva.ledger.applied_index, eva.ledger.digest) == (ana.ledger.applied_index, ana.ledger.digest)
    assert (eva.ledger.counts, eva.ledger.finished) == (ana.ledger.counts, ana.ledger.finished)
    assert list(eva.ledger.tasks) == list(ana.ledger.tasks)
    assert state_of_eva(trio) == ProgressState.REPLICATE.value


def test_a_follower_that_lags_too_far_gets_the_table_in_chunks_and_then_follows() -> None:
    """21 rows, six a chunk: four pulls, one install; then the log goes on, and her store answers as ana's does."""
    trio = left_behind()
    trio.heal()
    trio.run(300)
    assert_level(trio)
    chunks = trio.messages(SnapshotChunk, to=EVA)
    assert [len(chunk.rows) for chunk in chunks] == [6, 6, 6, 3]
    assert [chunk.after for chunk in chunks] == ["", *(chunk.more for chunk in chunks[:-1])]
    assert [stage.first for stage in trio[EVA].effects(StageSnapshot)] == [True, False, False, False]
    [install] = trio[EVA].effects(InstallSnapshot)
    assert trio[EVA].node.raft.first_index == install.mark.applied_index + 1
    work(trio, BEN, "after")
    trio.run(1_000)
    assert_level(trio)
    ana, eva = trio.client(ANA), trio.client(EVA)
    for question, kind in ((Question.EVENTS, EventPage), (Question.TASK, Task)):
        told = [one.now(question, kind, task_id="t07", limit=1_000, stale=True) for one in (ana, eva)]
        assert told[0] == told[1]


@pytest.mark.parametrize(("rows_a_chunk", "chunks"), [(100, 1), (21, 1), (20, 2), (7, 3), (1, 21)])
def test_chunks_of_any_size_make_the_same_table(rows_a_chunk: int, chunks: int) -> None:
    """21 rows in one chunk that has room for more, in one they fill, in several, and one by one."""
    trio = left_behind()
    trio.chunk_rows = rows_a_chunk
    trio.heal()
    trio.run(1_000)
    assert_level(trio)
    assert len(trio[EVA].effects(StageSnapshot)) == chunks


def test_a_table_without_a_task_is_a_table() -> None:
    """Nothing was ever submitted, but nodes were drained and undrained until the log began after what eva has."""
    trio = settled(dispatch=SHORT_LOG, chunk_rows=6)
    trio.cut(EVA)
    client = trio.client(ANA)
    for _ in range(15):
        client.order(Action.DRAIN, "ben")
        trio.run(20)
        client.order(Action.UNDRAIN, "ben")
        trio.run(20)
    trio.run(500)
    assert trio[ANA].node.raft.first_index > trio[EVA].node.raft.last_index + 1
    trio.heal()
    trio.run(1_500)
    assert_level(trio)
    assert [stage.rows for stage in trio[EVA].effects(StageSnapshot)] == [[]]
    work(trio, ANA, "first")
    trio.run(500)
    assert_level(trio)


def test_the_table_survives_a_restart_of_the_node_that_received_it() -> None:
    """Issue 2, 7: eva restarts from the table alone; nothing of the old log is needed."""
    trio = left_behind()
    trio.heal()
    trio.run(300)
    trio.kill(EVA)
    trio.start(EVA)
    trio.run(2_000)
    assert_level(trio)


def test_the_leader_serves_while_it_sends() -> None:
    """Work done between the chunks reaches eva by the log, which is kept for her from where the table stands."""
    trio = left_behind()
    trio.heal()
    trio.lose(SnapshotPull)
    trio.run(100)
    [offer] = trio.messages(SnapshotOffer, to=EVA)
    work(trio, ANA, *(f"u{number:02}" for number in range(20)))
    trio.run(500)
    assert trio[ANA].node.raft.first_index <= offer.mark.applied_index + 1
    trio.heal()
    trio.run(1_500)
    assert_level(trio)
    assert len(trio[EVA].effects(InstallSnapshot)) == 1
    trio.run(6_000)
    work(trio, ANA, "last")
    trio.run(500)
    assert trio[ANA].node.raft.first_index > offer.mark.applied_index + 1  # Nobody needs it any more.


@pytest.mark.parametrize("kind", [SnapshotChunk, SnapshotPull])
def test_what_is_lost_is_pulled_again(kind: type) -> None:
    """A chunk or a pull is lost: a second later eva asks again, from the same cursor, and nothing is staged twice."""
    trio = left_behind()
    trio.heal()
    trio.lose(kind, times=1)
    trio.run(800)
    assert state_of_eva(trio) == ProgressState.SNAPSHOT.value
    trio.run(1_000)
    assert_level(trio)
    assert [len(stage.rows) for stage in trio[EVA].effects(StageSnapshot)] == [6, 6, 6, 3]


def test_doubled_pulls_and_chunks_change_nothing() -> None:
    """The wire repeats itself. The store is asked four times at once at most, and each row is staged once."""
    trio = left_behind()
    trio.heal()
    while not trio.messages(SnapshotPull):
        trio.run(1)
    trio[ANA].are_reads_stuck = True
    [pull] = trio.messages(SnapshotPull)
    for _ in range(6):
        trio.tell(ANA, EVA, pull)
    assert len(trio[ANA].node.transfers.sending[FIRST_TRANSFER].asked) == PULLS_MAX
    trio[ANA].are_reads_stuck = False
    for _ in range(PULLS_MAX):
        trio.feed(ANA, trio[ANA].snapshots[FIRST_TRANSFER].chunk(ReadSnapshot(FIRST_TRANSFER, pull.after, 0), 6))
    trio.run(300)
    assert_level(trio)
    assert [len(stage.rows) for stage in trio[EVA].effects(StageSnapshot)] == [6, 6, 6, 3]


def test_an_offer_that_is_lost_is_made_again() -> None:
    """Nobody pulls: after 5 s the leader gives the transfer up, sees that eva still lags, and offers anew."""
    trio = left_behind()
    trio.heal()
    trio.lose(SnapshotOffer, times=1)
    trio.run(4_900)
    assert len(trio.messages(SnapshotOffer)) == 1
    trio.run(1_000)
    assert_level(trio)
    assert [offer.transfer for offer in trio.messages(SnapshotOffer)] == [FIRST_TRANSFER, FIRST_TRANSFER + 1]
    assert trio[ANA].effects(CloseSnapshot)[0] == CloseSnapshot(FIRST_TRANSFER)


def test_a_transfer_that_has_done_its_work_is_closed() -> None:
    """eva replicates again; 5 s after her last pull the read transaction ends, and nothing is started anew."""
    trio = left_behind()
    trio.heal()
    trio.run(300)
    assert trio[ANA].node.transfers.sending != {}
    trio.run(5_000)
    assert (trio[ANA].node.transfers.sending, trio[ANA].snapshots) == ({}, {})
    assert_level(trio)
    assert len(trio.messages(SnapshotOffer)) == 1


def test_when_the_sender_dies_the_next_leader_offers_its_own_table() -> None:
    """eva has half of ana's table. Whoever leads next offers his, under the same number as it happens; she takes it."""
    trio = left_behind()
    trio.heal()
    while len(trio.messages(SnapshotChunk)) < 2:
        trio.run(1)
    trio.kill(ANA)
    trio.run(3_000)
    assert trio.leader.name == BEN
    offers = trio.messages(SnapshotOffer)
    assert [offer.transfer for offer in offers] == [FIRST_TRANSFER, FIRST_TRANSFER]
    assert_level(trio)


def half_way(trio: Trio, chunks: int = 2) -> None:
    """eva has this much of ana's table."""
    trio.heal()
    while len(trio.messages(SnapshotChunk)) < chunks:
        trio.run(1)
    trio.run(2)


def test_the_next_leader_goes_on_where_the_last_one_broke_off() -> None:
    """Issue 3, 2: of 21 rows ana sent 12 and died. Whoever leads next sends the others, and what has changed since."""
    trio = left_behind()
    half_way(trio)
    sent = [row.task_id for stage in trio[EVA].effects(StageSnapshot) for row in stage.rows]
    trio.kill(ANA)
    trio.run(3_000)
    assert_level(trio)
    stages = trio[EVA].effects(StageSnapshot)
    assert [stage.first for stage in stages] == [True] + [False] * (len(stages) - 1)
    pulls = [pull for pull in trio.messages(SnapshotPull) if pull.base]
    assert pulls[0].upto == f"f{len(sent) - 1}"  # One lives, the others are numbered as they finished.
    again = [row.task_id for stage in stages[2:] for row in stage.rows]
    assert sorted(set(sent) & set(again)) == []
    assert len(sent) == 12 and len(sent + again) >= 21


def test_what_changed_since_is_sent_again() -> None:
    """A task was waiting when ana sent it. While eva is cut off it is cancelled, another comes, and ana is gone."""
    trio = left_behind()
    half_way(trio, chunks=1)
    trio.cut(EVA)
    client = trio.client(ANA)
    client.submit(spec("new", capability="nobody"))
    trio.run(20)
    client.order(Action.CANCEL, "lives")
    trio.run(500)
    trio.heal()
    trio.kill(ANA)
    trio.run(6_000)
    assert_level(trio)
    assert list(trio[EVA].node.ledger.tasks) == ["new"]
    again = [row.task_id for stage in trio[EVA].effects(StageSnapshot)[1:] for row in stage.rows]
    assert [task for task in again if task in ("lives", "new")] == ["new", "lives"]


def test_a_transfer_that_stood_still_is_gone_on_with() -> None:
    """Nothing reaches eva for 6 s: ana gives up, offers her table of now, and eva has no need of what she has."""
    trio = left_behind()
    half_way(trio)
    trio.lose(SnapshotChunk)
    trio.run(6_000)
    trio.heal()
    trio.run(6_000)
    assert_level(trio)
    assert [stage.first for stage in trio[EVA].effects(StageSnapshot)].count(True) == 1


def test_what_nobody_goes_on_with_is_let_go_of() -> None:
    """ana and ben are gone for a minute and more: eva keeps nothing of a table that may never come."""
    trio = left_behind()
    half_way(trio)
    trio.kill(ANA, silent=True)
    trio.kill(BEN, silent=True)
    trio.run(6_000)
    kept = trio[EVA].node.transfers.kept
    assert kept is not None and len(kept.intake.finished) == 11
    trio.run(60_000)
    assert trio[EVA].node.transfers.kept is None
    assert (kept.intake.tasks, kept.intake.finished) == ({}, {})


def test_no_more_is_pulled_than_the_store_takes_in() -> None:
    """eva's disk hangs: after four chunks she asks for no more, not even again, until it goes on."""
    trio = left_behind(tasks=40)
    trio.heal()
    while not trio[EVA].effects(StageSnapshot):
        trio.run(1)
    trio[EVA].is_disk_stuck = True
    trio.run(3_000)
    assert len(trio[EVA].effects(StageSnapshot)) in (STAGING_MAX, STAGING_MAX + 1)
    pulled = len(trio.messages(SnapshotPull))
    trio.run(1_500)
    assert len(trio.messages(SnapshotPull)) == pulled
    trio[EVA].is_disk_stuck = False
    trio.sync(EVA)
    trio.run(6_000)
    assert_level(trio)


def test_rows_that_are_none_are_counted_and_not_staged() -> None:
    """A node of a release yet to come, or worse: what eva has stays as it is."""
    trio = left_behind()
    half_way(trio, chunks=1)
    receiving = trio[EVA].node.transfers.receiving
    assert receiving is not None
    rubbish = TaskRow(TaskId("x"), 0, "code", 0, 0, b"\xc1")
    staged = len(trio[EVA].effects(StageSnapshot))
    trio.tell(EVA, receiving.sender, SnapshotChunk(receiving.transfer, receiving.after, [rubbish], [], ""))
    assert len(trio[EVA].effects(StageSnapshot)) == staged
    assert trio[EVA].node.counters["rubbish_snapshot_chunk"] == 1
    trio.run(2_000)
    assert_level(trio)


def mark_at(index: int, finished_count: int) -> LedgerMark:
    """A table that stands there."""
    return LedgerMark(LogIndex(index), Term(2), b"", encode(Summary([], [0] * 10, finished_count, 0)), b"")


def interrupted(after: str, *, at: LedgerMark, base: int = 0, base_finished: int = 0, upto: str = "") -> Receiving:
    """A transfer of the table at a mark, of which the next chunk would have come after a cursor."""
    return Receiving(
        ANA, 1, at, 0, 0, Intake(), after, False, base=LogIndex(base), base_finished=base_finished, upto=upto
    )


@pytest.mark.parametrize(
    ("before", "offered", "base", "upto"),
    [
        (interrupted("tk", at=mark_at(50, 7)), mark_at(50, 7), 50, "tk"),
        (interrupted("tk", at=mark_at(50, 7)), mark_at(60, 9), 50, "tk"),
        (interrupted("f5", at=mark_at(50, 7)), mark_at(60, 9), 50, "f5"),
        (interrupted("tc", at=mark_at(50, 7), base=40, upto="tk"), mark_at(60, 9), 40, "tk"),
        (interrupted("tz", at=mark_at(50, 7), base=40, upto="f3"), mark_at(60, 9), 40, "f3"),
        (interrupted("tk", at=mark_at(50, 7), base=40, upto="tk"), mark_at(60, 9), 50, "tk"),
        (interrupted("f3", at=mark_at(50, 7), base=40, upto="tk"), mark_at(60, 9), 50, "f3"),
        (interrupted("f10", at=mark_at(50, 7), base=40, upto="f9"), mark_at(60, 9), 50, "f10"),
        (interrupted("tk", at=mark_at(50, 7)), mark_at(60, 6 + FINISHED_MAX), 50, "tk"),
        # From here on: begin anew.
        (interrupted("tk", at=mark_at(50, 7)), mark_at(60, 7 + FINISHED_MAX), 0, ""),
        (
            interrupted("tc", at=mark_at(50, 7), base=40, base_finished=2, upto="tk"),
            mark_at(60, 2 + FINISHED_MAX),
            0,
            "",
        ),
        (interrupted("tk", at=mark_at(50, 7)), mark_at(49, 7), 0, ""),
        (interrupted("e9", at=mark_at(50, 7)), mark_at(60, 9), 0, ""),
        (interrupted("r9", at=mark_at(50, 7)), mark_at(60, 9), 0, ""),
        (interrupted("", at=mark_at(50, 7)), mark_at(60, 9), 0, ""),
    ],
)
def test_what_a_transfer_goes_on_with(before: Receiving, offered: LedgerMark, base: int, upto: str) -> None:
    """The oldest rows of what has come in say what must be sent again, up to where they reach."""
    desk = Transfers(1, settled()[EVA].node.raft, lambda mark: True, Leftovers())
    desk.kept = before
    [send] = desk.offered(BEN, SnapshotOffer(Term(2), 9, offered), 3, 1_000)
    assert isinstance(send, Send)
    assert decode_peer(send.data) == SnapshotPull(9, "", LogIndex(base), upto)
    assert desk.receiving is not None
    assert desk.receiving.is_first == (not base) == (desk.receiving.intake is not before.intake)
    assert desk.kept is None


def test_a_receiver_whose_sender_falls_silent_gives_up() -> None:
    """ana and ben are gone: eva pulls once a second for 5 s, and then holds nothing half done."""
    trio = left_behind()
    trio.heal()
    trio.lose(SnapshotChunk)
    trio.run(100)
    trio.said.clear()
    trio.kill(ANA, silent=True)
    trio.kill(BEN, silent=True)
    trio.run(6_000)
    assert len(trio.messages(SnapshotPull)) == 4
    assert trio[EVA].node.transfers.receiving is None
    assert trio[EVA].node.ledger.applied_index < 20


def test_a_receiver_that_falls_silent_half_way_frees_the_store() -> None:
    """eva's host is gone after two chunks: 5 s after her last pull the read transaction ends."""
    trio = left_behind()
    trio.heal()
    while len(trio.messages(SnapshotChunk)) < 2:
        trio.run(1)
    trio.kill(EVA, silent=True)
    trio.run(4_900)
    assert list(trio[ANA].snapshots) == [FIRST_TRANSFER]
    trio.run(200)
    assert list(trio[ANA].snapshots) == []


def test_a_receiver_that_restarts_begins_again() -> None:
    """eva dies with half a table staged; her next process is offered all of it."""
    trio = left_behind()
    trio.heal()
    while len(trio.messages(SnapshotChunk)) < 2:
        trio.run(1)
    trio.kill(EVA)
    trio.run(10)
    trio.start(EVA)
    trio.run(6_000)
    assert_level(trio)
    assert [stage.first for stage in trio[EVA].effects(StageSnapshot)] == [True, False, False, False]


def test_a_leader_that_leaves_office_closes_its_transfers() -> None:
    """ana is deposed half way; a snapshot that opens later is closed at once, and what is read is not sent."""
    trio = left_behind()
    trio.heal()
    trio.lose(SnapshotPull)
    trio.run(100)
    assert list(trio[ANA].node.transfers.sending) == [FIRST_TRANSFER]
    [offer] = trio.messages(SnapshotOffer)
    trio.cut(ANA)
    trio.run(400)
    assert (trio[ANA].node.transfers.sending, trio[ANA].snapshots) == ({}, {})
    trio.said.clear()
    trio.feed(ANA, SnapshotOpened(FIRST_TRANSFER, offer.mark))
    trio.feed(ANA, SnapshotRead(FIRST_TRANSFER, [], [], ""))
    trio.tell(ANA, EVA, SnapshotPull(FIRST_TRANSFER, ""))
    assert trio[ANA].effects(CloseSnapshot) == [CloseSnapshot(FIRST_TRANSFER)] * 2
    assert trio.messages(SnapshotChunk) == []


def test_a_store_that_has_lost_the_snapshot_is_asked_for_another() -> None:
    """The reader closed it meanwhile: the transfer is given up, and eva is offered a new one."""
    trio = left_behind()
    trio.heal()
    while not trio.messages(SnapshotOffer):
        trio.run(1)
    trio[ANA].snapshots.clear()
    trio.run(6_000)
    assert trio[ANA].effects(OpenSnapshot)[:2] == [OpenSnapshot(FIRST_TRANSFER), OpenSnapshot(FIRST_TRANSFER + 1)]
    assert_level(trio)


def test_the_log_overtakes_the_table() -> None:
    """eva's own log turns out to reach beyond the table, on a slow disk: to install it would take back what she has."""
    trio = settled(dispatch=SHORT_LOG)
    trio[EVA].is_disk_stuck = True
    work(trio, ANA, "a", "b", "c")
    trio.run(500)
    mark = trio[ANA].disk.table.mark
    assert mark is not None
    assert mark.applied_index > trio[EVA].node.ledger.applied_index
    trio.tell(EVA, ANA, SnapshotOffer(Term(2), 7, mark))
    trio.tell(EVA, ANA, whole_table(trio, 7))
    assert trio[EVA].effects(InstallSnapshot) == []
    assert (trio[EVA].node.transfers.receiving, trio[EVA].node.behind.paused) == (None, False)
    trio.sync(EVA)
    trio.run(500)
    assert_level(trio)


def whole_table(trio: Trio, transfer: int) -> SnapshotChunk:
    """All of ana's table in one chunk."""
    read = trio[ANA].disk.table.chunk(ReadSnapshot(transfer, "", 0), 1_000)
    return SnapshotChunk(transfer, "", read.rows, read.events, read.more)


def test_offers_and_chunks_that_mean_nothing_are_ignored() -> None:
    """No news, from a past term, of another transfer, from another sender, out of order, or while one is installed."""
    trio = left_behind()
    mark = trio[ANA].disk.table.mark
    assert mark is not None
    old = msgspec.structs.replace(mark, applied_index=trio[EVA].node.ledger.applied_index)
    trio.tell(EVA, ANA, SnapshotOffer(Term(2), 7, old))
    trio.tell(EVA, ANA, SnapshotOffer(Term(1), 7, mark))
    trio.tell(EVA, BEN, SnapshotOffer(Term(2), 7, mark))
    for illegible in ({"summary": b""}, {"configuration": b""}):
        trio.tell(EVA, ANA, SnapshotOffer(Term(2), 7, msgspec.structs.replace(mark, **illegible)))
    trio.tell(EVA, ANA, whole_table(trio, 7))
    assert trio[EVA].node.transfers.receiving is None
    trio.tell(EVA, ANA, SnapshotOffer(Term(2), 7, mark))
    trio.tell(EVA, ANA, SnapshotOffer(Term(2), 7, mark))
    assert len(trio.messages(SnapshotPull)) == 1
    trio.tell(EVA, ANA, whole_table(trio, 8))
    trio.tell(EVA, BEN, whole_table(trio, 7))
    trio.tell(EVA, ANA, SnapshotChunk(7, "beyond", [], [], ""))
    assert trio[EVA].effects(StageSnapshot) == []
    trio[EVA].is_disk_stuck = True
    trio.tell(EVA, ANA, whole_table(trio, 7))
    trio.tell(EVA, ANA, whole_table(trio, 7))
    trio.tell(EVA, ANA, SnapshotOffer(Term(2), 8, mark))
    assert len(trio[EVA].effects(StageSnapshot)) == len(trio[EVA].effects(InstallSnapshot)) == 1


def test_nothing_is_written_behind_while_a_table_is_installed() -> None:
    """The store is about to be replaced: a row written now would belong to neither."""
    trio = left_behind()
    trio.heal()
    while not trio[EVA].effects(InstallSnapshot):
        trio[EVA].is_disk_stuck = bool(trio[EVA].effects(StageSnapshot))
        trio.run(1)
    written = len(trio[EVA].effects(WriteLedger))
    trio.run(3_000)
    assert len(trio[EVA].effects(WriteLedger)) == written
    assert state_of_eva(trio) == ProgressState.SNAPSHOT.value
    trio.sync(EVA)
    trio[EVA].is_disk_stuck = False
    trio.run(1_000)
    assert_level(trio)
    work(trio, ANA, "after")
    trio.run(500)
    [*_, last] = trio[EVA].effects(WriteLedger)
    assert last.write.mark.applied_index == trio[EVA].node.ledger.applied_index


def test_an_installation_without_end_is_given_up() -> None:
    """eva's disk hangs for a minute after the last chunk: the leader frees its store, and offers again in time."""
    trio = left_behind()
    trio.heal()
    while not trio[EVA].effects(InstallSnapshot):
        trio[EVA].is_disk_stuck = bool(trio[EVA].effects(StageSnapshot))
        trio.run(1)
    trio.run(59_000)
    assert list(trio[ANA].node.transfers.sending) == [FIRST_TRANSFER]
    trio.run(3_000)
    assert FIRST_TRANSFER not in trio[ANA].node.transfers.sending
    trio.sync(EVA)
    trio[EVA].is_disk_stuck = False
    trio.run(6_000)
    assert_level(trio)


def test_a_table_that_was_too_old_when_it_came_into_use_is_followed_by_another() -> None:
    """While eva installed, the log was cut beyond the most that is kept for her: she is offered the table of now."""
    trio = left_behind()
    trio.heal()
    while not trio[EVA].effects(InstallSnapshot):
        trio[EVA].is_disk_stuck = bool(trio[EVA].effects(StageSnapshot))
        trio.run(1)
    ana = trio[ANA].node
    ana.transfers.sending[FIRST_TRANSFER].mark = None  # As after 65,536 entries: none is kept for her.
    work(trio, ANA, *(f"u{number:02}" for number in range(20)))
    trio.run(500)
    assert ana.raft.first_index > trio[EVA].effects(InstallSnapshot)[0].mark.applied_index + 1
    trio.sync(EVA)
    trio[EVA].is_disk_stuck = False
    trio.run(1_000)
    assert_level(trio)
    assert list(ana.transfers.sending) == [FIRST_TRANSFER + 1]


def test_no_more_than_two_tables_are_sent_at_once() -> None:
    """A third follower has its turn when it is asked about next; nobody is offered two at a time."""
    trio = settled()
    desk = Transfers(1, trio[ANA].node.raft, lambda mark: True, Leftovers())
    assert desk.offer(BEN, 0) == [OpenSnapshot(FIRST_TRANSFER)]
    assert desk.offer(BEN, 0) == []
    assert desk.offer(EVA, 0) == [OpenSnapshot(FIRST_TRANSFER + 1)]
    assert desk.offer(NodeId("zoe"), 0) == []
    assert desk.needed_after() is None
    assert desk.next_deadline_ms() == 5_000


def test_a_follower_that_found_no_room_is_offered_a_table_once_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """No transfer may be begun just now: eva is asked about again, and again, until one may."""
    monkeypatch.setattr(transfers, "SENDING_MAX", 0)
    trio = left_behind()
    trio.heal()
    trio.run(500)
    assert trio.messages(SnapshotOffer) == []
    monkeypatch.setattr(transfers, "SENDING_MAX", 2)
    trio.run(500)
    assert_level(trio)


def test_a_snapshot_that_comes_to_nothing_before_anybody_asked_is_no_answer() -> None:
    """The store has nothing to offer: it says so unasked, and is asked again after 5 s."""
    trio = settled()
    desk = Transfers(1, trio[ANA].node.raft, lambda mark: True, Leftovers())
    desk.offer(BEN, 0)
    assert desk.read(SnapshotRead(FIRST_TRANSFER, [], [], GONE)) == []
    assert desk.pulled(EVA, SnapshotPull(FIRST_TRANSFER, ""), 10) == []
    assert desk.tick(4_999) == []
    assert desk.tick(5_000) == [CloseSnapshot(FIRST_TRANSFER)]


# --- what a table from the leader means for what runs here ---


def test_a_holder_learns_from_the_table_what_of_its_own_is_over_and_what_is_kept() -> None:
    """eva runs three: one is cancelled, one's checkpoint was kept, one's was not, while she cannot read the log."""
    trio = settled(dispatch=SHORT_LOG, chunk_rows=6)
    client = trio.client(ANA)
    for name in (ANA, BEN):
        client.order(Action.DRAIN, name)
    trio.run(20)
    client.submit(spec("over"), spec("kept"), spec("waits"))
    trio.run(20)
    [(_, token), *_] = trio[EVA].runs
    assert trio[EVA].runs == [("over", token), ("kept", token), ("waits", token)]
    for name in (ANA, BEN):
        client.order(Action.UNDRAIN, name)
    client.order(Action.DRAIN, "eva")
    trio.run(20)
    trio.lose(Append, to=EVA)
    trio.saves(EVA, "kept", token, 1, b"\x0a")
    trio.run(20)
    assert client.task("kept").checkpoint == 10
    trio.cut(EVA)
    trio.saves(EVA, "waits", token, 1, b"\x14")
    client.order(Action.CANCEL, "over")
    work(trio, ANA, *(f"t{number:02}" for number in range(20)))
    trio.run(300)
    assert (trio[EVA].kept, trio[EVA].stopped) == ([], [])
    trio.heal()
    while not trio[EVA].effects(InstallSnapshot):
        trio.run(1)
    trio.run(3)
    assert trio[EVA].stopped == [("over", token)]
    assert [(kept.task_id, kept.kept) for kept in trio[EVA].kept] == [("kept", True)]
    trio.run(1_500)
    assert [(kept.task_id, kept.kept) for kept in trio[EVA].kept] == [("kept", True), ("waits", True)]
    assert trio[EVA].node.holding.attempts.held() == [(TaskId("kept"), token), (TaskId("waits"), token)]
    assert trio[ANA].effects(TrimLog) != []
