"""Whether what clients were told of one task could have happened in some order of single steps (Herlihy & Wing 1990).

The search is Wing & Gong's with Lowe's memory of where it has been. Tasks do not know each other, so a history is
checked task by task (P-compositionality). What is never answered stays open for ever: it may take effect at any time
after it was asked, or never.

A task moves by itself, whenever it likes: it is granted, starts, waits again, completes, dies. Of all that a client
sees only where it is. How far it has come is a pair that never falls, (token, stage):

    LEASED 0 -> RUNNING 1 -> WAITING 2 -> ENDED 3 -> FRESH 4 (submitted, or put back: no lease of this life yet)
                                                     CALLED OFF 5 (cancelled, or dead, when FRESH or further on)

A task that is held is WAITING, in a state of its own. What nobody asks for and only the log can tell, a task given up
before it ran, sent to its fallback or made anew under its id, is told to the checker as an operation of the log's.

A `Standing` is the least that the task must have come to; it may be further on. An answer moves it on to what was seen,
or cannot be: that is what gives the checker its teeth.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

import msgspec

from mesh.ledger.task import (
    CANCELLED,
    COMPLETED,
    DEAD,
    DISPATCHED,
    FAILED,
    FINISHED,
    PAUSED,
    PENDING,
    RUNNING,
    SCHEDULED,
)

LEASED_STAGE, RUNNING_STAGE, WAITING_STAGE, ENDED_STAGE, FRESH_STAGE, CALLED_OFF_STAGE = range(6)
_STAGE_OF: Final = {
    DISPATCHED: LEASED_STAGE,
    RUNNING: RUNNING_STAGE,
    PENDING: WAITING_STAGE,
    SCHEDULED: WAITING_STAGE,
    PAUSED: WAITING_STAGE,
    COMPLETED: ENDED_STAGE,
    DEAD: ENDED_STAGE,
}
ANY: Final = -1
"""State of a task of which only the stage is known."""
STEPS_MAX = 50_000


class Call(Enum):
    SUBMIT = "submit"
    READ = "read"
    CANCEL = "cancel"
    REDRIVE = "redrive"
    DROP = "drop"
    CHECKPOINT = "checkpoint"
    BURY = "buried"
    """Given up before it began."""
    FALL_BACK = "diverted"
    """Sent to its fallback."""
    RENEW = "renewed"
    """Submitted anew under its id, after its window."""


class Outcome(Enum):
    """What was heard. All but OPEN are definite."""

    OPEN = "open"
    """Nothing. It may have taken effect, or may yet."""
    DONE = "done"
    ALREADY = "already so"
    CONFLICT = "conflict"
    MISSING = "no such task"
    REFUSED = "not in this state"
    NOTHING = "nothing was done"
    """Refused without a word about the task."""


class View(msgspec.Struct, frozen=True):
    """What a read saw. None: it does not say."""

    state: int
    token: int | None = None
    attempts: int | None = None
    result: bytes | None = None
    payload: bytes | None = None


class Operation(msgspec.Struct, frozen=True):
    """One thing a client wanted. `invoked` and `returned` number all that happened in a run, in order.

    `may_repeat`: the wires double, so it may take effect again at any later time, whatever was answered.
    """

    who: str
    call: Call
    invoked: int
    returned: int | None = None
    outcome: Outcome = Outcome.OPEN
    payload: bytes = b""
    view: View | None = None
    may_repeat: bool = False


class Standing(NamedTuple):
    """The least a task must have come to. `payload` None: there is no such task. `token` is at least so; `state` is the
    state at exactly this stage, or ANY. `is_sure`, `attempts` and `result` (None: not known) are for a task that has
    ended: whether `token` is just its token, and what else was seen of it.
    """

    payload: bytes | None = None
    token: int = 0
    stage: int = FRESH_STAGE
    state: int = ANY
    is_sure: bool = False
    attempts: int | None = None
    result: bytes | None = None

    @property
    def is_over(self) -> bool:
        """For ever."""
        return self.state in FINISHED

    @property
    def has_ended(self) -> bool:
        return self.stage in (ENDED_STAGE, CALLED_OFF_STAGE)


NOWHERE: Final = Standing()


class Verdict(Enum):
    LINEARIZABLE = "linearizable"
    IMPOSSIBLE = "impossible"
    TOO_LONG = "too long"
    """Not decided within the bound. A test must take it for a failure."""


class Finding(NamedTuple):
    """`stuck` are the answers that no order could place, where the search came furthest."""

    verdict: Verdict
    steps: int
    stuck: tuple[Operation, ...] = ()


# --- the task ---------------------------------------------------------------------------------------------------------


def after(at: Standing, operation: Operation) -> Standing | None:
    """Where the task stands once this operation has taken effect; None if it cannot have had this outcome here."""
    call, outcome = operation.call, operation.outcome
    if outcome is Outcome.NOTHING:
        return at
    if outcome is Outcome.MISSING:
        return at if at.payload is None else None
    if call is Call.SUBMIT:
        return _submitted(at, operation)
    if call is Call.RENEW:
        return Standing(operation.payload, at.token)
    if at.payload is None:
        return at if outcome is Outcome.OPEN else None
    if call in (Call.BURY, Call.FALL_BACK):
        return None if at.has_ended else _given_up(at, call)
    if call is Call.READ:
        return at if operation.view is None else _seen(at, operation.view)
    if call is Call.CANCEL:
        return _cancelled(at, outcome)
    if call is Call.CHECKPOINT:
        return _leased(at) if outcome is Outcome.DONE else at
    if outcome is Outcome.REFUSED:
        return None if at.state == DEAD else at
    is_drop = call is Call.DROP
    if outcome is Outcome.DONE and at.state == FAILED and is_drop:
        return at
    if outcome is Outcome.DONE and at.stage == FRESH_STAGE and at.token > 0 and not is_drop:
        return at  # Of several who ask at the same time, all are told of the one that did it.
    if outcome is Outcome.OPEN and not is_drop and at.stage == FRESH_STAGE and at.state != SCHEDULED:
        return at  # To die and be put back once more would only make it later.
    dead = at if at.state == PAUSED and not is_drop else _ended(at, DEAD)
    if dead is None:
        return at if outcome is Outcome.OPEN else None
    return dead._replace(state=FAILED) if is_drop else Standing(at.payload, dead.token, FRESH_STAGE, PENDING)


def _submitted(at: Standing, operation: Operation) -> Standing | None:
    if operation.outcome is Outcome.CONFLICT:
        return at if at.payload not in (None, operation.payload) else None
    if at.payload is None:
        return Standing(operation.payload)
    is_same = at.payload == operation.payload
    return at if is_same or operation.outcome is Outcome.OPEN else None


def _cancelled(at: Standing, outcome: Outcome) -> Standing | None:
    """Whoever is told "done" finds it cancelled for ever, "already so" that it has ended."""
    if outcome is Outcome.ALREADY and not at.is_over:
        return _ended(at, COMPLETED)
    if at.is_over:
        return None if outcome is Outcome.DONE and at.state != CANCELLED else at
    stage = CALLED_OFF_STAGE if at.stage == FRESH_STAGE else ENDED_STAGE
    return None if outcome is Outcome.REFUSED else at._replace(state=CANCELLED, stage=stage)


def _given_up(at: Standing, call: Call) -> Standing:
    """It waits: it dies of that, or is sent elsewhere."""
    is_fresh = at.stage == FRESH_STAGE
    if call is Call.BURY:
        return at._replace(state=DEAD, stage=CALLED_OFF_STAGE if is_fresh else ENDED_STAGE)
    return at._replace(state=PENDING, stage=FRESH_STAGE if is_fresh else WAITING_STAGE)


def _leased(at: Standing) -> Standing | None:
    if at.stage in (LEASED_STAGE, RUNNING_STAGE):
        return at
    return None if at.has_ended else Standing(at.payload, at.token + 1, LEASED_STAGE, DISPATCHED)


def _ended(at: Standing, state: int) -> Standing | None:
    """The least there is when it has ended so of itself, under its present lease or another."""
    if at.has_ended:
        return at if at.state == state else None
    can_end = at.stage in (LEASED_STAGE, RUNNING_STAGE) or (at.stage == WAITING_STAGE and state == COMPLETED)
    return Standing(at.payload, at.token if can_end else at.token + 1, ENDED_STAGE, state)


def _seen(at: Standing, view: View) -> Standing | None:
    if view.payload is not None and view.payload != at.payload:
        return None
    if at.has_ended or view.state in (COMPLETED, DEAD, CANCELLED, FAILED):
        return _seen_ended(at, view)
    stage = _STAGE_OF[view.state]
    if view.token == 0 or (view.token is None and at.stage == FRESH_STAGE and stage == WAITING_STAGE):
        if at.stage == FRESH_STAGE and at.state in (ANY, view.state) and stage == WAITING_STAGE:
            return at._replace(state=view.state)
        if view.token == 0:
            return None
    token = view.token
    if token is None:
        is_here = stage > at.stage or (stage == at.stage and at.state in (ANY, view.state))
        token = at.token if is_here else at.token + 1
    if (token, stage) < (at.token, at.stage):
        return None
    if (token, stage) == (at.token, at.stage) and at.state not in (ANY, view.state):
        return None
    return Standing(at.payload, token, stage, view.state)


def _seen_ended(at: Standing, view: View) -> Standing | None:
    end = _ended(at, view.state) if view.state in (COMPLETED, DEAD) else at
    if end is None or not end.has_ended or end.state != view.state:
        return None
    if view.token is not None:
        is_called_off = end.stage == CALLED_OFF_STAGE
        least = end.token + 1 if is_called_off and not end.is_sure else end.token
        if (end.is_sure and view.token != end.token) or (view.token < least and not (is_called_off and not view.token)):
            return None
        end = end._replace(token=view.token, is_sure=True)
    for known, seen in ((end.attempts, view.attempts), (end.result, view.result)):
        if known is not None and seen is not None and known != seen:
            return None
    attempts = view.attempts if view.attempts is not None else end.attempts
    return end._replace(attempts=attempts, result=view.result if view.result is not None else end.result)


# --- the search -------------------------------------------------------------------------------------------------------

Place = tuple[int, Standing]
"""Which operations have taken effect, as bits, and where the task stands then."""


def check(operations: Iterable[Operation], steps_max: int = STEPS_MAX) -> Finding:
    """Look for an order in which all these answers about one task are true.

    Args:
        operations: all that was asked about the task, in any order.
        steps_max: places to visit before giving up.
    """
    search = _Search(operations)
    wanted, best = search.wanted, 0
    start: Place = (0, NOWHERE)
    seen, stack = {start}, [start]
    while stack:
        place = stack.pop()
        done = place[0] & wanted
        if done == wanted:
            return Finding(Verdict.LINEARIZABLE, len(seen))
        if done.bit_count() > best.bit_count():
            best = done
        for following in reversed(search.following(*place)):
            if following not in seen:
                seen.add(following)
                stack.append(following)
        if len(seen) > steps_max:
            return Finding(Verdict.TOO_LONG, len(seen))
    stuck = tuple(each for number, each in enumerate(search.answered) if not best >> number & 1)
    return Finding(Verdict.IMPOSSIBLE, len(seen), stuck)


class _Search:
    """`answered` must all be placed: bits 0 and up, in the order of their asking. `open`, the bits above, may be. What
    is in `repeating` may take effect any number of times, and has no bit.
    """

    def __init__(self, operations: Iterable[Operation]) -> None:
        ordered = sorted(operations, key=lambda each: each.invoked)
        self.answered = [each for each in ordered if each.outcome not in (Outcome.OPEN, Outcome.NOTHING)]
        self.open: list[Operation] = []
        self.repeating: list[Operation] = []
        self.wanted = (1 << len(self.answered)) - 1
        first: set[tuple[Call, bytes]] = set()
        for each in ordered:
            if each.call is Call.READ or not (each.may_repeat or each.outcome is Outcome.OPEN):
                continue
            if each.may_repeat or each.call is Call.SUBMIT:  # The first can do all that a later one of its kind can.
                if (each.call, each.payload) in first:
                    continue
                first.add((each.call, each.payload))
            unheard = msgspec.structs.replace(each, outcome=Outcome.OPEN)
            (self.repeating if each.may_repeat else self.open).append(unheard)

    def following(self, done: int, at: Standing) -> list[Place]:
        """All places one step further. An answer that changes nothing is placed at once: no order is lost by that."""
        answered = self.answered
        number = (~done & (done + 1)).bit_length() - 1
        until = answered[number].returned or 0
        found: list[tuple[int, Place]] = []
        while number < len(answered) and answered[number].invoked <= until:
            each = answered[number]
            if not done >> number & 1:
                until = min(until, each.returned or 0)
                to = after(at, each)
                if to is not None:
                    found.append((each.invoked, (done | 1 << number, to)))
            number += 1
        places = [place for invoked, place in found if invoked <= until]
        for place in places:
            if place[1] == at:
                return [place]
        for number, each in enumerate(self.open, len(answered)):
            if each.invoked <= until and not done >> number & 1:
                to = after(at, each)
                if to is not None and to != at:
                    places.append((done | 1 << number, to))
        for each in self.repeating:
            if each.invoked <= until:
                to = after(at, each)
                if to is not None and to != at:
                    places.append((done, to))
        return places
