"""Schedules: a firing is a committed command, late perhaps, twice never (issue 4, research E.17).

eva has `nightly` submit a backup at 60,000 ms and each minute from then on; ana and ben run it.
"""

from hypothesis import given
from hypothesis import strategies as st

from mesh.ids import TaskId
from mesh.ledger.applied import ALREADY, DONE, REFUSED, UNKNOWN, Applied
from mesh.ledger.commands import CancelTask, Command, DropCron, FireCron, RedriveTask, SetCron, SubmitTask
from mesh.ledger.crons import CRONS_MAX
from mesh.ledger.registry import Cron
from mesh.ledger.task import KIND_NAMES, Kind
from mesh.messages import TaskSpec
from mesh.options import Concurrency, CronSpec, Options, Overlap, WhenFull
from tests.ledger.cast import ANA, BEN, Log, complete, fail, grant, kinds, submit, with_nodes

MINUTE_MS = 60_000
AT_1, AT_2, AT_3, AT_4 = (TaskId(f"nightly@{due_ms}") for due_ms in (60_000, 120_000, 180_000, 240_000))


def nightly(
    overlap: int = Overlap.SKIP,
    *,
    name: str = "nightly",
    expression: str = "* * * * *",
    payload: bytes = b"\x80",
    attempts_max: int = 3,
    options: Options | None = None,
    is_paused: bool = False,
) -> CronSpec:
    return CronSpec(
        name,
        expression,
        "backup",
        payload,
        priority=7,
        max_attempts=attempts_max,
        overlap=overlap,
        options=options,
        is_paused=is_paused,
    )


def fire(minute: int, *, to: int | None = None, delay_ms: int = 0, is_skipped: bool = False) -> FireCron:
    """The firing that is due at this minute; the next is at minute `to`, one later if it is not given."""
    next_ms = MINUTE_MS * (minute + 1 if to is None else to)
    return FireCron("nightly", MINUTE_MS * minute, next_ms, delay_ms, is_skipped)


def scheduled(spec: CronSpec) -> Log:
    """ana and ben are there, and the schedule is due first at minute 1."""
    log = with_nodes(ANA, BEN)
    log.apply(SetCron(spec, 60_000))
    return log


def cron(log: Log) -> Cron:
    return log.ledger.crons["nightly"]


def details(applied: Applied, kind: Kind) -> list[str]:
    return [happening.detail for happening in applied.events if happening.kind == kind]


# --- firing -----------------------------------------------------------------------------------------------------------


def test_a_firing_submits_the_task_of_its_schedule() -> None:
    """The task is as the schedule says, is named after the time it was due, and nobody else's submit."""
    options = Options(run_timeout_ms=9_000)
    log = scheduled(nightly(payload=b"\x01", attempts_max=2, options=options))
    fired = log.apply(fire(1), at_ms=60_000)

    assert list(fired.outcomes) == [DONE]
    assert kinds(fired) == ["task_submitted", "cron_fired"]
    assert details(fired, Kind.CRON_FIRED) == ["nightly@60000"]
    assert fired.submitted == []
    assert log.ledger.tasks[AT_1].spec == TaskSpec(
        AT_1, "backup", b"\x01", priority=7, max_attempts=2, source="cron nightly", options=options
    )
    assert log.ledger.queue.first("backup") is log.ledger.tasks[AT_1]
    assert cron(log) == Cron(cron(log).spec, 120_000, fired=1, last_task=AT_1, last_ms=60_000)


def test_jitter_puts_the_task_off_and_not_the_schedule() -> None:
    """The leader's dice said 700 ms."""
    log = scheduled(nightly())
    log.apply(fire(1, delay_ms=700), at_ms=60_400)
    assert (log.state(AT_1), log.ledger.tasks[AT_1].not_before_ms) == ("scheduled", 60_700)
    assert cron(log).next_ms == 120_000


def test_the_same_firing_proposed_twice_happens_once() -> None:
    """An old leader's proposal commits after all, and the new leader has made the same: in one entry, and in two."""
    log = scheduled(nightly(Overlap.ALLOW))
    assert list(log.apply(fire(1), fire(1), at_ms=61_000).outcomes) == [DONE, REFUSED]
    assert list(log.apply(fire(1), at_ms=62_000).outcomes) == [REFUSED]
    assert list(log.ledger.tasks) == [AT_1]
    assert (cron(log).fired, cron(log).skipped) == (1, 0)


