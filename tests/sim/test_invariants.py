"""The checker bites: each invariant is shown a history that breaks it, made by hand, and one that does not."""

import msgspec
import pytest

from mesh.durable import HardState, LedgerWrite, TaskRow
from mesh.effects import InstallSnapshot, Persist, TrimLog, WriteLedger
from mesh.ids import FencingToken, Incarnation, LogIndex, NodeId, PersistToken, TaskId, Term
from mesh.ledger import commands
from mesh.ledger.ledger import Ledger
from mesh.ledger.task import COMPLETED, DEAD, PENDING
from mesh.messages import AppendReply, AttemptOrder, TaskEnd, TaskSpec, Vote, VoteReply
from mesh.raft.progress import Progress
from mesh.raft.replica import Role
from mesh.sim import invariants_queue as queue
from mesh.sim import invariants_raft as raft
from mesh.sim.agents import Execution, Made, SideEffects
from mesh.sim.coverage import Coverage
from mesh.sim.disk import Disk
from mesh.sim.record import Applying, Committed, Record, Seen
from mesh.sim.violation import Violation
from mesh.wire.codec import encode
from tests.sim.cast import disk, entries, entry, mark, replica

T1 = TaskId("t1")
SPEC = TaskSpec(T1, "code", b"payload", max_attempts=2)


def record() -> Record:
    return Record(Coverage())


def breaks(number: str) -> "pytest.RaisesExc[Violation]":
    return pytest.raises(Violation, match=rf"^{number}")


# --- the log ----------------------------------------------------------------------------------------------------------


def test_1_two_leaders_in_one_term() -> None:
    """n1 leads term 3; n1 is seen to lead it again; n2 leads it too."""
    seen = record()
    raft.one_leader_per_term(seen, "n1", replica("n1", term=3))
    raft.one_leader_per_term(seen, "n1", replica("n1", term=3))
    with breaks("1 "):
        raft.one_leader_per_term(seen, "n2", replica("n2", term=3))


def test_1_a_leader_by_the_vote_of_one_of_three() -> None:
    """n1 leads term 3 by its own vote and that of n2; or n2 has voted for n3."""
    seen = record()
    seen.votes["n2", "n2-1", 3] = "n1"
    raft.elected_by_a_majority(seen, "n1", "n1-1", replica("n1", term=3))
    seen.votes["n2", "n2-1", 3] = "n3"
    with breaks("1 "):
        raft.elected_by_a_majority(seen, "n1", "n1-1", replica("n1", term=3))


def test_2_another_entry_at_the_same_place() -> None:
    """Both write index 3 in term 2, n2 with other bytes."""
    seen = record()
    persist = Persist(PersistToken(1), None, LogIndex(0), (entry(3, 2, b"a"),))
    raft.log_matching(seen, "n1", replica("n1", 2, term=2), persist)
    with breaks("2 "):
        raft.log_matching(
            seen,
            "n2",
            replica("n2", 2, term=2),
            Persist(PersistToken(1), None, LogIndex(0), (entry(3, 2, b"b"),)),
        )


def test_2_the_same_entry_after_another_one() -> None:
    """The entries agree, what is before them does not."""
    seen = record()
    persist = Persist(PersistToken(1), None, LogIndex(0), (entry(3, 4),))
    raft.log_matching(seen, "n1", replica("n1", 2, term=4), persist)
    with breaks("2 "):
        raft.log_matching(seen, "n2", replica("n2", 3, term=4), persist)


def test_3_a_leader_without_a_committed_entry() -> None:
    """Entry 3 was committed in term 2; a leader of term 3 must have it, a late one of term 2 need not."""
    seen = record()
    seen.committed[3] = Committed(entry(3, 2), 0, 2)
    seen.committed_max = 3
    raft.leader_completeness(seen, "n1", replica("n1", 2, 2, term=3))
    raft.leader_completeness(seen, "n1", replica("n1", 2, term=2))
    with breaks("3 "):
        raft.leader_completeness(seen, "n1", replica("n1", 2, term=3))


