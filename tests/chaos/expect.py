"""What a task's answer must be; both sides compute it, neither asks the other."""

COMPLETED = "completed"
DEAD = "dead"


def answer_to(n: int, pad: str) -> list[int]:
    """The right result for a payload: a number that is not in it, and how much arrived."""
    return [n * n + 1, len(pad)]