def test_a_firing_is_refused_that_is_not_the_next_or_not_due_or_leads_nowhere() -> None:
    """Too early by the time in the log, not the one that is next, moving backwards, or put off beyond a day."""
    log = scheduled(nightly())
    before = Cron(nightly(), 60_000)
    assert list(log.apply(fire(1), at_ms=59_999).outcomes) == [REFUSED]
    refused = log.apply(
        fire(0),
        fire(2),
        fire(1, to=1),
        fire(1, to=0),
        fire(1, delay_ms=-1),
        fire(1, delay_ms=86_400_001),
        at_ms=150_000,
    )
    assert (list(refused.outcomes), kinds(refused)) == ([REFUSED] * 6, [])
    assert cron(log) == before
    assert list(log.apply(fire(1, delay_ms=86_400_000)).outcomes) == [DONE]


def test_there_is_nothing_to_fire_or_drop_without_a_schedule() -> None:
    """eva drops it, and what was on its way then comes to nothing. What it has submitted goes on."""
    log = scheduled(nightly())
    log.apply(fire(1), at_ms=60_000)
    dropped = log.apply(DropCron("nightly"), DropCron("nightly"), fire(2), at_ms=120_000)
    assert list(dropped.outcomes) == [DONE, UNKNOWN, UNKNOWN]
    assert (kinds(dropped), details(dropped, Kind.CRON_DROPPED)) == (["cron_dropped"], ["nightly"])
    assert (log.ledger.crons, log.state(AT_1)) == ({}, "pending")


def test_a_firing_whose_id_a_task_has_already_does_not_happen() -> None:
    """ben has submitted a task under that very id, another kind of task even; the schedule goes on to the next. ben is
    told of his own submit only.
    """
    log = scheduled(nightly())
    log.apply(submit(AT_1))
    taken = log.apply(fire(1), at_ms=60_000)
    assert (list(taken.outcomes), kinds(taken), taken.conflicts) == ([ALREADY], [], [])
    assert cron(log) == Cron(cron(log).spec, 120_000, last_ms=60_000)
    assert log.ledger.tasks[AT_1].spec.capability == "image"

    same = log.apply(fire(2), SubmitTask(TaskSpec(AT_2, "backup", b"\x80")), at_ms=120_000)
    assert (list(same.outcomes), same.submitted) == ([DONE, ALREADY], [AT_2])


def test_missed_firings_are_skipped_by_one_command() -> None:
    """Nobody led from minute 1 to minute 59: the leader skips them all, and fires the one of minute 60."""
    log = scheduled(nightly())
    applied = log.apply(fire(1, to=60, is_skipped=True), fire(60), at_ms=3_600_000)
    assert kinds(applied) == ["cron_skipped", "task_submitted", "cron_fired"]
    assert details(applied, Kind.CRON_SKIPPED) == ["nightly@60000: missed; next at 3600000"]
    assert list(log.ledger.tasks) == ["nightly@3600000"]
    assert (cron(log).fired, cron(log).skipped, cron(log).next_ms) == (1, 1, 3_660_000)


# --- overlap ----------------------------------------------------------------------------------------------------------


def test_skip_leaves_out_a_firing_while_the_last_task_runs() -> None:
    """ana is still at the first backup when the second is due; she is done when the third is."""
    log = scheduled(nightly(Overlap.SKIP))
    log.apply(fire(1), at_ms=60_000)
    log.apply(grant(AT_1, ANA))
    skipped = log.apply(fire(2), at_ms=120_000)
    assert (list(skipped.outcomes), kinds(skipped)) == ([DONE], ["cron_skipped"])
    assert details(skipped, Kind.CRON_SKIPPED) == ["nightly@120000: nightly@60000 has not ended"]
    assert (cron(log).fired, cron(log).skipped) == (1, 1)
    log.apply(complete(AT_1, 4))
    assert kinds(log.apply(fire(3), at_ms=180_000)) == ["task_submitted", "cron_fired"]
    assert (list(log.ledger.tasks), cron(log).last_task) == ([AT_3], AT_3)


