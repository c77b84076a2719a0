"""From what a submit asked for to what travels with the task. Pure: the time is an argument."""

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

from mesh.errors import InvalidPayload
from mesh.options import Concurrency, Labels, Options, Rate
from mesh.treatment import (
    NAME_CHARS_MAX,
    ON_LOSS,
    PAYLOAD,
    TREATMENT_NAMES,
    WHEN_FULL,
    Key,
    RateLimit,
    Retry,
    brief,
    check_name,
    check_options,
    chosen,
    duration_ms,
    has_surrogates,
    is_number,
    limit_ms,
    moment_ms,
    permille,
)

KEY_WINDOW: Final = "24h"
LABELS_MAX: Final = 64
RATES_MAX: Final = 16
_PLAIN: Final = Options()
_USUAL_RETRY: Final = Retry().option()


class Treated(NamedTuple):
    """What a submit's options come to. `options` is None for a task that is treated as most are."""

    task_id: str | None
    max_attempts: int | None
    not_before_ms: int
    options: Options | None


def treated(
    capability: str,
    payload: Any,
    asked: Mapping[str, Any],
    *,
    task_id: str | None,
    max_attempts: int | None,
    delay: object,
    now_ms: int,
) -> Treated:
    """Read the options of one submit. `now_ms` is milliseconds since the epoch.

    Raises InvalidPayload in one sentence for what cannot be, TypeError for an option that there is not.
    """
    check_options(asked, TREATMENT_NAMES, "submit()")
    given = {name: value for name, value in asked.items() if value is not None}
    key = given.pop("key", None)
    window = given.pop("key_window", None)
    not_before_ms = _not_before_ms(delay, given.pop("at", None), now_ms)
    fields = _fields(capability, payload, given)
    if key is not None:
        if task_id is not None:
            raise InvalidPayload("key and task_id both say which task it is: give one of them")
        task_id = keyed_id(capability, key)
        fields["window_ms"] = limit_ms("key_window", KEY_WINDOW if window is None else window)
    elif window is not None:
        raise InvalidPayload("key_window says how long a key is remembered: give a key too")
    if "expires" in given:
        fields["expires_at_ms"] = _expires_at_ms(given["expires"], not_before_ms, now_ms)
    if max_attempts is None and "retry" in given:
        max_attempts = given["retry"].max_attempts
    return Treated(task_id, max_attempts, not_before_ms, _options(fields))


def standing_options(capability: str, payload: Any, asked: Mapping[str, Any]) -> Options | None:
    """The options of tasks that a schedule will submit: what concerns one moment, or one task, has no place there.

    Raises InvalidPayload, TypeError.
    """
    check_options(asked, TREATMENT_NAMES, "set_cron()")
    given = {name: value for name, value in asked.items() if value is not None}
    for name in ("key", "key_window", "at", "expires", "parent"):
        if name in given:
            raise InvalidPayload(f"{name} is for one task; a schedule submits many")
    return _options(_fields(capability, payload, given))


def keyed_id(capability: str, key: object) -> str:
    """The id of the task with this idempotency key: `CAPABILITY:KEY`, or a digest where that will not do for an id.

    The same for the same two, always and everywhere. Raises InvalidPayload.
    """
    if is_number(key):
        key = str(key)
    if not isinstance(key, str) or not key:
        raise InvalidPayload(f"an idempotency key is text, or a whole number, not {brief(key)}")
    return _joined(capability, key)


