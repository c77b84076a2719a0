"""The options of a submit as they are typed: what leaves, and what is refused in one sentence before anything does."""

from datetime import UTC, datetime
from typing import Any

import click
import pytest

from mesh import Key, RateLimit, Retry
from mesh.documents import Touched
from nodes.cli import mesh as root
from nodes.cli.bulk import be_sure, print_touched, print_would
from nodes.cli.command import Shared
from nodes.cli.printing import spell
from nodes.cli.selector import conditions
from nodes.cli.treating import Expiry, Moment, priority_of, treatment, treatment_options


def typed(*arguments: str, of_one_task: bool = True) -> dict[str, Any]:
    """What these arguments come to, with 7 attempts at most."""
    seen: dict[str, Any] = {}

    @click.command()
    @treatment_options(of_one_task=of_one_task)
    def submit(**flags: Any) -> None:
        seen.update(treatment(flags, 7))

    submit.main(list(arguments), standalone_mode=False)
    return seen


def test_nothing_said_is_nothing_sent() -> None:
    assert typed() == {}


def test_every_option_leaves_as_the_client_takes_it() -> None:
    said = typed(
        *("--key", "o1", "--key-window", "2h", "--at", "2026-08-01T03:00:00Z", "--expires", "30s"),
        *("--retry-base", "500ms", "--retry-max", "90", "--retry-factor", "3", "--retry-jitter", "0.5"),
        *("--never", "ValueError", "--never", "KeyError"),
        *("--schedule-timeout", "10m", "--run-timeout", "1.5", "--progress-timeout", "5s", "--on-loss", "hold"),
        *("--fallback", "slow", "--concurrency", "payload.user:2:reject", "--rate", "mail:10/1m", "--rate", "5/30"),
        *("--fairness", "ana", "--weight", "2", "--require", "gpu=yes", "--require", "zone=eu=1"),
        *("--avoid", "disk=slow", "--avoid", "disk=full", "--prefer", "zone=eu"),
        *("--location", "eu/berlin", "--sticky", "s", "--sticky-hard", "--version", "2"),
    )
    assert said == {
        "key": "o1",
        "key_window": "2h",
        "at": datetime(2026, 8, 1, 3, tzinfo=UTC),
        "expires": "30s",
        "retry": Retry(7, "500ms", 90.0, 3.0, 0.5, ("ValueError", "KeyError")),
        "schedule_timeout": "10m",
        "run_timeout": 1.5,
        "progress_timeout": "5s",
        "on_loss": "hold",
        "fallback": "slow",
        "concurrency": Key("payload.user", 2, "reject"),
        "rate": [RateLimit(10, "1m", "mail"), RateLimit(5, 30.0)],
        "fairness": "ana",
        "weight": 2.0,
        "require": {"gpu": "yes", "zone": "eu=1"},
        "avoid": {"disk": ["slow", "full"]},
        "prefer": {"zone": ["eu"]},
        "location": "eu/berlin",
        "sticky": "s",
        "sticky_hard": True,
        "version": "2",
    }


def test_a_schedule_has_no_options_of_one_task() -> None:
    assert typed("--run-timeout", "1m", of_one_task=False) == {"run_timeout": "1m"}
    with pytest.raises(click.UsageError, match="No such option"):
        typed("--key", "o1", of_one_task=False)


def test_keys_may_hold_colons() -> None:
    assert typed("--concurrency", "user:7:2") == {"concurrency": Key("user:7", 2)}
    assert typed("--rate", "user:7:2/1s") == {"rate": [RateLimit(2, "1s", "user:7")]}


