"""When a failed attempt is tried again. Whole milliseconds, so that every replica computes the same."""

from mesh.options import Retry

ORDINARY = Retry()
JITTER_PERMILLE_MAX = 100
"""The leader's dice go so far."""
STEPS_MAX = 64


def backoff_ms(attempt: int, jitter_permille: int, retry: Retry | None = None) -> int:
    """Pause after failed attempt number `attempt` (from 1): min(base x factor^(attempt-1), max), plus a part of it.

    Args:
        attempt: the attempt that failed.
        jitter_permille: the leader's dice, 0 to 100, carried in the command: of the policy's own jitter, so many
            hundredths are added.
        retry: 1 s, 60 s, 2 and 10 % if there is none.

    Source: S2-25.
    """
    assert attempt >= 1, "attempts are counted from 1"
    policy = retry or ORDINARY
    delay_ms = policy.base_ms
    for _ in range(min(attempt - 1, STEPS_MAX)):
        if delay_ms >= policy.max_ms:
            break
        delay_ms = delay_ms * policy.factor_permille // 1_000
    delay_ms = min(delay_ms, policy.max_ms)
    jitter = min(max(jitter_permille, 0), JITTER_PERMILLE_MAX)
    return delay_ms + delay_ms * policy.jitter_permille * jitter // (1_000 * JITTER_PERMILLE_MAX)
