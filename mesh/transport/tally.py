"""What the transport dropped, refused and lost, by kind."""

import logging

_log = logging.getLogger("mesh.transport")


class Tally:
    """Counts by kind; the first of each kind is also logged, with its particulars.

    The kinds are literals in this package, so there are few of them, whatever peers send.
    """

    def __init__(self) -> None:
        self.counters: dict[str, int] = {}

    def count(self, kind: str, particulars: str) -> None:
        seen = self.counters.get(kind, 0)
        self.counters[kind] = seen + 1
        if seen == 0:
            _log.warning("%s: %s (the first; later ones are only counted)", kind, particulars)
