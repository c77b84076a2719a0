"""What it means to remove a safeguard: what is put in place of what, and what it took to notice."""

from collections.abc import Callable
from typing import Any

import msgspec

Replacement = tuple[Any, str, Any]
"""Where, which name, and what instead. Where a dict is given, the name is looked up in ledger.commands as its key."""


class Ablation(msgspec.Struct, frozen=True):
    """`says` what is broken, in a sentence; `replace` lists what to put in place of what.

    `stirred` are faults made frequent, for a mistake that shows only when several things coincide; `nodes` is how many
    nodes it takes, `spares` how many more that join.
    """

    says: str
    replace: Callable[[], list[Replacement]]
    stirred: dict[str, int] = {}
    nodes: int = 0
    spares: int = 0


class Found(msgspec.Struct, frozen=True):
    """How many seeds it took (0: not found), and what broke first."""

    name: str
    says: str
    seeds: int
    invariant: str
    detail: str
    tried: int
    story: str = ""
    """How small the first failure can be made, in words; empty if nobody tried."""

    @property
    def summary(self) -> str:
        if not self.seeds:
            return f"NOT FOUND in {self.tried} seeds"
        return f"found after {self.seeds} seed(s): {self.invariant}: {self.detail[:160]}"
