"""Every way a task may change state, as a table. The diagram in ARCHITECTURE.md is made from it.

Read a row as: what happens, then from which state to which. What is not in the table does not happen: the command is
refused and nothing changes.
"""

from typing import Final

from mesh.ledger.task import (
    CANCELLED,
    COMPLETED,
    DEAD,
    DISPATCHED,
    FAILED,
    PAUSED,
    PENDING,
    RUNNING,
    SCHEDULED,
    STATE_NAMES,
)

TRANSITIONS: Final[dict[str, dict[int, int]]] = {
    "grant": {PENDING: DISPATCHED, SCHEDULED: DISPATCHED},
    "start": {DISPATCHED: RUNNING},
    # From a waiting state too: the lease was lost with its node, nobody has overtaken it, and the work is done after
    # all.
    "complete": {
        DISPATCHED: COMPLETED,
        RUNNING: COMPLETED,
        PENDING: COMPLETED,
        SCHEDULED: COMPLETED,
        PAUSED: COMPLETED,
    },
    "retry": {DISPATCHED: SCHEDULED, RUNNING: SCHEDULED},
    "release": {DISPATCHED: PENDING, RUNNING: PENDING},
    "lose": {DISPATCHED: PENDING, RUNNING: PENDING},
    "hold": {RUNNING: PAUSED},
    # From a waiting state: nobody could be found to run it in time.
    "bury": {DISPATCHED: DEAD, RUNNING: DEAD, PENDING: DEAD, SCHEDULED: DEAD},
    "fall_back": {DISPATCHED: PENDING, RUNNING: PENDING, PENDING: PENDING, SCHEDULED: PENDING},
    "cancel": {
        PENDING: CANCELLED,
        SCHEDULED: CANCELLED,
        DISPATCHED: CANCELLED,
        RUNNING: CANCELLED,
        PAUSED: CANCELLED,
        DEAD: CANCELLED,
    },
    "redrive": {DEAD: PENDING, PAUSED: PENDING},
    "drop": {DEAD: FAILED},
}

GRANT: Final = TRANSITIONS["grant"]
START: Final = TRANSITIONS["start"]
COMPLETE: Final = TRANSITIONS["complete"]
RETRY: Final = TRANSITIONS["retry"]
RELEASE: Final = TRANSITIONS["release"]
LOSE: Final = TRANSITIONS["lose"]
HOLD: Final = TRANSITIONS["hold"]
BURY: Final = TRANSITIONS["bury"]
FALL_BACK: Final = TRANSITIONS["fall_back"]
CANCEL: Final = TRANSITIONS["cancel"]
REDRIVE: Final = TRANSITIONS["redrive"]
DROP: Final = TRANSITIONS["drop"]


def diagram() -> str:
    """The table as text: what happens, from which states, to which. ARCHITECTURE.md shows it."""
    lines = [f"{'submit':<9} (nothing) -> pending | scheduled"]
    for happening, moves in TRANSITIONS.items():
        for after in dict.fromkeys(moves.values()):
            befores = ", ".join(STATE_NAMES[before] for before, to in moves.items() if to == after)
            lines.append(f"{happening:<9} {befores} -> {STATE_NAMES[after]}")
    return "\n".join(lines)
