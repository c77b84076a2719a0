"""Safeguards of limits, breakers, timeouts and schedules, removed one at a time; see ablations.py."""

from typing import Any

import msgspec

from mesh.dispatch.in_flight import InFlight
from mesh.ledger import breakers, completion, crons, leasing, ledger, limits, timeouts
from mesh.node.admitting import Renewals
from mesh.options import Options
from mesh.sim.ablation import Ablation, Replacement


def _without(**changes: Any) -> list[Replacement]:
    """The ledger grants as if options said this, and the leader forgets what it has on its way, as the ledger would not
    let it.
    """
    honest = limits.refuses

    def refuses(table: Any, options: Options, at_ms: int) -> bool:
        return honest(table, msgspec.structs.replace(options, **changes), at_ms)

    return [(limits, "refuses", refuses), (InFlight, "under", lambda flight, kind, key: 0)]


def _rates_are_trusted() -> list[Replacement]:
    return _without(rates=())


def _keys_are_trusted() -> list[Replacement]:
    return _without(concurrency=None)


def _any_number_of_probes() -> list[Replacement]:
    def is_shut(table: Any, node_id: Any, capability: str, at_ms: int) -> bool:
        breaker = table.breakers.get((node_id, capability))
        return breaker is not None and at_ms < breaker.opened_at_ms + table.settings.breaker_open_ms

    return [(breakers, "is_shut", is_shut)]


def _time_out_believed() -> list[Replacement]:
    honest = timeouts.due_at_ms

    def due_at_ms(task: Any, limit: int) -> int | None:
        return None if honest(task, limit) is None else 0

    return [(timeouts, "due_at_ms", due_at_ms)]


def _fires_whenever() -> list[Replacement]:
    def may_fire(table: Any, cron: Any, command: Any) -> bool:
        return True

    return [(crons, "_may_fire", may_fire)]


def _crashes_are_forgiven() -> list[Replacement]:
    return [(completion, "crashed", lambda table, task, error: False)]


def _windows_never_last() -> list[Replacement]:
    honest = Renewals._decide

    def decide(renewals: Any, look: Any, task: Any) -> None:
        options = msgspec.structs.replace(look.spec.options, window_ms=0)
        honest(renewals, msgspec.structs.replace(look, spec=msgspec.structs.replace(look.spec, options=options)), task)

    return [(Renewals, "_decide", decide)]


def _pauses_are_the_leaders() -> list[Replacement]:
    def grant(table: Any, command: Any, position: int) -> int:
        kept, table.pauses = table.pauses, {}
        try:
            return leasing.grant(table, command, position)
        finally:
            table.pauses = kept

    return [(ledger._HANDLERS, "GrantLease", grant)]


SCHEDULING: dict[str, Ablation] = {
    "rates-trusted": Ablation(
        "the ledger grants beyond a rate when a leader forgets what is on its way", _rates_are_trusted
    ),
    "keys-trusted": Ablation(
        "the ledger grants beyond a concurrency key when a leader forgets what is on its way", _keys_are_trusted
    ),
    "pauses-at-leader-only": Ablation("the ledger grants from a paused queue", _pauses_are_the_leaders),
    "many-probes": Ablation("a half-open breaker lets all through", _any_number_of_probes),
    "time-out-believed": Ablation("a timeout counts, whether or not it is time by the log", _time_out_believed),
    "fires-whenever": Ablation("a schedule fires for whatever time it is told", _fires_whenever),
    "crashes-forgiven": Ablation("a task may end any number of processes", _crashes_are_forgiven),
    "windows-never-last": Ablation("an id is taken again as soon as its task has ended", _windows_never_last),
}