def test_a_dead_letter_has_ended_until_somebody_redrives_it() -> None:
    """The first backup dies; that holds up nobody. Redriven, it lives, but it is not the last one any more."""
    log = scheduled(nightly(Overlap.SKIP, attempts_max=1))
    log.apply(fire(1), at_ms=60_000)
    log.apply(grant(AT_1, ANA))
    log.apply(fail(AT_1, 4))
    assert log.state(AT_1) == "dead"
    log.apply(fire(2), at_ms=120_000)
    log.apply(CancelTask(AT_2, "enough"), RedriveTask(AT_1))
    assert kinds(log.apply(fire(3), at_ms=180_000)) == ["task_submitted", "cron_fired"]


def test_allow_submits_whatever_runs() -> None:
    """Three backups at once, if need be."""
    log = scheduled(nightly(Overlap.ALLOW))
    log.apply(fire(1), fire(2), fire(3), at_ms=180_000)
    assert list(log.ledger.tasks) == [AT_1, AT_2, AT_3]
    assert (cron(log).fired, cron(log).skipped) == (3, 0)


def test_queue_one_makes_up_for_one_firing_when_the_last_task_ends() -> None:
    """The second waits while ana works, the third is skipped; the second comes when she is done, in that entry."""
    log = scheduled(nightly(Overlap.QUEUE_ONE))
    log.apply(fire(1), at_ms=60_000)
    log.apply(grant(AT_1, ANA))
    waits = log.apply(fire(2, delay_ms=500), at_ms=120_000)
    assert (list(waits.outcomes), kinds(waits), cron(log).waits_ms) == ([DONE], [], 120_000)
    assert kinds(log.apply(fire(3), at_ms=180_000)) == ["cron_skipped"]

    done = log.apply(complete(AT_1, 4), at_ms=200_000)
    assert kinds(done) == ["task_completed", "task_submitted", "cron_fired"]
    assert list(log.ledger.tasks) == [AT_2]
    assert log.ledger.queue.first("backup") is log.ledger.tasks[AT_2]
    assert cron(log) == Cron(cron(log).spec, 240_000, fired=2, skipped=1, last_task=AT_2, last_ms=180_000)


def test_queue_one_counts_a_dead_letter_as_the_end() -> None:
    """And once the firing that waited has come, nothing that befalls the dead letter brings another."""
    log = scheduled(nightly(Overlap.QUEUE_ONE, attempts_max=1))
    log.apply(fire(1), at_ms=60_000)
    log.apply(grant(AT_1, ANA))
    log.apply(fire(2), at_ms=120_000)
    assert kinds(log.apply(fail(AT_1, 4))) == ["task_failed", "task_dead", "task_submitted", "cron_fired"]
    log.apply(fire(3), at_ms=180_000)
    assert kinds(log.apply(CancelTask(AT_1, "enough"))) == ["task_cancelled"]
    assert cron(log).waits_ms == 180_000


def test_a_firing_that_waits_keeps_its_place_before_later_ones_of_the_same_entry() -> None:
    """The last task ends and the next firing commits in one entry: the one that has waited goes first."""
    log = scheduled(nightly(Overlap.QUEUE_ONE))
    log.apply(fire(1), at_ms=60_000)
    log.apply(fire(2), at_ms=120_000)
    both = log.apply(CancelTask(AT_1, "enough"), fire(3), at_ms=180_000)
    assert kinds(both) == ["task_cancelled", "cron_skipped", "task_submitted", "cron_fired"]
    assert (list(log.ledger.tasks), cron(log).waits_ms) == ([AT_2], 0)


def test_a_last_task_that_is_put_back_in_the_entry_that_buried_it_is_waited_for_still() -> None:
    """It runs again: the firing waits for its end, and comes with that."""
    log = scheduled(nightly(Overlap.QUEUE_ONE, attempts_max=1))
    log.apply(fire(1), grant(AT_1, ANA), at_ms=60_000)
    log.apply(fire(2), at_ms=120_000)
    buried = log.apply(fail(AT_1, 3), RedriveTask(AT_1), at_ms=121_000)
    assert kinds(buried) == ["task_failed", "task_dead", "task_redriven"]
    assert cron(log).waits_ms == 120_000
    token = log.apply(grant(AT_1, ANA), at_ms=122_000).index
    assert details(log.apply(complete(AT_1, token), at_ms=123_000), Kind.CRON_FIRED) == [AT_2]


