"""The checker of histories is itself checked: with histories made by hand, and against a search through all orders.

A line of a history is `who  from-to  what -> answer`. Numbers are places in the order of all that happened; `-` for the
second means that no answer ever came. `*` behind the numbers: the wires double.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import combinations, permutations
from random import Random

import msgspec
import pytest

from mesh.ledger.task import CANCELLED, COMPLETED, DEAD, DISPATCHED, FAILED, PENDING, RUNNING, SCHEDULED, STATE_NAMES
from mesh.sim.linearizable import Call, Finding, Operation, Outcome, Verdict, View, check

LINE = re.compile(r"(\w+) +(\d+)-(\d*)(\*?) +(\w+) *(\w*) *-> *(.*)")
OUTCOMES = {
    "": Outcome.OPEN,
    "ok": Outcome.DONE,
    "already": Outcome.ALREADY,
    "conflict": Outcome.CONFLICT,
    "missing": Outcome.MISSING,
    "not so": Outcome.REFUSED,
    "nothing": Outcome.NOTHING,
}


def operation(line: str) -> Operation:
    """`ana 1-2 read -> running 5` or `ben 3- cancel ->`; a submit names its payload."""
    found = LINE.fullmatch(line.strip())
    assert found is not None, line
    who, invoked, returned, doubles, call, payload, answer = found.groups()
    end = int(returned) if returned else None
    answer = answer.strip()
    if answer in OUTCOMES:
        outcome, view = OUTCOMES[answer], None
    else:
        state, *rest = answer.split()
        token, result = [*rest, "", ""][:2]
        outcome = Outcome.DONE
        view = View(STATE_NAMES.index(state), int(token) if token else None, None, result.encode() if result else None)
    return Operation(who, Call(call), int(invoked), end, outcome, payload.encode(), view, bool(doubles))


def history(text: str) -> list[Operation]:
    return [operation(line) for line in text.strip().splitlines()]


GOOD = {
    "given up before it began, and put back": """
        ana 1-2 submit a -> ok
        log 3-3 buried -> ok
        ana 4-5 read -> dead 0
        ana 6-7 redrive -> ok
        ana 8-9 read -> dispatched 4""",
    "given up while it waited for another lease": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> pending 4
        log 5-5 buried -> ok
        ana 6-7 read -> dead 4""",
    "held, and put back": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> paused 4
        ana 5-6 redrive -> ok
        ana 7-8 read -> pending 0
        ana 9-10 read -> running 9""",
    "held, and done after all": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> paused 4
        ana 5-6 redrive -> not so
        ana 7-8 read -> completed 4 r""",
    "sent to its fallback while it waited for its time": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> scheduled 0
        log 5-5 diverted -> ok
        ana 6-7 read -> pending 0""",
    "sent to its fallback when its attempts were spent": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> running 4
        log 5-5 diverted -> ok
        ana 6-7 read -> pending 4""",
    "another under its id after its window": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> completed 4 r
        log 5-5 renewed a -> ok
        ana 6-7 read -> pending 0
        ana 8-9 read -> completed 9 s""",
    "nothing happened": "ana 1-2 read -> missing",
    "a submit that is accepted is read": """
        ana 1-2 submit a -> ok
        ben 3-4 read -> pending 0""",
    "read while it is submitted: there already": """
        ana 1-4 submit a -> ok
        ben 2-3 read -> pending 0""",
    "read while it is submitted: not there yet": """
        ana 1-4 submit a -> ok
        ben 2-3 read -> missing""",
    "never answered, and it was done": """
        ana 1- submit a ->
        ben 5-6 read -> missing
        ben 7-8 read -> pending 0""",
    "never answered, and it was not": """
        ana 1- submit a ->
        ben 5-6 read -> missing""",
    "sent again, accepted twice": """
        ana 1- submit a ->
        ana 2-3 submit a -> ok
        ana 4-5 submit a -> ok""",
    "refused, asked again, accepted": """
        ana 1-2 submit a -> nothing
        ana 3-4 submit a -> ok""",
    "another payload conflicts": """
        ana 1-2 submit a -> ok
        ben 3-4 submit b -> conflict""",
    "it conflicts with what nobody was told of yet": """
        ana 1- submit a ->
        ben 3-4 submit b -> conflict""",
    "a life": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> pending 0
        ana 5-6 read -> dispatched 4
        ana 7-8 read -> running 4
        ana 9-10 read -> completed 4 r
        ana 11-12 read -> completed 4 r""",
    "two lives": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> running 4
        ana 5-6 read -> pending 4
        ana 7-8 read -> dispatched 9
        ana 9-10 read -> completed 9 r""",
    "done after all under a lease that was lost": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> pending 4
        ana 5-6 read -> completed 4 r""",
    "two who read at the same time may see before and after": """
        ana 1-2 submit a -> ok
        ana 3-8 read -> running 4
        ben 4-7 read -> completed 4 r""",
    "it waits for its time, and then for another try": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> scheduled 0
        ana 5-6 read -> scheduled 7""",
    "cancelled": """
        ana 1-2 submit a -> ok
        ana 3-4 cancel -> ok
        ana 5-6 read -> cancelled 0
        ana 7-8 cancel -> already""",
    "it was done before it was cancelled": """
        ana 1-2 submit a -> ok
        ana 3-4 cancel -> already
        ana 5-6 read -> completed 4 r""",
    "nobody heard that it was cancelled": """
        ana 1-2 submit a -> ok
        ben 3- cancel ->
        ana 4-5 read -> running 4
        ana 6-7 read -> cancelled 4""",
    "dead, put back, done": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> dead 4
        ana 5-6 redrive -> ok
        ana 7-8 read -> pending 0
        ana 9-10 read -> completed 12 r""",
    "dead and dropped": """
        ana 1-2 submit a -> ok
        ana 3-4 drop -> not so
        ana 5-6 drop -> ok
        ana 7-8 read -> failed 4""",
    "put back by two at once, both are told": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> dead 4
        ana 5-8 redrive -> ok
        ben 6-9 redrive -> ok
        ana 10-11 read -> pending 0""",
    "a checkpoint by hand needs an attempt that runs": """
        ana 1-2 submit a -> ok
        ana 3-4 checkpoint -> ok
        ana 5-6 read -> running 4""",
    "no such task": """
        ana 1-2 cancel -> missing
        ana 3-4 redrive -> missing
        ana 5-6 submit a -> ok""",
    "refused, but the wires double": """
        ana 1-2* submit a -> nothing
        ben 3-4 read -> pending 0""",
    "put back twice by wires that double": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> dead 4
        ana 5-6* redrive -> ok
        ana 7-8 read -> dead 9
        ana 9-10 read -> pending 0""",
    "a read that does not say under which lease": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> running 4
        ana 5-6 read -> dispatched
        ana 7-8 read -> running 5""",
}

BAD = {
    "dead before it began, though nothing gave it up": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> dead 0""",
    "given up, and it runs all the same": """
        ana 1-2 submit a -> ok
        log 3-3 buried -> ok
        ana 4-5 read -> running 4""",
    "given up after it was done": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> completed 4 r
        log 5-5 buried -> ok""",
    "held, and running under the same lease": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> paused 4
        ana 5-6 read -> running 4""",
    "held, and waiting though nobody put it back": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> paused 4
        ana 5-6 read -> pending 4""",
    "waiting for its time again after it was sent to its fallback": """
        ana 1-2 submit a -> ok
        log 3-3 diverted -> ok
        ana 4-5 read -> scheduled 0""",
    "another under its id, though nobody took it again": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> completed 4 r
        ana 5-6 read -> pending 0""",
    "a submit that is accepted is not read": """
        ana 1-2 submit a -> ok
        ben 3-4 read -> missing""",
    "what nobody submitted is there": "ana 1-2 read -> pending 0",
    "refused, and there all the same": """
        ana 1-2 submit a -> nothing
        ben 3-4 read -> pending 0""",
    "refused, there, and only then submitted again": """
        ana 1-2 submit a -> nothing
        ben 3-4 read -> pending 0
        ana 5-6 submit a -> ok""",
    "two payloads under one id": """
        ana 1-4 submit a -> ok
        ben 2-3 submit b -> ok""",
    "it conflicts with nothing": "ana 1-2 submit a -> conflict",
    "it conflicts with itself": """
        ana 1-2 submit a -> ok
        ana 3-4 submit a -> conflict""",
    "there, and gone": """
        ana 1- submit a ->
        ben 2-3 read -> pending 0
        eva 4-5 read -> missing""",
    "done, and then running": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> completed 4 r
        ben 5-6 read -> running 4""",
    "done, and then waiting": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> completed 4 r
        ben 5-6 read -> pending 4""",
    "done, and then unknown": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> completed 4 r
        ben 5-6 read -> missing""",
    "done with another result": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> completed 4 r
        ben 5-6 read -> completed 4 s""",
    "done under another lease": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> completed 4 r
        ben 5-6 read -> completed 9 r""",
    "an older lease": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> running 9
        ben 5-6 read -> running 4""",
    "running, and then only handed out": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> running 4
        ben 5-6 read -> dispatched 4""",
    "waiting again, and then running under the lease it lost": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> pending 4
        ben 5-6 read -> running 4""",
    "leased, and then never leased": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> running 4
        ben 5-6 read -> pending 0""",
    "waiting, and then dead under the lease it lost": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> pending 4
        ben 5-6 read -> dead 4""",
    "cancelled, and then done": """
        ana 1-2 submit a -> ok
        ana 3-4 cancel -> ok
        ana 5-6 read -> completed 4 r""",
    "cancelled, and then running": """
        ana 1-2 submit a -> ok
        ana 3-4 cancel -> ok
        ana 5-6 read -> running 4""",
    "cancelled by nobody": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> cancelled 4""",
    "cancelled before anybody asked": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> cancelled 0
        ben 5-6 cancel -> ok""",
    "it had ended, and then it runs": """
        ana 1-2 submit a -> ok
        ana 3-4 cancel -> already
        ana 5-6 read -> running 4""",
    "there is nothing to cancel, and yet there is": """
        ana 1-2 submit a -> ok
        ana 3-4 cancel -> missing""",
    "dead, and alive by itself": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> dead 4
        ana 5-6 read -> running 9""",
    "dead, and cannot be put back": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> dead 4
        ana 5-6 redrive -> not so""",
    "put back, and still dead": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> dead 4
        ana 5-6 redrive -> ok
        ana 7-8 read -> dead 4""",
    "put back, and done under the old lease": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> dead 4
        ana 5-6 redrive -> ok
        ana 7-8 read -> completed 4 r""",
    "dropped, and then put back": """
        ana 1-2 submit a -> ok
        ana 3-4 drop -> ok
        ana 5-6 redrive -> ok""",
    "dropped what was done": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> completed 4 r
        ana 5-6 drop -> ok""",
    "a checkpoint of what has ended": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> completed 4 r
        ana 5-6 checkpoint -> ok""",
    "it waited for its time, and then no more, without a lease": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> scheduled 0
        ana 5-6 read -> pending 0""",
    "two readers who cannot both be right": """
        ana 1-2 submit a -> ok
        ana 3-9 read -> running 4
        ben 4-5 read -> completed 4 r
        ben 6-7 read -> running 4""",
    "the wires double, and still no conflict with nothing": "ana 1-2* submit a -> conflict",
    "a read that does not say under which lease goes back all the same": """
        ana 1-2 submit a -> ok
        ana 3-4 read -> running 4
        ana 5-6 read -> dispatched
        ana 7-8 read -> running 4""",
}


@pytest.mark.parametrize("name", GOOD)
def test_what_can_have_happened_passes(name: str) -> None:
    assert check(history(GOOD[name])).verdict is Verdict.LINEARIZABLE


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_have_happened_is_refused(name: str) -> None:
    """And the answer that could not be placed is named."""
    finding = check(history(BAD[name]))
    assert finding.verdict is Verdict.IMPOSSIBLE
    assert finding.stuck


@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_the_order_in_which_answers_are_listed_means_nothing(name: str) -> None:
    lines = history((GOOD | BAD)[name])
    assert check(lines[::-1]).verdict is check(lines).verdict


def test_too_long_is_a_verdict_of_its_own() -> None:
    """Ten submits that nobody heard of and reads that cannot be: not decided within 20 places, and that is said."""
    lines = [operation(f"ana {number}- submit {letter} ->") for number, letter in enumerate("abcdefghij", 1)]
    lines += history("""
        ben 20-21 read -> pending 0
        ben 22-23 read -> missing""")
    assert check(lines, steps_max=20).verdict is Verdict.TOO_LONG
    assert check(lines).verdict is Verdict.IMPOSSIBLE


def test_a_hundred_reads_of_one_life_take_a_hundred_steps() -> None:
    """Reads that overlap in pairs, with a resend that nobody heard of beside each: no explosion."""
    lines = [operation("ana 1-2 submit a -> ok")]
    for number in range(100):
        at = 10 + number * 10
        lines.append(operation(f"ana {at}- submit a ->"))
        lines.append(operation(f"ben {at + 1}-{at + 12} read -> running {10 + number}"))
    finding = check(lines)
    assert finding.verdict is Verdict.LINEARIZABLE
    assert finding.steps < 1_000


# --- the same question, asked of all orders ---------------------------------------------------------------------------

TOKENS_MAX = 7
Place = tuple[str, int, int, int, str]
"""(payload or "", state, token, greatest token ever, result): one task, exactly."""
ABSENT: Place = ("", -1, 0, 0, "")


def moves_by_itself(place: Place) -> Iterator[Place]:
    """What the mesh may do to a task in one step. Said a second time, from the ledger's table of transitions."""
    payload, state, token, most, _ = place
    if state in (PENDING, SCHEDULED):
        for granted in range(most + 1, TOKENS_MAX + 1):
            yield payload, DISPATCHED, granted, granted, ""
    if state == DISPATCHED:
        yield payload, RUNNING, token, most, ""
    if state in (DISPATCHED, RUNNING):
        yield payload, PENDING, token, most, ""
        yield payload, SCHEDULED, token, most, ""
        yield payload, DEAD, token, most, ""
    if state in (DISPATCHED, RUNNING) or (state in (PENDING, SCHEDULED) and token):
        for result in "rs":
            yield payload, COMPLETED, token, most, result


