"""The whole desk under the options of tasks: lanes, fallbacks, starvation, a change of leader in the middle."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.ids import TaskId
from mesh.ledger.commands import (
    CancelTask,
    Command,
    FallBack,
    RedriveTask,
    SetCron,
    SetSetting,
    SubmitTask,
    TimeOut,
)
from mesh.messages import CheckpointReport, Failure
from mesh.options import Concurrency, CronSpec, Options, Rate
from tests.dispatch.cast import ANA, BEN, EVA, Office, grants, spec, token


def kinds(commands: list[Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def broken(office: Office, *, capability: str = "code") -> None:
    """Every breaker for a capability is open, at one failure, for ten seconds."""
    office.commit([SetSetting("breaker_failures", 1), SetSetting("breaker_open_ms", 10_000)])
    for name in office.names:
        office.put(spec(f"bad {name}", Options(require=(("node", name),)), attempts_max=1, capability=capability))
    while office.turn():
        running = [task.task_id for task in office.ledger.tasks.values() if task.state == 3]
        office.done(*running, error="E: no")


# --- fallback ---------------------------------------------------------------------------------------------------------


def test_while_nobody_can_be_trusted_tasks_go_to_their_fallback() -> None:
    """S1-22, S2-24: one after another, without waiting for those that have none; and it ends by itself: once a breaker
    has let a probe through that went well, tasks go the ordinary way."""
    office = Office(ANA, BEN)
    broken(office)
    options = Options(fallback="draft")
    office.put(spec("plain"), spec("a", options), spec("b", options))
    falls = office.turn()
    assert (falls, grants(falls)) == ([FallBack(TaskId("a"))], [])
    assert [office.ledger.tasks[TaskId(name)].spec.capability for name in ("plain", "a")] == ["code", "draft"]
    assert kinds(office.turn()) == ["FallBack", "GrantLease"]
    assert office.grants() == [("b", "ben")]
    assert office.ledger.tasks[TaskId("a")].primary_error == "nobody's breaker for code is closed"
    office.put(spec("c", options))
    assert office.grants(20_000) == [("plain", "ana"), ("c", "ben")]


def test_a_fallback_that_is_on_its_way_is_proposed_once_and_granted_once_it_is_there() -> None:
    """The breaker becomes half-open before it is applied: the task is not granted for what it wanted first."""
    office = Office(ANA)
    broken(office)
    office.put(spec("a", Options(fallback="draft")))
    falls = office.propose()
    assert (kinds(falls), office.propose()) == (["FallBack"], [])
    office.at_ms = 30_000
    assert office.propose() == []
    office.commit(falls)
    assert office.grants() == [("a", "ana")]


def test_a_task_that_is_its_own_fallback_waits() -> None:
    office = Office(ANA)
    broken(office)
    office.put(spec("a", Options(fallback="code")), spec("b", Options(fairness="x", fallback="code")))
    assert office.turn() == []
    assert office.dispatcher.wake_ms == 20_000


def test_so_many_fall_back_at_once_and_no_more() -> None:
    """An entry has its bounds: of 600 lanes 512 send one each, the others theirs in the next."""
    office = Office(ANA)
    broken(office)
    office.put(*(spec(f"t{number}", Options(fallback="draft", fairness=f"f{number}")) for number in range(600)))
    first = office.propose()
    assert (kinds(first).count("FallBack"), office.propose()) == (512, [])
    office.commit(first)
    assert kinds(office.propose()).count("FallBack") == 88


def test_whom_a_breaker_keeps_a_task_from_is_said() -> None:
    """C24: open, and half-open while its probe is out."""
    office = Office(ANA)
    broken(office)
    office.put(spec("a"), spec("b"))

    def words(at_ms: int) -> list[str]:
        verdicts, _ = office.dispatcher.explanation(office.ledger.tasks[TaskId("b")], at_ms)
        return [verdict.why for verdict in verdicts if verdict.node == "ana"]

    assert words(19_999) == ["its breaker for 'code' is open"]
    assert office.grants(20_000) == [("a", "ana")]
    assert words(20_000) == ["its breaker for 'code' is half_open"]


# --- newcomers --------------------------------------------------------------------------------------------------------


def test_a_newcomer_waits_for_its_capability_to_be_resumed() -> None:
    """Its submit is not granted in its own entry where the queue is paused, a special lane has come in before it, or
    it has a limit of its own."""
    office = Office(ANA, slots=9)
    office.submit(spec("special", Options(fairness="x")), spec("plain"), spec("m", capability="mail"))
    entry = office.turn()
    assert grants(entry) == [("m", "ana")]
    assert office.grants() == [("special", "ana"), ("plain", "ana")]


def test_a_renewed_task_waits_its_turn() -> None:
    """Its id is another's as yet."""
    office = Office(ANA)
    office.submit(spec("a"))
    office.turn()
    office.done("a")
    office.turn()
    office.dispatcher.submit(spec("a", capability="mail"), token(2))
    entry = office.turn()
    assert entry == [SubmitTask(spec("a", capability="mail"), token(2))]
    assert office.grants() == [("a", "ana")]