def test_4_another_digest_at_the_same_index() -> None:
    seen = record()
    seen.applied[7] = Applying(b"one", b"")
    raft.same_state_at_same_index(seen, "n1", 7, b"one")
    with breaks("4 "):
        raft.same_state_at_same_index(seen, "n1", 7, b"two")


def test_4_another_history_of_the_same_entry() -> None:
    seen = record()
    queue.same_rows_written(seen, "n1", LedgerWrite(mark(3, 1), [], [], [(3, b"events")], 0))
    with breaks("4 "):
        queue.same_rows_written(seen, "n2", LedgerWrite(mark(3, 1), [], [], [(3, b"others")], 0))


def test_4_another_end_of_the_same_task() -> None:
    seen = record()
    row = TaskRow(T1, COMPLETED, "code", 1, (5 << 32) + 77, b"")
    queue.same_rows_written(seen, "n1", LedgerWrite(mark(3, 1), [row], [], [], 0))
    with breaks("4 "):
        other = TaskRow(T1, COMPLETED, "code", 2, (5 << 32) + 77, b"")
        queue.same_rows_written(seen, "n2", LedgerWrite(mark(3, 1), [other], [], [], 0))


def test_5_committed_with_a_minority_on_disk() -> None:
    """n1 commits entry 3. It is on the disks of n1 and n2, or on that of n1 alone."""
    s = replica("n1", 2, 2, term=2)
    s.commit_index = LogIndex(3)
    two = {"n1": disk("n1", 2, 2), "n2": disk("n2", 2, 2), "n3": disk("n3", 2)}
    one = {"n1": disk("n1", 2, 2), "n2": disk("n2", 2), "n3": disk("n3", 2)}
    raft.committed_on_a_durable_quorum(record(), "n1", s, Seen(), two)
    with breaks("5 "):
        raft.committed_on_a_durable_quorum(record(), "n1", s, Seen(), one)


def test_5_a_leader_that_commits_an_older_terms_entry() -> None:
    """The entry of term 2 is on all disks, but its committer leads term 3 (Raft, figure 8)."""
    s = replica("n1", 2, 2, term=3)
    s.commit_index = LogIndex(3)
    disks = {name: disk(name, 2, 2) for name in ("n1", "n2", "n3")}
    raft.committed_on_a_durable_quorum(record(), "n1", s, Seen(), disks)
    s.role = Role.LEADER
    with breaks("5 "):
        raft.committed_on_a_durable_quorum(record(), "n1", s, Seen(), disks)


def test_6_a_committed_entry_is_another_elsewhere() -> None:
    seen = record()
    one, other = replica("n1", 2, 2, term=3), replica("n2", 2, 3, term=3)
    one.commit_index = other.commit_index = LogIndex(3)
    raft.committed_never_changes(seen, "n1", one, Seen())
    with breaks("6 "):
        raft.committed_never_changes(seen, "n2", other, Seen())


@pytest.mark.parametrize(("number", "term", "commit", "applied"), [("7", 5, 1, 0), ("9", 3, 2, 0), ("10", 3, 1, 1)])
def test_7_9_10_going_back(number: str, term: int, commit: int, applied: int) -> None:
    """A node in term 3 that has committed 1 and applied nothing was further before."""
    seen = Seen()
    s = replica("n1", 2, term=3)
    raft.never_backwards("n1", seen, s, 0)
    seen.term, seen.commit, seen.applied = term, commit, applied
    with breaks(number):
        raft.never_backwards("n1", seen, s, 0)


def test_7_a_disk_takes_no_term_back() -> None:
    written = disk("n1", term=3)
    with breaks("7 "):
        written.perform(Persist(PersistToken(2), HardState(Term(2), None), LogIndex(0), ()))


def test_8_a_disk_takes_no_vote_back() -> None:
    written = disk("n1", term=3, voted_for="n2")
    written.perform(Persist(PersistToken(2), HardState(Term(3), NodeId("n2")), LogIndex(0), ()))
    with breaks("8 "):
        written.perform(Persist(PersistToken(3), HardState(Term(3), NodeId("n3")), LogIndex(0), ()))


