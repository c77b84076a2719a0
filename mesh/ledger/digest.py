"""A fingerprint of everything applied so far, chained from entry to entry. Replicas must agree at every index."""

from hashlib import blake2b

from mesh.ids import LogIndex
from mesh.ledger.task import Task
from mesh.messages import payload_crc

EMPTY = bytes(16)
_HALF = 0xFFFF_FFFF


def chain(before: bytes, index: LogIndex, data: bytes, outcomes: bytes) -> bytes:
    """Digest after the entry at `index`: over the digest before it, its bytes, and what came of each command."""
    digest = blake2b(before, digest_size=16)
    digest.update(index.to_bytes(8, "big"))
    digest.update(data)
    digest.update(outcomes)
    return digest.digest()


def fingerprint(task: Task) -> int:
    """What is remembered of a finished task, in 64 bits: low half to recognise a repeated submit, high half, the
    token's low half, to recognise a repeated report.
    """
    return (task.token & _HALF) << 32 | (task.origin or payload_crc(task.spec))


def is_of_token(known: int, token: int) -> bool:
    """Whether the task of a fingerprint ended under this very token."""
    return known >> 32 == token & _HALF