def test_the_firing_that_waits_gives_way_to_a_task_that_has_taken_its_id() -> None:
    """ben took the id meanwhile. The schedule waits for nothing any more."""
    log = scheduled(nightly(Overlap.QUEUE_ONE))
    log.apply(fire(1), at_ms=60_000)
    log.apply(fire(2), at_ms=120_000)
    log.apply(submit(AT_2))
    assert kinds(log.apply(CancelTask(AT_1, "enough"))) == ["task_cancelled"]
    assert (cron(log).waits_ms, cron(log).fired, cron(log).last_task) == (0, 1, AT_1)


def test_ends_of_other_tasks_bring_no_firing() -> None:
    """A task of no schedule, one whose id only looks like it, and one of a schedule for which nothing waits."""
    log = scheduled(nightly(Overlap.QUEUE_ONE))
    resize, lookalike = TaskId("resize"), TaskId("nightly@7")
    log.apply(submit(resize), submit(lookalike), fire(1), at_ms=60_000)
    log.apply(fire(2), at_ms=120_000)
    ended = log.apply(CancelTask(resize, ""), CancelTask(lookalike, ""))
    assert kinds(ended) == ["task_cancelled", "task_cancelled"]
    log.apply(CancelTask(AT_1, ""))
    assert kinds(log.apply(CancelTask(AT_2, ""))) == ["task_cancelled"]


def test_tasks_that_waited_for_one_entry_have_places_of_their_own() -> None:
    """Both schedules' last tasks end in one entry, which submits a task as well: no two share a place in line."""
    log = with_nodes(ANA)
    log.apply(SetCron(nightly(Overlap.QUEUE_ONE), 60_000), SetCron(nightly(Overlap.QUEUE_ONE, name="a@b"), 60_000))
    both = [fire(1), FireCron("a@b", 60_000, 120_000, 0, False)]
    log.apply(*both, at_ms=60_000)
    log.apply(fire(2), FireCron("a@b", 120_000, 180_000, 0, False), at_ms=120_000)
    log.apply(CancelTask(AT_1, ""), CancelTask(TaskId("a@b@60000"), ""), submit(TaskId("resize")))
    assert list(log.ledger.tasks) == ["resize", AT_2, "a@b@120000"]
    orders = [task.order for task in log.ledger.tasks.values()]
    assert orders == sorted(set(orders))


def test_cancel_old_ends_the_last_task_and_submits() -> None:
    """ana runs the first backup. Her lease ends, she is to be told, and the second takes its place."""
    log = scheduled(nightly(Overlap.CANCEL_OLD))
    log.apply(fire(1), at_ms=60_000)
    log.apply(grant(AT_1, ANA))
    fired = log.apply(fire(2), at_ms=120_000)
    assert kinds(fired) == ["task_cancelled", "task_submitted", "cron_fired"]
    assert details(fired, Kind.TASK_CANCELLED) == ["made way for nightly@120000"]
    assert [(lease.node_id, lease.task_id, lease.token) for lease in fired.ended] == [(ANA, AT_1, 4)]
    assert [task.task_id for task in fired.finished] == [AT_1]
    assert (list(log.ledger.tasks), cron(log).fired, cron(log).skipped) == ([AT_2], 2, 0)


def test_cancel_old_spares_the_last_task_if_the_firing_does_not_happen() -> None:
    """ben has the id of the second one: then the first is not cancelled for it."""
    log = scheduled(nightly(Overlap.CANCEL_OLD))
    log.apply(fire(1), submit(AT_2), at_ms=60_000)
    assert list(log.apply(fire(2), at_ms=120_000).outcomes) == [ALREADY]
    assert log.state(AT_1) == "pending"


def limited(when_full: int) -> Options:
    """One backup at a time, whoever submits it."""
    return Options(concurrency=Concurrency("disk", 1, when_full))


