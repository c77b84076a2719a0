"""Options that no mesh could keep to are refused with one sentence, and those at their bounds are not."""

import pytest

from mesh.ids import TaskId
from mesh.messages import Accepted, Code, TasksRefused
from mesh.node.treatment import EPOCH_MS_MAX, MS_MAX, flaw
from mesh.options import Concurrency, LossPolicy, Options, Rate, Retry, WhenFull
from tests.node.client import spec
from tests.node.trio import BEN, settled

LONG = "x" * 201
WIDEST = Options(
    retry=Retry(MS_MAX, MS_MAX, 100_000, 1_000, tuple(f"E{number}" for number in range(64))),
    schedule_timeout_ms=MS_MAX,
    run_timeout_ms=MS_MAX,
    progress_timeout_ms=MS_MAX,
    expires_at_ms=EPOCH_MS_MAX,
    on_loss=LossPolicy.HOLD,
    fallback="x" * 200,
    concurrency=Concurrency("x" * 200, 1_000_000, WhenFull.REJECT),
    rates=tuple(Rate(f"r{number}", 10_000, MS_MAX) for number in range(8)),
    fairness="x" * 200,
    weight_permille=1_000_000,
    require=tuple((f"l{number}", "x" * 200) for number in range(32)),
    avoid=tuple((f"l{number}", "") for number in range(32)),
    prefer=tuple((f"l{number}", "") for number in range(32)),
    location="x" * 200,
    sticky="x" * 200,
    is_sticky_hard=True,
    version="x" * 200,
    parent=TaskId("x" * 200),
    window_ms=MS_MAX,
)


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        WIDEST,
        Options(
            retry=Retry(0, 0, 1_000, 0), weight_permille=1, concurrency=Concurrency("k", 1), rates=(Rate("r", 1, 1),)
        ),
    ],
)
def test_what_lies_within_all_bounds(options: Options) -> None:
    assert flaw(options) == ""


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (Options(schedule_timeout_ms=-1), f"schedule_timeout lies between 0 and {MS_MAX}, not at -1"),
        (Options(run_timeout_ms=MS_MAX + 1), f"run_timeout lies between 0 and {MS_MAX}, not at {MS_MAX + 1}"),
        (Options(progress_timeout_ms=-1), f"progress_timeout lies between 0 and {MS_MAX}, not at -1"),
        (Options(window_ms=-1), f"key window lies between 0 and {MS_MAX}, not at -1"),
        (Options(expires_at_ms=-1), f"expiry lies between 0 and {EPOCH_MS_MAX}, not at -1"),
        (Options(on_loss=3), "loss policy lies between 0 and 2, not at 3"),
        (Options(weight_permille=0), "weight lies between 1 and 1000000, not at 0"),
        (Options(fallback=LONG), "fallback has 200 characters at most, not 201"),
        (Options(fairness=LONG), "fairness key has 200 characters at most, not 201"),
        (Options(location=LONG), "location has 200 characters at most, not 201"),
        (Options(sticky=LONG), "sticky word has 200 characters at most, not 201"),
        (Options(version=LONG), "version has 200 characters at most, not 201"),
        (Options(parent=TaskId(LONG)), "parent has 200 characters at most, not 201"),
        (Options(is_sticky_hard=True), "a task that sticks to a node needs a word to stick by"),
        (Options(require=(("a", ""),) * 33), "32 labels may be named at most, not 33"),
        (Options(avoid=(("a", ""),) * 33), "32 labels may be named at most, not 33"),
        (Options(prefer=(("a", ""),) * 33), "32 labels may be named at most, not 33"),
        (Options(require=((LONG, ""),)), "label has 200 characters at most, not 201"),
        (Options(avoid=(("a", LONG),)), "label's value has 200 characters at most, not 201"),
        (Options(retry=Retry(base_ms=-1)), f"base delay lies between 0 and {MS_MAX}, not at -1"),
        (Options(retry=Retry(max_ms=-1)), f"longest delay lies between 0 and {MS_MAX}, not at -1"),
        (
            Options(retry=Retry(factor_permille=999)),
            "factor (in thousandths) lies between 1000 and 100000, not at 999",
        ),
        (Options(retry=Retry(jitter_permille=1_001)), "jitter (in thousandths) lies between 0 and 1000, not at 1001"),
        (Options(retry=Retry(never=("E",) * 65)), "64 errors may be named at most, not 65"),
        (Options(retry=Retry(never=("E", LONG))), "name of an error has 200 characters at most, not 201"),
        (Options(concurrency=Concurrency("", 1)), "a concurrency key has a name"),
        (Options(concurrency=Concurrency(LONG, 1)), "concurrency key has 200 characters at most, not 201"),
        (Options(concurrency=Concurrency("k", 0)), "concurrency limit lies between 1 and 1000000, not at 0"),
        (
            Options(concurrency=Concurrency("k", 1, 4)),
            "what is done when it is full lies between 0 and 3, not at 4",
        ),
        (Options(rates=(Rate("r", 1, 1),) * 9), "a task may be under 8 rates at most, not 9"),
        (Options(rates=(Rate("", 1, 1),)), "a rate has a key"),
        (Options(rates=(Rate("r", 1, 1), Rate(LONG, 1, 1))), "rate key has 200 characters at most, not 201"),
        (Options(rates=(Rate("r", 10_001, 1),)), "rate limit lies between 1 and 10000, not at 10001"),
        (Options(rates=(Rate("r", 1, 0),)), f"time of a rate (ms) lies between 1 and {MS_MAX}, not at 0"),
    ],
)
def test_what_cannot_be_kept_to_is_refused_and_the_good_one_beside_it_is_not(options: Options, why: str) -> None:
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("t1", options=options), spec("good", options=Options(window_ms=1)), watch=False)
    trio.run(20)
    [refused] = client.told(TasksRefused)
    assert [(each.code, each.message) for each in refused.refusals] == [(Code.INVALID, why)]
    assert [list(reply.task_ids) for reply in client.told(Accepted)] == [["good"]]