def rests(places: set[Place]) -> set[Place]:
    """All that may come of these by itself."""
    reached, edge = set(places), list(places)
    while edge:
        for place in moves_by_itself(edge.pop()):
            if place not in reached:
                reached.add(place)
                edge.append(place)
    return reached


def takes_effect(place: Place, asked: Operation) -> Iterator[tuple[Place, Outcome]]:
    """What one operation does, and what is answered."""
    payload, state, token, most, result = place
    if asked.call is Call.SUBMIT:
        wanted = asked.payload.decode()
        if not payload:
            yield (wanted, PENDING, 0, most, ""), Outcome.DONE
            yield (wanted, SCHEDULED, 0, most, ""), Outcome.DONE
        else:
            yield place, Outcome.DONE if payload == wanted else Outcome.CONFLICT
    elif not payload:
        yield place, Outcome.MISSING
    elif asked.call is Call.CANCEL:
        over = state in (COMPLETED, FAILED, CANCELLED)
        yield place if over else (payload, CANCELLED, token, most, ""), Outcome.ALREADY if over else Outcome.DONE
        if state == CANCELLED:
            yield place, Outcome.DONE
    elif asked.call is Call.REDRIVE:
        yield (
            (payload, PENDING, 0, most, "") if state == DEAD else place,
            (Outcome.DONE if state == DEAD else Outcome.REFUSED),
        )
        if token == 0 and most > 0 and state == PENDING:
            yield place, Outcome.DONE
    elif asked.call is Call.DROP:
        yield (
            (payload, FAILED, token, most, "") if state == DEAD else place,
            (Outcome.DONE if state == DEAD else Outcome.REFUSED),
        )
        if state == FAILED:
            yield place, Outcome.DONE
    elif asked.view is not None and asked.view.state == state:
        sees = asked.view.token in (None, token) and asked.view.result in (None, result.encode())
        if sees:
            yield place, Outcome.DONE


