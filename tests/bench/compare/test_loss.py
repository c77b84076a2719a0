"""What became of tasks, told from the lines that workers wrote."""

from bench.compare.loss import running, tally
from bench.compare.records import Loss, Victim

ANA, BEN = 501, 502


def test_everything_ran_once() -> None:
    log = f"s 0 {ANA}\ns 1 {BEN}\ne 1 {BEN}\ne 0 {ANA}\n"
    assert tally(Victim.WORKER, [0, 1], log, held=None, ended=2) == Loss(Victim.WORKER, accepted=2)


def test_a_task_that_was_killed_in_the_middle_began_twice_and_ended_once() -> None:
    log = f"s 0 {ANA}\ns 0 {BEN}\ne 0 {BEN}\n"
    assert tally(Victim.WORKER, [0], log, held=None, ended=1) == Loss(Victim.WORKER, accepted=1, rerun=1)


def test_a_task_that_ended_twice_is_doubled_whether_or_not_somebody_heard_of_it() -> None:
    log = f"s 0 {ANA}\ne 0 {ANA}\ns 0 {BEN}\ne 0 {BEN}\n"
    assert tally(Victim.KEEPER, [0], log, held=None, ended=0) == Loss(
        Victim.KEEPER, accepted=1, doubled=1, rerun=1, silent=1
    )


def test_what_never_ended_is_lost_unless_the_system_still_has_it() -> None:
    log = f"s 0 {ANA}\ne 0 {ANA}\ns 1 {ANA}\n"
    assert tally(Victim.WORKER, [0, 1, 2], log, held=None, ended=1).lost == 2
    one_held = tally(Victim.WORKER, [0, 1, 2], log, held=1, ended=1)
    assert (one_held.lost, one_held.held) == (1, 1)


def test_a_system_that_says_it_has_more_than_is_missing_has_what_is_missing() -> None:
    found = tally(Victim.WORKER, [0], "", held=40, ended=0)
    assert (found.lost, found.held) == (0, 1)


def test_tasks_that_were_not_accepted_are_nobodys_business() -> None:
    log = f"s 7 {ANA}\ne 7 {ANA}\ne 7 {ANA}\n"
    assert tally(Victim.KEEPER, [], log, held=None, ended=0) == Loss(Victim.KEEPER)


def test_who_has_begun_more_than_it_ended_is_running_something() -> None:
    log = f"s 0 {ANA}\ns 1 {BEN}\ne 0 {ANA}\ns 2 {BEN}\ne 1 {BEN}\n"
    assert running(log) == {BEN}


def test_a_line_that_is_not_yet_whole_is_not_read() -> None:
    assert running(f"s 0 {ANA}\ns 1 50") == {ANA}