def _joined(capability: str, rest: str) -> str:
    """Both in one name that no other two have."""
    name = f"{capability}:{rest}"
    if len(name) <= NAME_CHARS_MAX and name.isprintable() and ":" not in capability:
        return name
    digest = sha256(f"{len(capability)}:{name}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{capability[:100]}:{digest}"


# --- time -------------------------------------------------------------------------------------------------------------


def _not_before_ms(delay: object, at: object, now_ms: int) -> int:
    delay_ms = 0 if delay is None else duration_ms("a delay", delay)
    if at is None:
        return now_ms + delay_ms if delay_ms else 0
    if delay_ms:
        raise InvalidPayload("delay and at both say when it may begin: give one of them")
    return moment_ms("at", at)


def _expires_at_ms(expires: object, not_before_ms: int, now_ms: int) -> int:
    """A number or text is a duration; whatever else, a point in time."""
    if isinstance(expires, int | float | str):
        expires_at_ms = now_ms + limit_ms("expires", expires)
    else:
        expires_at_ms = moment_ms("expires", expires)
    if expires_at_ms <= not_before_ms:
        raise InvalidPayload("it expires before it may begin")
    return expires_at_ms


# --- the rest, option by option ---------------------------------------------------------------------------------------


def _options(fields: dict[str, Any]) -> Options | None:
    options = Options(**fields)
    return None if options == _PLAIN else options


def _fields(capability: str, payload: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    fields = {}
    for name, value in given.items():
        if name in _READERS:
            field, read = _READERS[name]
            fields[field] = read(name, value)
    if "concurrency" in given:
        fields["concurrency"] = _concurrency(given["concurrency"], capability, payload)
    if "rate" in given:
        fields["rates"] = _rates(given["rate"], capability, payload)
    if fields.get("fallback") == capability:
        raise InvalidPayload(f"{capability!r} cannot be its own fallback")
    if fields.get("is_sticky_hard") and "sticky" not in fields:
        raise InvalidPayload("sticky_hard says how sticky is meant: give sticky too")
    return fields


def _retry(_name: str, retry: object) -> Any:
    if not isinstance(retry, Retry):
        raise InvalidPayload(f"retry is a mesh.Retry, not {brief(retry)}")
    option = retry.option()
    return None if option == _USUAL_RETRY else option


def _on_loss(name: str, policy: object) -> int:
    return chosen(name, policy, ON_LOSS)


def _text(name: str, text: object) -> Any:
    check_name(name.replace("_", " "), text)
    return text


def _parent(name: str, task_id: object) -> Any:
    """Whoever submitted the parent may have named it as no client here would. It can be sent, that is all."""
    if not isinstance(task_id, str) or not 0 < len(task_id) <= NAME_CHARS_MAX or has_surrogates(task_id):
        raise InvalidPayload(f"{name} is the id of a task, not {brief(task_id)}")
    return task_id


def _weight(name: str, weight: object) -> int:
    return permille(name, weight, 0.001, 1_000)


def _flag(name: str, flag: object) -> bool:
    if not isinstance(flag, bool):
        raise InvalidPayload(f"{name} is True or False, not {brief(flag)}")
    return flag


def _one_each(name: str, labels: object) -> Labels:
    """A node has one value for a label: to require two would be to require what cannot be."""
    return _pairs(name, labels, are_many_allowed=False)


def _some_each(name: str, labels: object) -> Labels:
    return _pairs(name, labels, are_many_allowed=True)


def _pairs(name: str, labels: object, *, are_many_allowed: bool) -> Labels:
    if not isinstance(labels, Mapping):
        raise InvalidPayload(f"{name} is labels and their values, as in {{'gpu': 'yes'}}, not {brief(labels)}")
    pairs = []
    for label, wanted in labels.items():
        check_name("label", label)
        values = wanted if are_many_allowed and isinstance(wanted, list | tuple | set | frozenset) else (wanted,)
        for value in values:
            check_name(f"value of the label {label!r}", value)
            pairs.append((label, value))
    if len(pairs) > LABELS_MAX:
        raise InvalidPayload(f"{name} has {len(pairs)} labels; at most {LABELS_MAX} travel")
    return tuple(sorted(pairs))


_READERS: Final[Mapping[str, tuple[str, Callable[[str, Any], Any]]]] = {
    "retry": ("retry", _retry),
    "schedule_timeout": ("schedule_timeout_ms", limit_ms),
    "run_timeout": ("run_timeout_ms", limit_ms),
    "progress_timeout": ("progress_timeout_ms", limit_ms),
    "on_loss": ("on_loss", _on_loss),
    "fallback": ("fallback", _text),
    "fairness": ("fairness", _text),
    "weight": ("weight_permille", _weight),
    "require": ("require", _one_each),
    "avoid": ("avoid", _some_each),
    "prefer": ("prefer", _some_each),
    "location": ("location", _text),
    "sticky": ("sticky", _text),
    "sticky_hard": ("is_sticky_hard", _flag),
    "version": ("version", _text),
    "parent": ("parent", _parent),
}
"""Option -> the field it fills, and how it is read."""


def _concurrency(key: object, capability: str, payload: Any) -> Concurrency:
    if not isinstance(key, Key):
        raise InvalidPayload(f"concurrency is a mesh.Key, not {brief(key)}")
    return Concurrency(_key(key.key, capability, payload), key.limit, chosen("when_full", key.when_full, WHEN_FULL))


def _rates(rates: object, capability: str, payload: Any) -> tuple[Rate, ...]:
    several = (rates,) if isinstance(rates, RateLimit) or not isinstance(rates, Iterable) else tuple(rates)
    if len(several) > RATES_MAX:
        raise InvalidPayload(f"a task has {RATES_MAX} rates at most, not {len(several)}")
    found = []
    for rate in several:
        if not isinstance(rate, RateLimit):
            raise InvalidPayload(f"rate is a mesh.RateLimit, or several, not {brief(rate)}")
        key = _key(rate.key, capability, payload) if rate.key else capability
        found.append(Rate(key, rate.limit, limit_ms("per", rate.per)))
    return tuple(found)


def _key(key: str, capability: str, payload: Any) -> str:
    """A key as it stands, or what it finds in the payload."""
    if not key.startswith(PAYLOAD):
        return key
    path = key.removeprefix(PAYLOAD)
    value = payload
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise InvalidPayload(
                f"the key {key!r} finds nothing in the payload of {capability!r}: there is no {part!r}"
            )
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidPayload(f"the key {key!r} finds what is neither text nor a number: {brief(value)}")
    return _joined(capability, f"{path}={value}")