def some_order_works(asked: Sequence[Operation]) -> bool:
    """Try every order of every choice of those that were never answered."""
    answered = [each for each in asked if each.returned is not None]
    unanswered = [each for each in asked if each.returned is None]
    for count in range(len(unanswered) + 1):
        for happened in combinations(unanswered, count):
            if any(works(order) for order in permutations([*answered, *happened])):
                return True
    return False


def works(order: Sequence[Operation]) -> bool:
    places = rests({ABSENT})
    for number, asked in enumerate(order):
        if any(later.returned is not None and later.returned < asked.invoked for later in order[number + 1 :]):
            return False
        if asked.outcome is Outcome.NOTHING:
            continue
        places = rests(
            {
                to
                for place in places
                for to, outcome in takes_effect(place, asked)
                if asked.outcome in (Outcome.OPEN, outcome)
            }
        )
        if not places:
            return False
    return True


def drawn(roll: Random) -> list[Operation]:
    """A tiny history of two or three clients, made up: most are impossible, many are not."""
    events: list[Operation] = []
    wanted = roll.randint(2, 5)
    for number in range(wanted):
        invoked = roll.randint(1, 4 * wanted)
        returned = None if roll.random() < 0.15 else invoked + roll.randint(1, 10)
        kind = Call.SUBMIT if number == 0 else roll.choice([*Call][:5] + [Call.READ] * 4)
        events.append(Operation(f"c{number}", kind, invoked * 10 + number, returned and returned * 10 + number))
    return [answered(roll, each) for each in events]


