"""What a node runs under its leases, whatever the leader, the ledger and the user's code say, in whatever order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.execution.attempts import Attempts
from mesh.ids import FencingToken, TaskId, Term
from mesh.messages import AttemptOrder, AttemptOutcome, CheckpointReport

NAMES = [TaskId(name) for name in "ab"]
SLOTS = 1

happenings = st.lists(
    st.tuples(
        st.sampled_from(
            ["grant", "grant", "start", "end", "end", "fail", "stop", "settle", "save", "kept", "turn", "learn"]
        ),
        st.sampled_from(NAMES),
        st.integers(1, 4),
        st.integers(1, 3),
    ),
    min_size=20,
    max_size=50,
)


@settings(max_examples=150)
@given(happenings)
def test_no_lease_is_handed_to_user_code_twice(story: list[tuple[str, TaskId, int, int]]) -> None:
    """Grants come late, doubled and out of order. One task has one attempt here at most, under the greatest token it
    was ever granted; no lease is handed over twice; no more run than there are slots; an outcome is kept until it is
    answered, and told once a turn. What our own ledger knows to be over (`over`) is not even looked at, as in Holding.
    """
    attempts, term, over = Attempts(), 0, dict[TaskId, int]()

    def is_open(task_id: TaskId, token: FencingToken) -> bool:
        return token > over.get(task_id, 0)

    waiting: list[AttemptOrder] = []
    handed: list[tuple[TaskId, int]] = []
    gone: set[tuple[TaskId, int]] = set()
    for what, task_id, number, other in story:
        token = FencingToken(number)
        if what == "grant":
            order = AttemptOrder(task_id, token, 1, "code", b"", b"")
            before = attempts.running.get(task_id)
            fresh, stopped = attempts.grant(Term(other), [order] if is_open(task_id, token) else [])
            assert not (fresh and other < term), "a past term grants nothing"
            term = max(term, other)
            if fresh:
                assert stopped == ([(task_id, before.token)] if before is not None else [])
                assert before is None or before.token < token
            waiting = [*waiting, *fresh]
        elif what == "start":
            attempts.started([(task_id, token)])
        elif what in ("end", "fail"):
            error = "boom" if what == "fail" else ""
            ours = attempts.running.get(task_id)
            attempts.ended([AttemptOutcome(task_id, token, b"", error)])
            if ours is not None and ours.token == token:
                gone.add((task_id, token))
                assert attempts.outbox[task_id].token == token
        elif what == "stop":
            if other == 1:
                over[task_id] = max(over.get(task_id, 0), token)
            attempts.stop([(task_id, token)], is_open)
            assert attempts.running.get(task_id) is None or attempts.running[task_id].token > token
        elif what == "settle":
            over[task_id] = max(over.get(task_id, 0), token)
            attempts.settle(task_id, token)
            assert task_id not in attempts.outbox or attempts.outbox[task_id].token > token
        elif what == "save":
            saved = attempts.checkpoint(CheckpointReport(task_id, token, other, b""))
            assert saved == (task_id in attempts.running and attempts.running[task_id].token == token)
        elif what == "kept":
            answered = attempts.checkpoint_answered(task_id, token, other)
            assert not answered or task_id not in attempts.checkpoints
        elif what == "turn":
            outcomes, begun = attempts.take_unsent()
            assert all(lease[0] in attempts.running for lease in begun)
            assert attempts.take_unsent() == ([], [])
            assert all(outcome.error == "" or (outcome.task_id, outcome.token) in gone for outcome in outcomes)
        else:
            over[task_id] = max(over.get(task_id, 0), token)
            attempts.caught_up(is_open)
            assert all(is_open(*lease) for lease in attempts.over.items())
        now, waiting = attempts.hand_over(waiting, SLOTS)
        handed += [(order.task_id, order.token) for order in now]
        assert sum(1 for attempt in attempts.running.values() if attempt.handed) <= SLOTS
        assert all(task_id in attempts.running for task_id in attempts.checkpoints)
        assert {lease for lease, _ in attempts.held()} == {*attempts.running, *attempts.outbox}
        assert len(set(handed)) == len(handed)