def test_10_a_disk_takes_no_table_back() -> None:
    """Neither by writing nor by installing an older one."""
    written = disk("n1", 1, 1)
    written.perform(WriteLedger(LedgerWrite(mark(3, 1), [], [], [], 0)))
    with breaks("10 "):
        written.perform(WriteLedger(LedgerWrite(mark(2, 1), [], [], [], 0)))
    with breaks("10 "):
        written.perform(InstallSnapshot(1, mark(2, 1)))


def test_11_pointers_out_of_order() -> None:
    """Applied beyond what is committed; the log trimmed beyond what the table covers."""
    s = replica("n1", 2, 2, term=2)
    s.commit_index = LogIndex(2)
    raft.pointers_in_order("n1", s, disk("n1", 2, 2), 2)
    with breaks("11 "):
        raft.pointers_in_order("n1", s, disk("n1", 2, 2), 3)
    with breaks("11 "):
        disk("n1", 2, 2).perform(TrimLog(LogIndex(3), Term(2)))


@pytest.mark.parametrize("on_disk", [disk("n2", 2, term=2), disk("n2", 2, 1, term=2), disk("n2", 2, 2, term=1)])
def test_12_acked_and_not_on_disk(on_disk: Disk) -> None:
    """An ack up to 3 of term 2 leaves while the disk ends before, holds another entry there, or an older term."""
    s = replica("n2", 2, 2, term=2)
    ack = AppendReply(Term(2), 1, True, LogIndex(3), LogIndex(0), LogIndex(0), Term(0))
    raft.acked_is_durable("n2", disk("n2", 2, 2, term=2), s, ack)
    with breaks("12 "):
        raft.acked_is_durable("n2", on_disk, s, ack)


def test_12_an_ack_that_waited_is_about_the_log_of_its_own_term() -> None:
    """n2 acked entry 3 in term 2, and its disk had it when the ack left. Meanwhile it has another one there, of term 3,
    which is not on disk yet: that one must not be acked.
    """
    s = replica("n2", 2, 3, term=3)
    before = AppendReply(Term(2), 1, True, LogIndex(3), LogIndex(0), LogIndex(0), Term(0))
    raft.acked_is_durable("n2", disk("n2", 2, 2, term=2), s, before)
    with breaks("12 "):
        raft.acked_is_durable("n2", disk("n2", 2, 2, term=3), s, msgspec.structs.replace(before, term=Term(3)))


def test_12_voted_and_not_on_disk() -> None:
    """n2 grants n1 its vote in term 3; its disk says so, or still says nothing of it."""
    grant = VoteReply(Term(3), True)
    raft.vote_is_durable("n2", disk("n2", term=3, voted_for="n1"), "n1", grant)
    for on_disk in (disk("n2", term=2), disk("n2", term=3), disk("n2", term=3, voted_for="n3")):
        with breaks("12 "):
            raft.vote_is_durable("n2", on_disk, "n1", grant)


def test_12_a_candidate_whose_own_vote_is_not_on_disk() -> None:
    with breaks("12 "):
        request = Vote(Term(3), LogIndex(1), Term(1), False)
        raft.vote_is_durable("n2", disk("n2", term=3), "n1", request)


def test_13_two_votes_in_one_term() -> None:
    """n2 votes for n1 in term 3, says so again, and after a restart votes for itself."""
    seen = record()
    raft.one_vote_per_term(seen, "n2", "n2-1", "n1", VoteReply(Term(3), True))
    raft.one_vote_per_term(seen, "n2", "n2-1", "n1", VoteReply(Term(3), True))
    with breaks("13 "):
        raft.one_vote_per_term(seen, "n2", "n2-1", "n3", Vote(Term(3), LogIndex(1), Term(1), False))


def test_14_a_follower_known_to_hold_what_was_not_sent() -> None:
    s = replica("n1", 2, term=2)
    s.role = Role.LEADER
    s.peers = {NodeId("n2"): Progress(LogIndex(3), 0)}
    raft.flow_is_bounded("n1", s)
    s.peers[NodeId("n2")].match = LogIndex(3)
    with breaks("14 "):
        raft.flow_is_bounded("n1", s)


