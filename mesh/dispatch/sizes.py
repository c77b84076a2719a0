"""About how many bytes commands take in an entry, so that an entry can be sent."""

from mesh.ledger.commands import Command, CompleteTask, FailAttempt, RedriveTask, SaveCheckpoint, SetCron


def size_of(command: Command) -> int:
    """About how many bytes a command takes in an entry."""
    if type(command) is CompleteTask:
        return len(command.result) + 64
    if type(command) is SaveCheckpoint:
        return len(command.state) + 64
    if type(command) is FailAttempt:
        return len(command.error) + len(command.detail) + 64
    if type(command) is SetCron:
        return len(command.spec.payload) + 256
    if type(command) is RedriveTask:
        return len(command.payload or b"") + 64
    return 64