def test_a_firing_that_a_full_concurrency_key_turns_down_is_skipped() -> None:
    """ben's own backup has the disk: now, and again when the firing that waited might have come. He hears nothing of
    it.
    """
    log = scheduled(nightly(Overlap.QUEUE_ONE, options=limited(WhenFull.REJECT)))
    bens = SubmitTask(TaskSpec(TaskId("bens"), "backup", b"\x80", options=limited(WhenFull.QUEUE)))
    log.apply(bens)
    turned_down = log.apply(fire(1), at_ms=60_000)
    assert (list(turned_down.outcomes), kinds(turned_down), turned_down.turned_down) == ([DONE], ["cron_skipped"], [])
    assert details(turned_down, Kind.CRON_SKIPPED) == ["nightly@60000: its concurrency key is full"]
    log.apply(CancelTask(TaskId("bens"), ""), fire(2), fire(3), bens, at_ms=180_000)
    log.apply(SubmitTask(TaskSpec(TaskId("bens2"), "backup", b"\x80", options=limited(WhenFull.QUEUE))))
    ended = log.apply(CancelTask(AT_2, ""))
    assert kinds(ended) == ["task_cancelled", "cron_skipped"]
    assert (cron(log).fired, cron(log).skipped, cron(log).last_task) == (1, 2, AT_2)


def test_a_firing_that_is_made_may_end_at_once_or_drive_out_another() -> None:
    """CANCEL_NEWEST: the backup ends as soon as it has come; the schedule is not busy with it."""
    log = scheduled(nightly(Overlap.SKIP, options=limited(WhenFull.CANCEL_NEWEST)))
    log.apply(SubmitTask(TaskSpec(TaskId("bens"), "backup", b"\x80", options=limited(WhenFull.QUEUE))))
    for minute in (1, 2):
        ended = log.apply(fire(minute), at_ms=MINUTE_MS * minute)
        assert kinds(ended) == ["task_submitted", "task_cancelled", "cron_fired"]
    assert (cron(log).fired, cron(log).skipped) == (2, 0)


def test_a_firing_that_waited_may_drive_out_the_last_task_of_another_schedule() -> None:
    """Whose own waiting firing then comes as well, in the same entry: nothing is left waiting for what has ended."""
    log = with_nodes(ANA)
    weekly = nightly(Overlap.QUEUE_ONE, name="weekly", options=limited(WhenFull.QUEUE))
    log.apply(
        SetCron(nightly(Overlap.QUEUE_ONE, options=limited(WhenFull.CANCEL_OLDEST)), 60_000), SetCron(weekly, 60_000)
    )
    log.apply(fire(1), FireCron("weekly", 60_000, 120_000, 0, False), at_ms=60_000)
    log.apply(fire(2), FireCron("weekly", 120_000, 180_000, 0, False), at_ms=120_000)
    ended = log.apply(CancelTask(AT_1, ""))
    assert kinds(ended)[:4] == ["task_cancelled", "task_submitted", "task_cancelled", "cron_fired"]
    assert kinds(ended)[4:] == ["task_submitted", "cron_fired"]
    assert list(log.ledger.tasks) == [AT_2, "weekly@120000"]
    assert [schedule.waits_ms for schedule in log.ledger.crons.values()] == [0, 0]
    orders = [task.order for task in log.ledger.tasks.values()]
    assert orders == sorted(set(orders))


# --- setting ----------------------------------------------------------------------------------------------------------


def test_setting_a_schedule_is_put_on_record_and_setting_it_again_changes_nothing() -> None:
    """eva's deployment sets it at every run, once just as it is due: no firing is lost to that."""
    log = Log()
    first = log.apply(SetCron(nightly(), 60_000))
    assert (list(first.outcomes), kinds(first)) == ([DONE], ["cron_set"])
    assert details(first, Kind.CRON_SET) == ["nightly: * * * * * (UTC)"]
    again = log.apply(SetCron(nightly(), 120_000), at_ms=60_000)
    assert (list(again.outcomes), kinds(again)) == ([ALREADY], [])
    assert log.ledger.crons == {"nightly": Cron(nightly(), 60_000)}