def test_16_a_pre_vote_that_changes_the_term() -> None:
    seen = Seen()
    s = replica("n1", 2, term=3)
    seen.term, seen.role = s.term, s.role
    raft.pre_vote_changes_nothing("n1", seen, s, [])
    seen.term = 2
    with breaks("16 "):
        raft.pre_vote_changes_nothing("n1", seen, s, [])


# --- the tasks --------------------------------------------------------------------------------------------------------


class Both:
    """A ledger and the model, given the same entries."""

    def __init__(self) -> None:
        self.record = record()
        self.model = self.record.model
        self.ledger = Ledger()
        self.apply(commands.AdmitNode(NodeId("n1"), Incarnation(1)), commands.SubmitTask(SPEC))

    def apply(self, *some: commands.Command) -> None:
        """One entry, to both."""
        batch = commands.Batch(1_000 * (self.model.index + 1), list(some))
        index = LogIndex(self.model.index + 1)
        applied = self.ledger.apply(index, Term(1), batch, b"data")
        ought = self.model.apply(index, batch)
        queue.outcomes_agree(self.model, batch, bytes(applied.outcomes), ought)

    def grant(self) -> FencingToken:
        self.apply(commands.GrantLease(T1, NodeId("n1")))
        return FencingToken(self.model.index)

    def check(self) -> None:
        queue.tables_agree(self.ledger, self.model, self.record)


def test_ledger_and_model_agree_on_the_life_of_a_task() -> None:
    """Leased, started, checkpointed, failed, retried, dead, redriven, completed: the same at every step."""
    both = Both()
    for _ in range(2):
        token = both.grant()
        both.apply(commands.StartTask(T1, token), commands.SaveCheckpoint(T1, token, 1, b"half"))
        both.apply(commands.FailAttempt(T1, token, "ValueError: no", "", 50, False))
        both.check()
        both.apply(commands.CompleteTask(T1, FencingToken(1), b"stale"))
    both.apply(commands.RedriveTask(T1))
    both.check()
    both.apply(commands.CompleteTask(T1, both.grant(), b"done"))
    both.check()
    assert both.model.tasks[T1].ends == [(DEAD, 6), (COMPLETED, both.model.index - 1)]


def test_17_an_acked_task_is_not_in_the_table() -> None:
    both = Both()
    both.record.acked[T1] = 1
    both.check()
    del both.ledger.tasks[T1]
    with breaks("17 "):
        queue.no_acked_task_lost(both.record, both.ledger)


def test_17_acked_before_it_was_committed() -> None:
    both = Both()
    both.record.committed_max = 1
    queue.acked_was_committed(both.record, T1, 1)
    for task_id, index in ((T1, 2), (TaskId("t2"), 1)):
        with breaks("17 "):
            queue.acked_was_committed(both.record, task_id, index)


def test_18_a_task_in_two_places() -> None:
    both = Both()
    both.ledger.finished[T1] = 1
    with breaks("18 "):
        both.check()


def test_18_a_task_in_another_state() -> None:
    both = Both()
    both.grant()
    both.ledger.tasks[T1].state = PENDING
    with breaks("18 "):
        both.check()


def test_18_an_attempt_that_was_not_charged() -> None:
    both = Both()
    both.apply(commands.StartTask(T1, both.grant()))
    both.ledger.tasks[T1].attempts = 0
    with breaks("18 "):
        both.check()


def test_18_a_count_that_is_off_by_one() -> None:
    both = Both()
    both.ledger.counts[PENDING] += 1
    with breaks("18 "):
        both.check()


def test_18_a_task_nobody_submitted() -> None:
    both = Both()
    both.ledger.tasks[TaskId("t2")] = both.ledger.tasks[T1]
    with breaks("18 "):
        both.check()