def test_a_renewal_that_raft_refuses_is_one_still() -> None:
    office = Office(ANA, slots=0)
    office.dispatcher.submit(spec("a"), token(7))
    entry = office.propose()
    office.dispatcher.proposal_refused(entry)
    assert office.propose() == entry == [SubmitTask(spec("a"), token(7))]


# --- what is proposed, and taken back ---------------------------------------------------------------------------------


def test_what_raft_refuses_is_proposed_again_whatever_it_is() -> None:
    """A stop, a fall back and an order: each once more, and once."""
    office = Office(ANA)
    broken(office)
    office.put(spec("a", Options(fallback="draft")), spec("b", Options(schedule_timeout_ms=1)))
    office.dispatcher.command(CancelTask(TaskId("x"), ""))
    office.at_ms = 11_000
    entry = office.propose()
    assert kinds(entry) == ["CancelTask", "TimeOut", "FallBack"]
    office.dispatcher.proposal_refused(entry)
    again = office.propose()
    assert sorted(kinds(again)) == sorted(kinds(entry))
    office.commit(again)
    assert (office.state("b"), office.ledger.tasks[TaskId("a")].spec.capability) == ("dead", "draft")
    assert [one for one in office.turn() if isinstance(one, TimeOut)] == []


def test_a_stop_that_is_refused_leaves_the_task_in_line() -> None:
    """By the time in the log it was not over yet: the leader's clock is ahead of it."""
    office = Office(ANA, slots=0)
    office.put(spec("a", Options(schedule_timeout_ms=1_000)))
    early = [TimeOut(TaskId("a"), token(0), 0, 0)]
    office.dispatcher._keep_out(TaskId("a"))
    assert list(office.ledger.queue.ready()) == []
    office.commit(list(early))
    assert [task.task_id for task in office.ledger.queue.ready()] == ["a"]


def test_entries_are_bounded_by_what_schedules_and_edited_payloads_weigh() -> None:
    """A link cuts off what is over its limit: two of 700 KiB make two entries."""
    office = Office(ANA)
    heavy = b"x" * 700_000
    for name in ("a", "b"):
        office.dispatcher.command(RedriveTask(TaskId(name), heavy))
        office.dispatcher.command(SetCron(CronSpec(name, "* * * * *", "code", heavy), 99_000))
    assert [kinds(office.turn()) for _ in range(3)] == [["RedriveTask", "SetCron"], ["RedriveTask", "SetCron"], []]
    office.dispatcher.command(RedriveTask(TaskId("a")))
    office.dispatcher.command(CancelTask(TaskId("a"), ""))
    assert len(office.turn()) == 2


def test_a_disturbed_attempt_is_given_back_and_charged_to_nobody() -> None:
    """E.18: its process was ended for another's sake. The slot is free once, and the breaker counts nothing."""
    office = Office(ANA, slots=1)
    office.commit([SetSetting("breaker_failures", 1)])
    office.submit(spec("a"))
    office.turn()
    office.done("a", error="disturbed", failure=Failure.DISTURBED)
    assert kinds(office.turn()) == ["ReleaseLease"]
    assert (office.loads(), office.ledger.breakers, office.ledger.tasks[TaskId("a")].attempts) == ({"ana": 0}, {}, 0)
    assert office.grants() == [("a", "ana")]