def test_points_in_time_are_read_as_they_are_written() -> None:
    assert Moment().convert("1790000000", None, None) == 1_790_000_000.0
    assert Expiry().convert("2026-08-01T03:00:00+02:00", None, None) == datetime(2026, 8, 1, 1, tzinfo=UTC)
    assert Expiry().convert("90", None, None) == 90.0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--key-window soon", "a duration is seconds, or text like '500ms'"),
        ("--run-timeout nan", "a duration is seconds"),
        ("--at tomorrow", "'tomorrow' is no point in time; write it as 2026-08-01T03:00:00Z"),
        ("--at 2026-08-01T03:00:00", "it has no time zone: 2026-08-01 03:00:00"),
        ("--at inf", "'inf' is no point in time"),
        ("--at -5", "it is a datetime with a time zone, or seconds since the epoch"),
        ("--expires 2026-13-01", "'2026-13-01' is no point in time"),
        ("--expires soon", "a duration is seconds"),
        ("--retry-factor 0.5", "factor is a number from 1 to 1000"),
        ("--retry-jitter nan", "jitter is a number from 0 to 1"),
        ("--concurrency k", "--concurrency is KEY:LIMIT[:WHEN_FULL]"),
        ("--concurrency :5", "--concurrency is KEY:LIMIT[:WHEN_FULL]"),
        ("--concurrency k:few:reject", "--concurrency is KEY:LIMIT[:WHEN_FULL]"),
        ("--concurrency k:0", "the limit of a concurrency key is a number from 1"),
        ("--concurrency k:5:wait", "when_full is one of queue, cancel_newest, "),
        ("--rate k:5", "--rate is KEY:LIMIT/PER"),
        ("--rate k:few/1m", "--rate is KEY:LIMIT/PER"),
        ("--rate k:5/soon", "per is seconds, or text like"),
        ("--require gpu", "--require is K=V, as in 'gpu=yes', not 'gpu'"),
        ("--prefer =yes", "--prefer is K=V"),
        ("--avoid gpu=", "--avoid is K=V"),
        ("--require a=1 --require a=2", "--require a is said with 2 values, and no node has more than one"),
    ],
)
def test_what_cannot_be_is_one_sentence(arguments: str, why: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        typed(*arguments.split())
    assert why in refused.value.format_message()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("task submit code --id t1 --key k", "key and task_id both say which task it is"),
        ("task submit code --delay 5s --at 2026-08-01T03:00:00Z", "delay and at both say when it may begin"),
        ("task submit code --key-window 1h", "give a key too"),
        ("task submit code --sticky-hard", "give sticky too"),
        ("task submit code --fallback code", "'code' cannot be its own fallback"),
        ("task submit code --on-loss cry", "on_loss is one of rerun, dlq, hold"),
        ("task submit code --weight 0", "weight is a number from 0.001"),
        ("task submit code --concurrency payload.user:1", "the key 'payload.user' finds nothing in the payload"),
        ("task submit code --priority --5", "no priority is called '--5'"),
        ("task submit code --delay soon", "a duration is seconds"),
        ("task reprioritize t1 soon", "no priority is called 'soon'"),
        ("task reprioritize t1 256", "a priority is a number from 0 to 255"),
        ("task cancel state=lost", "no state is called 'lost'"),
        ("task cancel priority=9-6", "a priority is N or N-M, not '9-6'"),
        ("task cancel priority=1-x", "a priority is N or N-M, not '1-x'"),
        ("task cancel priority=1-256", "a priority is a number from 0 to 255"),
        ("task cancel capability=", "capability= says nothing"),
        ("task cancel capability=a,type=b", "capability is said twice"),
        ("task cancel t1 --dependents kill", "'kill' is not one of 'leave', 'cancel'"),
        ("task retry t1 --payload {bad", "the payload is not JSON"),
        ("dlq retry", "name the dead letters, or say --all"),
        ("dlq retry t1 --error no", "--capability and --error say which of all: say --all too"),
        ("dlq retry t1 t2 --payload 1", "--payload is for one task: name it"),
        ("dlq retry --all --payload 1", "--payload is for one task: name it"),
        ("dlq drop", "name the dead letters, or say --all"),
        ("dlq drop t1 --all", "name the dead letters, or say --all"),
        ("dlq drop t1 --capability code", "say --all too"),
        ("queue clear", "Missing option '--priority'"),
        ("queue clear --priority soon", "no priority is called 'soon'"),
        ("queue pause code --for 0", "--for is longer than 0"),
        ("queue pause code --for soon", "a duration is seconds"),
        ("queue resume a\x07b", "a capability has only printable characters"),
        ("agent strategy best", "a strategy is one of least_connections, round_robin, "),
        ("cron set c * code", "Got unexpected"),
        ("cron set c @hourly code --overlap all", "--overlap is one of skip, allow, queue_one, cancel_old"),
        ("cron set c @hourly code --catch-up some", "--catch-up is one of none, one, all"),
        ("cron set c @hourly code --jitter soon", "a duration is seconds"),
        ("cron set c @hourly code --key k", "No such option"),
        ("settings set ageing_ms 5s", "a setting is a whole number, not '5s'"),
        ("settings set strategy best", "a setting is a whole number, or one of least_connections, "),
    ],
)
def test_wrong_usage_is_found_out_before_anybody_is_asked(command: str, why: str) -> None:
    """Nobody listens at that port: who got there would be unreachable."""
    arguments = command.split() + (["extra", "words"] if "Got unexpected" in why else [])
    with pytest.raises(click.UsageError) as refused:
        root.main([*arguments, "--peer", "127.0.0.1:1"], standalone_mode=False)
    assert why in refused.value.format_message()