def test_19_completed_under_another_token_than_is_on_record() -> None:
    both = Both()
    both.apply(commands.CompleteTask(T1, both.grant(), b"done"))
    both.ledger.finished[T1] += 1 << 32
    with breaks("19 "):
        both.check()


def test_19_told_of_an_end_that_was_not() -> None:
    """Told completed while it runs; told a result of another attempt than the one that counted; told the truth."""
    both = Both()
    token = both.grant()

    def told(made: Made) -> TaskEnd:
        return TaskEnd(T1, COMPLETED, encode(made), "", "", NodeId("n1"), 1)

    with breaks("19 "):
        queue.told_end_is_true(both.record, told(Made(T1, token)))
    both.apply(commands.CompleteTask(T1, token, b"done"))
    with breaks("19 "):
        queue.told_end_is_true(both.record, told(Made(T1, FencingToken(1))))
    queue.told_end_is_true(both.record, told(Made(T1, token)))


def test_20_a_completion_that_counted_under_a_stale_token() -> None:
    """The ledger says it did it; the model says it was fenced."""
    both = Both()
    both.grant()
    batch = commands.Batch(9_000, [commands.CompleteTask(T1, FencingToken(1), b"late")])
    ought = both.model.apply(both.model.index + 1, batch)
    with breaks("20 "):
        queue.outcomes_agree(both.model, batch, b"\0", ought)


def test_20_told_to_run_what_was_not_granted() -> None:
    """A grant that is nowhere in the log, one for another node, and the right one."""
    both = Both()
    token = both.grant()

    def order(of: int) -> AttemptOrder:
        return AttemptOrder(T1, FencingToken(of), 1, "code", b"", b"")

    queue.granted_before_sent(both.record, "n2", "n1", order(token))
    with breaks("20 "):
        queue.granted_before_sent(both.record, "n2", "n1", order(token + 1))
    with breaks("20 "):
        queue.granted_before_sent(both.record, "n2", "n3", order(token))


def test_21_a_checkpoint_that_went_back() -> None:
    both = Both()
    token = both.grant()
    both.apply(commands.SaveCheckpoint(T1, token, 2, b"two"))
    both.ledger.tasks[T1].checkpoint_sequence = 1
    with breaks("21 "):
        both.check()


def test_22_a_dead_letter_that_forgot_why() -> None:
    both = Both()
    both.apply(commands.FailAttempt(T1, both.grant(), "ValueError: no", "", 0, True))
    both.check()
    both.ledger.tasks[T1].error = ""
    with breaks("22 "):
        both.check()


def test_23_a_repeated_submit_that_made_another_task() -> None:
    both = Both()
    batch = commands.Batch(9_000, [commands.SubmitTask(SPEC)])
    ought = both.model.apply(both.model.index + 1, batch)
    with breaks("23 "):
        queue.outcomes_agree(both.model, batch, b"\0", ought)


def test_24_more_leases_than_slots() -> None:
    """One slot, and t2 is granted while t1 is leased; then t1 is over."""
    both = Both()
    both.apply(commands.SubmitTask(TaskSpec(TaskId("t2"), "code", b"payload")))
    first = both.grant()
    queue.leases_within_slots(both.model, both.model.index, {"n1": 1})
    both.apply(commands.GrantLease(TaskId("t2"), NodeId("n1")))
    with breaks("24 "):
        queue.leases_within_slots(both.model, both.model.index, {"n1": 1})
    both.apply(commands.CompleteTask(T1, first, b"done"))
    assert both.model.leases == {"n1": 1}


def test_user_code_that_starts_twice_under_one_token() -> None:
    """Another token is another attempt; the same one is a violation, on whatever node."""
    effects = SideEffects()
    effects.enter(Execution(1, "n1", T1, FencingToken(5)))
    effects.enter(Execution(2, "n1", T1, FencingToken(6)))
    with pytest.raises(Violation, match="user code"):
        effects.enter(Execution(3, "n2", T1, FencingToken(5)))


def test_entries_of_the_cast_are_what_they_say() -> None:
    assert [(one.index, one.term) for one in entries(2, 3)] == [(1, 1), (2, 2), (3, 3)]
