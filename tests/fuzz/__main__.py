"""A longer run: `python -m tests.fuzz --seconds 600 [--first 0] [--mad] [--keep]`.

Draws sessions and mutated messages until the time is over. Prints each new way in which something went wrong, with its
fewest steps; `--keep` writes them into the corpus. Exit code 1 if there was any.
"""

import argparse
import re
import sys
import time
from pathlib import Path
from random import Random

from tests.fuzz.hostile import Stopped, session, shrunk, to_hex
from tests.fuzz.mutations import mutated
from tests.fuzz.test_decoders import comes_out
from tests.fuzz.words import Known, sample_of_every_kind

CORPUS = Path(__file__).parent / "corpus"


def bad_bytes(seed: int) -> list[tuple[str, bytes, str]]:
    """Decoders that did not say Rubbish: which, of what, and what they said instead."""
    roll, found = Random(seed), []
    for name, data in sample_of_every_kind(roll, Known()):
        bad = mutated(data, roll)
        try:
            comes_out(name, bad)
        except Exception as error:  # Whatever it is, it is not Rubbish.
            found.append((name, bad, f"{type(error).__name__}: {error}"))
    return found


def name_of(why: str) -> str:
    """The same for two that differ in numbers only."""
    return "-".join(re.findall(r"[a-z]+", why.lower()))[:60]


def tell(stopped: Stopped, prefix: str, *, keep: bool) -> None:
    steps = shrunk(stopped)
    print(f"seed {stopped.seed}, {stopped.role}: {stopped.why}")
    for step in steps:
        print(f"    {step}")
    if keep:
        path = CORPUS / f"{prefix}-{name_of(stopped.why)}.hex"
        path.write_text(to_hex(stopped.role, steps), encoding="ascii")
        print(f"    kept as {path.name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--mad", action="store_true", help="also what only a leader gone mad would say")
    parser.add_argument("--keep", action="store_true", help="write what is found into the corpus")
    options = parser.parse_args()
    until, seed, known = time.monotonic() + options.seconds, options.first, set[str]()
    while time.monotonic() < until:
        stopped = session(seed, is_mad=options.mad)
        if stopped is not None and name_of(stopped.why) not in known:
            known.add(name_of(stopped.why))
            tell(stopped, "mad" if options.mad else "session", keep=options.keep)
        for name, bad, why in bad_bytes(seed):
            if f"{name} {name_of(why)}" not in known:
                known.add(f"{name} {name_of(why)}")
                print(f"seed {seed}: {name} of {bad.hex()}: {why}")
                if options.keep:
                    (CORPUS / f"{name}-{name_of(why)}.hex").write_text(bad.hex() + "\n", encoding="ascii")
        seed += 1
    print(f"{seed - options.first} sessions from seed {options.first} on, {len(known)} ways found")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())
