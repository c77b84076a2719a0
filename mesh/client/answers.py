"""From the codes of the protocol to the exceptions of the library."""

from mesh.errors import Backpressure, Conflict, InvalidPayload, MeshError, MeshUnavailable, NotFound, Refused
from mesh.messages import Code


def refusal_error(code: int, message: str) -> MeshError:
    """The exception for a refusal. Codes of a newer mesh are refusals too."""
    match code:
        case Code.NOT_FOUND:
            return NotFound(message)
        case Code.CONFLICT:
            return Conflict(message)
        case Code.BACKPRESSURE:
            return Backpressure(message)
        case Code.UNAVAILABLE:
            return MeshUnavailable(message)
        case Code.INVALID:
            return InvalidPayload(message)
        case _:
            return Refused(message)