def test_a_selector_is_an_id_or_conditions() -> None:
    assert conditions("t1") is None
    assert conditions("nightly@1790000000000") is None
    assert conditions("a=b") is None
    assert conditions("capability=code,note=x") is None
    assert conditions("type=code, state=running,state=pending,priority=low,node=n1") == {
        "capability": "code",
        "state": ["running", "pending"],
        "priority": "low",
        "node": "n1",
    }
    assert conditions("priority=6-9") == {"priority": (6, 9)}
    assert conditions("priority=6") == {"priority": 6}


def test_priorities_have_numbers_and_names() -> None:
    assert [priority_of(text) for text in ("0", "255", "low", "URGENT")] == [0, 255, "low", "URGENT"]


def test_lengths_of_time_are_spelled_for_people() -> None:
    assert [spell(ms) for ms in (0, 999, 12_540, 180_000, 9_000_000, 345_600_000)] == [
        *("0 ms", "999 ms", "12.5 s", "3.0 min", "2.5 h", "4.0 d"),
    ]


# --- what was done to many ---

TEXT = Shared(as_json=False, peer="", secret_file=None, timeout=None)
JSON = Shared(as_json=True, peer="", secret_file=None, timeout=None)


def test_what_was_touched_is_named_counted_and_what_was_too_late_is_partial(capsys: pytest.CaptureFixture[str]) -> None:
    touched = Touched(2, ["t1", "t3", "t2"], ["c1"], False, ["t3"])
    assert print_touched(TEXT, "cancelled", touched) == 7
    out, err = capsys.readouterr()
    assert out == "cancelled t1\ncancelled t2\n"
    assert err == (
        "t3: it had ended by then\n2 cancelled\n"
        "1 that their code submitted are left (--dependents cancel takes them too): c1\n"
    )
    assert print_touched(JSON, "cancelled", touched) == 7
    assert capsys.readouterr().out == (
        '{"cancelled":["t1","t2"],"refused":[{"id":"t3","why":"it had ended by then"}],"count":2,"dependents":["c1"]}\n'
    )
    assert print_touched(JSON, "dropped", Touched(0, ["t3"], [], False, ["t3"])) == 6
    assert print_touched(JSON, "dropped", Touched(0, [], [])) == 0


def test_of_very_many_the_first_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    touched = Touched(5_000, ["t1", "t\x1b2"], [f"c{number}" for number in range(7)], True)
    assert print_would(TEXT, "would_cancel", touched, with_dependents=True) == 0
    out, err = capsys.readouterr()
    assert out == "t1\nt\\x1b2\n"
    assert err == (
        "5,000 meant, of which 2 are named\n7 that their code submitted go with them: c0, c1, c2, c3, c4, ...\n"
    )
    assert print_would(JSON, "would_cancel", Touched(1, ["t1"], [], True)) == 0
    assert capsys.readouterr().out == '{"would_cancel":["t1"],"count":1,"dependents":[]}\n'


def test_nobody_is_asked_about_one_task_or_when_told_not_to() -> None:
    """And where nobody can be asked, many are not touched."""
    be_sure("cancel", 1, False)
    be_sure("cancel", 500, True)
    with pytest.raises(click.UsageError, match="500 tasks match; say --yes to drop them all"):
        be_sure("drop", 500, False)
