"""How well a node does, as a score with its causes (S4-15, S4-28): heartbeats, failures, load. Pure."""

from mesh.gossip.members import Health

FULL_PERMILLE = 1_000
MISSED_PERMILLE = 250
"""For each heartbeat missed just now."""
RECOVERING_PERMILLE = 200
FAILURES_PERMILLE = 400
"""If all of its latest attempts failed; in proportion, if some did."""
BUSY_PERMILLE = 100
FULL_MEMORY_PERMILLE = 150
BUSY_FROM_PERMILLE = 900
MEMORY_FROM_PERMILLE = 950


def score(
    health: Health, missed: int, failing_permille: int, cpu_permille: int, memory_permille: int
) -> tuple[int, tuple[str, ...]]:
    """Between 0 and 1,000, and what was lost by what.

    Load alone never brings a node below the ordinary threshold of 500, nor do failed attempts: those are the breakers'
    business, capability by capability.
    """
    if health is Health.FAILED:
        return 0, ("it has failed",)
    lost: list[tuple[int, str]] = []
    if missed:
        lost.append((missed * MISSED_PERMILLE, f"{missed} heartbeats missed"))
    if health is Health.RECOVERING:
        lost.append((RECOVERING_PERMILLE, "it is recovering"))
    if failing_permille:
        share = failing_permille // 10
        lost.append((FAILURES_PERMILLE * failing_permille // 1_000, f"{share} % of its latest attempts failed"))
    if cpu_permille >= BUSY_FROM_PERMILLE:
        lost.append((BUSY_PERMILLE, f"its processors are {cpu_permille // 10} % busy"))
    if memory_permille >= MEMORY_FROM_PERMILLE:
        lost.append((FULL_MEMORY_PERMILLE, f"its memory is {memory_permille // 10} % full"))
    causes = tuple(f"{why} (-{how_much / 1_000:.2f})" for how_much, why in lost if how_much)
    return max(0, FULL_PERMILLE - sum(how_much for how_much, _ in lost)), causes