def test_changing_a_schedule_keeps_what_it_has_done() -> None:
    """Hourly now, and another payload. Its last task is still its last task, so the firing is skipped for it."""
    log = scheduled(nightly())
    log.apply(fire(1), at_ms=60_000)
    log.apply(fire(2), at_ms=120_000)
    hourly = nightly(expression="0 * * * *", payload=b"\x02")
    assert list(log.apply(SetCron(hourly, 3_600_000), at_ms=130_000).outcomes) == [DONE]
    assert cron(log) == Cron(hourly, 3_600_000, fired=1, skipped=1, last_task=AT_1, last_ms=120_000)
    assert kinds(log.apply(fire(60, to=120), at_ms=3_600_000)) == ["cron_skipped"]
    log.apply(CancelTask(AT_1, ""))
    log.apply(fire(120), at_ms=7_200_000)
    assert log.ledger.tasks[TaskId("nightly@7200000")].spec.payload == b"\x02"


def test_a_paused_schedule_does_not_fire() -> None:
    """Until it goes on, at the next time from then."""
    log = scheduled(nightly())
    paused = log.apply(SetCron(nightly(is_paused=True), 60_000))
    assert details(paused, Kind.CRON_SET) == ["nightly: * * * * * (UTC), paused"]
    assert list(log.apply(fire(1), at_ms=60_000).outcomes) == [REFUSED]
    log.apply(SetCron(nightly(), 180_000), at_ms=130_000)
    assert list(log.apply(fire(3), at_ms=180_000).outcomes) == [DONE]
    assert list(log.ledger.tasks) == [AT_3]


def test_a_schedule_that_is_set_back_does_not_repeat_what_has_been() -> None:
    """Another payload, and by mistake it is to be next at minute 1, when minute 2 has been.
    The old ids have left the table's memory, but minutes 1 and 2 do not come again.
    """
    log = scheduled(nightly(Overlap.ALLOW))
    log.apply(fire(1), fire(2), at_ms=120_000)
    log.apply(CancelTask(AT_1, ""), CancelTask(AT_2, ""))
    log.ledger.finished.clear()
    log.apply(SetCron(nightly(Overlap.ALLOW, payload=b"\x02"), 60_000))
    repeated = log.apply(fire(1), fire(2), fire(3), at_ms=180_000)
    assert list(repeated.outcomes) == [ALREADY, ALREADY, DONE]
    assert list(log.ledger.tasks) == [AT_3]


def test_a_change_gives_up_the_firing_that_waits_unless_such_still_wait() -> None:
    """Another payload: it waits on, and has it. Paused, or SKIP instead: it is skipped."""
    for changed in (nightly(Overlap.QUEUE_ONE, is_paused=True), nightly(Overlap.SKIP)):
        log = scheduled(nightly(Overlap.QUEUE_ONE))
        log.apply(fire(1), at_ms=60_000)
        log.apply(fire(2), at_ms=120_000)
        log.apply(SetCron(nightly(Overlap.QUEUE_ONE, payload=b"\x02"), 180_000))
        assert cron(log).waits_ms == 120_000
        set_aside = log.apply(SetCron(changed, 180_000))
        assert kinds(set_aside) == ["cron_skipped", "cron_set"]
        assert details(set_aside, Kind.CRON_SKIPPED) == ["nightly@120000: it waited when the schedule was changed"]
        assert (cron(log).waits_ms, cron(log).fired, cron(log).skipped) == (0, 1, 1)
        assert kinds(log.apply(CancelTask(AT_1, ""))) == ["task_cancelled"]


def test_schedules_are_so_many_and_their_names_so_long_at_most() -> None:
    """One more is refused; changing one that is there is not."""
    log = Log()
    log.apply(*(SetCron(nightly(name=f"c{number}"), 60_000) for number in range(CRONS_MAX - 1)))
    bad = [SetCron(nightly(name=name), 60_000) for name in ("", "n" * 181)]
    assert list(log.apply(*bad, SetCron(nightly(name="n" * 180), 60_000)).outcomes) == [REFUSED, REFUSED, DONE]
    full = log.apply(SetCron(nightly(), 60_000), SetCron(nightly(name="c0", payload=b"\x02"), 60_000))
    assert list(full.outcomes) == [REFUSED, DONE]
    assert len(log.ledger.crons) == CRONS_MAX


