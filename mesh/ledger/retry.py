"""When a failed attempt is tried again. Whole milliseconds, so that every replica computes the same."""

BASE_MS = 1_000
FACTOR = 2
DELAY_MS_MAX = 60_000


def backoff_ms(attempt: int, jitter_permille: int) -> int:
    """Pause after failed attempt number `attempt` (from 1): min(1 s x 2^(attempt-1), 60 s), plus 0-10 % of it.

    Args:
        attempt: the attempt that failed.
        jitter_permille: the leader's dice, 0 to 100, carried in the command.

    Source: S2-25.
    """
    assert attempt >= 1, "attempts are counted from 1"
    delay_ms: int = min(BASE_MS * FACTOR ** min(attempt - 1, 16), DELAY_MS_MAX)
    return delay_ms + delay_ms * min(max(jitter_permille, 0), 100) // 1_000