def test_a_checkpoint_of_a_lease_that_is_over_is_put_on_record() -> None:
    office = Office(ANA)
    office.dispatcher.checkpoint(CheckpointReport(TaskId("nothing"), token(1), 1, b"x"))
    assert kinds(office.turn()) == ["SaveCheckpoint"]


def test_no_more_than_so_many_are_granted_in_one_entry() -> None:
    """512; the others in the next."""
    office = Office(ANA, slots=2_000)
    office.put(*(spec(f"t{number}") for number in range(600)))
    assert [len(office.grants()) for _ in range(3)] == [512, 88, 0]


# --- the bounds that everything keeps ---------------------------------------------------------------------------------

OPTIONS = st.sampled_from(
    [
        None,
        Options(concurrency=Concurrency("one", 1)),
        Options(concurrency=Concurrency("two", 2), fairness="x"),
        Options(rates=(Rate("api", 1, 3_000),)),
        Options(rates=(Rate("api", 2, 3_000),), fairness="y", weight_permille=3_000),
        Options(sticky="w", is_sticky_hard=True),
        Options(sticky="w"),
        Options(fallback="draft", run_timeout_ms=2_000),
        Options(avoid=(("node", "ana"),)),
    ]
)
ACTS = st.sampled_from(["submit", "turn", "propose", "commit", "report", "fail", "lead", "wait"])


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(ACTS, OPTIONS, st.integers(0, 3), st.sampled_from(["code", "mail"])), max_size=60))
def test_whatever_is_on_its_way_no_bound_is_exceeded_and_all_is_done_in_the_end(
    story: list[tuple[str, Options | None, int, str]],
) -> None:
    """Gate 10. Entries are proposed and applied later, leaders change and their entries are applied all the same,
    attempts fail: no node has more than its slots, no key more than its limit, and in the end every task ends."""
    office = Office(ANA, BEN, EVA, slots=2)
    office.commit([SetSetting("breaker_failures", 2), SetSetting("breaker_open_ms", 4_000)])
    on_the_way: list[list[Command]] = []
    for number, (act, options, priority, capability) in enumerate(story):
        if act == "submit":
            office.submit(spec(f"t{number}", options, priority=priority, capability=capability, attempts_max=9))
        elif act == "propose":
            entry = office.propose()
            on_the_way += [entry] if entry else []
        elif act == "wait":
            office.at_ms += 1_500
        elif act in ("report", "fail"):
            running = [str(task.task_id) for task in office.ledger.tasks.values() if task.state in (3, 4)]
            office.done(*running[:2], error="E: no" if act == "fail" else "", is_final=False)
        else:
            while on_the_way and act != "turn":
                office.commit(on_the_way.pop(0))
            if act == "lead":
                office.dispatcher.leave_office()
                office.lead()
            elif act == "turn" and not on_the_way:
                office.turn()
        sound(office)
    for entry in on_the_way:
        office.commit(entry)
    for _ in range(200):
        office.at_ms += 1_500
        office.turn()
        sound(office)
        office.done(*(str(task.task_id) for task in office.ledger.tasks.values() if task.state in (3, 4)))
    assert {task.spec.task_id: task.state for task in office.ledger.tasks.values()} == {}


def sound(office: Office) -> None:
    for name in office.names:
        assert len(office.ledger.holder_leases(name)) <= 2
        assert 0 <= office.dispatcher.candidates[name].load <= 2
    assert office.ledger.treated.holding.get("one", 0) <= 1
    assert office.ledger.treated.holding.get("two", 0) <= 2


def test_ben_waits_no_longer_for_ana_s_ten_thousand_than_for_her_ten() -> None:
    """Gate 9, with the whole desk: two slots, each task done in the next entry. His tenth is granted within some twenty
    grants of the time it came."""
    office = Office(ANA, slots=2)
    for start in range(0, 10_000, 2_000):
        office.put(*(spec(f"a{number}", Options(fairness="ana")) for number in range(start, start + 2_000)))
    office.turn()
    office.put(*(spec(f"b{number}", Options(fairness="ben")) for number in range(10)))
    order: list[str] = []
    while "b9" not in order:
        office.done(*(str(task.task_id) for task in office.ledger.holder_leases(ANA).values()))
        order += [name for name, _ in grants(office.turn())]
    assert len(order) <= 22