# --- whatever is proposed ---------------------------------------------------------------------------------------------

minutes = st.integers(0, 8)
overlaps = st.sampled_from(Overlap)
# Most firings are those the schedule is at; `None` stands for that.
fires = st.builds(
    lambda minute, ahead, is_skipped: ("fire", minute, ahead, is_skipped),
    st.one_of(st.none(), st.none(), minutes),
    st.integers(-1, 3),
    st.sampled_from([False, False, False, True]),
)
sets = st.builds(
    lambda overlap, minute, payload, is_paused: ("set", overlap, minute, payload, is_paused),
    overlaps,
    minutes,
    st.binary(max_size=1),
    st.sampled_from([False, False, True]),
)
ends = st.builds(lambda number: ("end", number), st.integers(0, 3))
entries = st.lists(st.one_of(fires, fires, ends, sets, st.just(("drop",))), min_size=1, max_size=4)


def _command(log: Log, sketch: tuple[object, ...]) -> Command | None:
    schedule = log.ledger.crons.get("nightly")
    match sketch:
        case ("fire", int() | None as minute, int(ahead), bool(is_skipped)):
            at = schedule.next_ms // MINUTE_MS if minute is None and schedule is not None else minute or 0
            return fire(at, to=at + ahead, is_skipped=is_skipped)
        case ("set", int(overlap), int(minute), bytes(payload), bool(is_paused)):
            return SetCron(nightly(overlap, payload=payload, is_paused=is_paused), minute * MINUTE_MS)
        case ("end", int(number)):
            live = list(log.ledger.tasks)
            return CancelTask(live[number % len(live)], "enough") if live else None
        case _:
            return DropCron("nightly")


@given(overlaps, st.lists(entries, min_size=1, max_size=25))
def test_no_firing_happens_twice_and_no_schedule_goes_back(
    overlap: Overlap, story: list[list[tuple[object, ...]]]
) -> None:
    """Firings of any time, changes, ends and drops, in any order. Time in the log passes by half a minute an entry."""
    log = scheduled(nightly(overlap))
    submitted: list[TaskId] = []
    counts = dict.fromkeys(("cron_fired", "cron_skipped"), 0)
    for number, sketches in enumerate(story, 2):
        commands = [command for command in (_command(log, sketch) for sketch in sketches) if command is not None]
        before = log.ledger.crons.get("nightly")
        before_ms, fired, skipped = (before.next_ms, before.fired, before.skipped) if before else (0, 0, 0)
        applied = log.apply(*commands, at_ms=30_000 * number)
        happened = [KIND_NAMES[happening.kind] for happening in applied.events]
        submitted += [happening.task_id for happening in applied.events if happening.kind == Kind.TASK_SUBMITTED]
        counts = {kind: happened.count(kind) for kind in counts}
        after = log.ledger.crons.get("nightly")
        if after is not None and "cron_set" not in happened and before is not None and "cron_dropped" not in happened:
            assert after.next_ms >= before_ms
            assert (after.fired - fired, after.skipped - skipped) == (counts["cron_fired"], counts["cron_skipped"])
        assert applied.submitted == [] and applied.conflicts == []
        assert after is None or not after.waits_ms or after.last_task in log.ledger.tasks
    assert len(submitted) == len(set(submitted))
    orders = [task.order for task in log.ledger.tasks.values()]
    assert len(orders) == len(set(orders))


@given(st.sampled_from([Overlap.SKIP, Overlap.QUEUE_ONE, Overlap.CANCEL_OLD]), st.lists(entries, max_size=25))
def test_a_schedule_that_forbids_overlap_has_one_live_task(
    overlap: Overlap, story: list[list[tuple[object, ...]]]
) -> None:
    """Unless it is dropped or changed, which is left out here."""
    log = scheduled(nightly(overlap))
    for number, sketches in enumerate(story, 2):
        commands = [_command(log, sketch) for sketch in sketches if sketch[0] in ("fire", "end")]
        log.apply(*(command for command in commands if command is not None), at_ms=30_000 * number)
        assert len(log.ledger.tasks) <= 1
