"""Options that no mesh could keep to are refused with one sentence, and those at their bounds are not."""

import pytest

from mesh.config import COMMANDS_PER_ENTRY_MAX, PAYLOAD_BYTES_MAX, DispatchConfig
from mesh.effects import Channel
from mesh.ids import TaskId
from mesh.messages import Accepted, Code, TasksRefused
from mesh.node.treatment import EPOCH_MS_MAX, MS_MAX, OPTIONS_BYTES_MAX, flaw
from mesh.options import Concurrency, LossPolicy, Options, Rate, Retry, WhenFull
from mesh.transport.sockets import BYTES_MAX
from mesh.wire.codec import encode
from tests.node.client import spec
from tests.node.trio import BEN, settled

LONG = "x" * 201


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(
            retry=Retry(0, 0, 1_000, 0), weight_permille=1, concurrency=Concurrency("k", 1), rates=(Rate("r", 1, 1),)
        ),
        Options(
            retry=Retry(MS_MAX, MS_MAX, 100_000, 1_000, tuple(f"E{number}" for number in range(64))),
            schedule_timeout_ms=MS_MAX,
            run_timeout_ms=MS_MAX,
            progress_timeout_ms=MS_MAX,
            expires_at_ms=EPOCH_MS_MAX,
            on_loss=LossPolicy.HOLD,
            rates=tuple(Rate(f"r{number}", 10_000, MS_MAX) for number in range(8)),
            weight_permille=1_000_000,
            window_ms=MS_MAX,
        ),
        Options(
            fallback=LONG[:200],
            concurrency=Concurrency(LONG[:200], 1_000_000, WhenFull.REJECT),
            fairness=LONG[:200],
            location=LONG[:200],
            sticky=LONG[:200],
            is_sticky_hard=True,
            version=LONG[:200],
            parent=TaskId(LONG[:200]),
        ),
        Options(
            require=tuple((f"l{number}", "x" * 20) for number in range(32)),
            avoid=tuple((f"l{number}", "x" * 20) for number in range(32)),
            prefer=((LONG[:200], LONG[:200]), *((f"l{number}", "") for number in range(31))),
        ),
    ],
)
def test_what_lies_within_all_bounds(options: Options) -> None:
    assert flaw(options) == ""


def test_an_entry_full_of_options_fits_a_link() -> None:
    """One that no link takes would stop the log for good. Letters that take four bytes each count as such."""
    labels = tuple((f"l{number}", "\U0001f600" * 200) for number in range(6))
    size = len(encode(Options(require=labels)))
    assert flaw(Options(require=labels[:5])) == ""
    sentence = f"what is said beside the work itself takes {size} bytes; 4096 at most travel with a task"
    assert flaw(Options(require=labels)) == sentence
    entry_max = 2 * PAYLOAD_BYTES_MAX + DispatchConfig().entry_bytes_max + COMMANDS_PER_ENTRY_MAX * OPTIONS_BYTES_MAX
    assert entry_max < BYTES_MAX[Channel.DATA]


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
