"""Whether options of a task, and selections, are such that a mesh can keep to them. One sentence says why not."""

from collections.abc import Iterator

from mesh.ledger.registry import RATE_LIMIT_MAX
from mesh.options import Concurrency, LossPolicy, Options, Rate, Retry, WhenFull
from mesh.wire.codec import encode

OPTIONS_BYTES_MAX = 4 << 10
"""Encoded. An entry has 512 tasks at most, and with the options of all of them it still fits what a link takes."""
NAME_CHARS_MAX = 200
LABELS_MAX = 32
RATES_MAX = 8
ERRORS_MAX = 64
MS_MAX = 10 * 366 * 86_400_000
"""Ten years."""
EPOCH_MS_MAX = 1 << 50
FACTOR_PERMILLE_MAX = 100_000
WEIGHT_PERMILLE_MAX = 1_000_000
CONCURRENCY_MAX = 1_000_000


def flaw(options: Options) -> str:
    """Why a task with these options cannot be accepted; empty if it can."""
    why = next((why for why in _flaws(options) if why), "")
    if not why and (size := len(encode(options))) > OPTIONS_BYTES_MAX:
        why = f"what is said beside the work itself takes {size} bytes; {OPTIONS_BYTES_MAX} at most travel with a task"
    return why


def _flaws(options: Options) -> Iterator[str]:
    for what, span_ms in (
        ("schedule_timeout", options.schedule_timeout_ms),
        ("run_timeout", options.run_timeout_ms),
        ("progress_timeout", options.progress_timeout_ms),
        ("key window", options.window_ms),
    ):
        yield _between(what, span_ms, 0, MS_MAX)
    yield _between("expiry", options.expires_at_ms, 0, EPOCH_MS_MAX)
    yield _between("loss policy", options.on_loss, 0, max(LossPolicy))
    yield _between("weight", options.weight_permille, 1, WEIGHT_PERMILLE_MAX)
    for what, word in (
        ("fallback", options.fallback),
        ("fairness key", options.fairness),
        ("location", options.location),
        ("sticky word", options.sticky),
        ("version", options.version),
        ("parent", options.parent),
    ):
        yield _short(what, word)
    if options.is_sticky_hard and not options.sticky:
        yield "a task that sticks to a node needs a word to stick by"
    for labels in (options.require, options.avoid, options.prefer):
        if len(labels) > LABELS_MAX:
            yield f"{LABELS_MAX} labels may be named at most, not {len(labels)}"
        for name, value in labels:
            yield _short("label", name) or _short("label's value", value)
    if options.retry is not None:
        yield from _retry_flaws(options.retry)
    if options.concurrency is not None:
        yield from _concurrency_flaws(options.concurrency)
    if len(options.rates) > RATES_MAX:
        yield f"a task may be under {RATES_MAX} rates at most, not {len(options.rates)}"
    for rate in options.rates:
        yield from _rate_flaws(rate)


def _retry_flaws(retry: Retry) -> Iterator[str]:
    yield _between("base delay", retry.base_ms, 0, MS_MAX)
    yield _between("longest delay", retry.max_ms, 0, MS_MAX)
    yield _between("factor (in thousandths)", retry.factor_permille, 1_000, FACTOR_PERMILLE_MAX)
    yield _between("jitter (in thousandths)", retry.jitter_permille, 0, 1_000)
    if len(retry.never) > ERRORS_MAX:
        yield f"{ERRORS_MAX} errors may be named at most, not {len(retry.never)}"
    for name in retry.never:
        yield _short("name of an error", name)


def _concurrency_flaws(concurrency: Concurrency) -> Iterator[str]:
    if not concurrency.key:
        yield "a concurrency key has a name"
    yield _short("concurrency key", concurrency.key)
    yield _between("concurrency limit", concurrency.limit, 1, CONCURRENCY_MAX)
    yield _between("what is done when it is full", concurrency.when_full, 0, max(WhenFull))


def _rate_flaws(rate: Rate) -> Iterator[str]:
    if not rate.key:
        yield "a rate has a key"
    yield _short("rate key", rate.key)
    yield _between("rate limit", rate.limit, 1, RATE_LIMIT_MAX)
    yield _between("time of a rate (ms)", rate.per_ms, 1, MS_MAX)


def _between(what: str, value: int, lowest: int, highest: int) -> str:
    return "" if lowest <= value <= highest else f"{what} lies between {lowest} and {highest}, not at {value}"


def _short(what: str, text: str) -> str:
    return "" if len(text) <= NAME_CHARS_MAX else f"{what} has {NAME_CHARS_MAX} characters at most, not {len(text)}"