def answered(roll: Random, asked: Operation) -> Operation:
    outcomes = {
        Call.SUBMIT: [Outcome.DONE] * 5 + [Outcome.CONFLICT, Outcome.NOTHING],
        Call.READ: [Outcome.DONE] * 9 + [Outcome.MISSING],
        Call.CANCEL: [Outcome.DONE, Outcome.ALREADY, Outcome.MISSING],
        Call.REDRIVE: [Outcome.DONE, Outcome.REFUSED, Outcome.MISSING],
        Call.DROP: [Outcome.DONE, Outcome.REFUSED, Outcome.MISSING],
    }
    outcome = Outcome.OPEN if asked.returned is None else roll.choice(outcomes[asked.call])
    payload = roll.choice([b"a", b"a", b"a", b"b"]) if asked.call is Call.SUBMIT else b""
    view = None
    if asked.call is Call.READ and outcome is Outcome.DONE:
        state = roll.choice((PENDING, SCHEDULED, DISPATCHED, RUNNING, COMPLETED, COMPLETED, DEAD, CANCELLED, FAILED))
        token = roll.choice((None, 0, 1, 1, 2, 2, 3))
        is_leased = state in (DISPATCHED, RUNNING, COMPLETED, DEAD, FAILED)
        view = View(state, max(token, 1) if token is not None and is_leased else token)
        if state == COMPLETED:
            view = msgspec.structs.replace(view, result=roll.choice((b"r", b"s", None)))
    return msgspec.structs.replace(asked, outcome=outcome, payload=payload, view=view)


@pytest.mark.parametrize("part", range(4))
def test_it_says_the_same_as_a_search_through_all_orders(part: int) -> None:
    """Tiny histories drawn at random. Whoever is impossible for one is impossible for the other."""
    roll = Random(part)
    count = {Verdict.LINEARIZABLE: 0, Verdict.IMPOSSIBLE: 0}
    for _ in range(300):
        asked = drawn(roll)
        finding: Finding = check(asked)
        assert finding.verdict is (Verdict.LINEARIZABLE if some_order_works(asked) else Verdict.IMPOSSIBLE), asked
        count[finding.verdict] += 1
    assert min(count.values()) > 30, "both kinds must have been drawn"
