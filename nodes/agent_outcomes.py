"""How an exception becomes the two texts that travel: one line, and a traceback's end."""

import traceback

from mesh.messages import AttemptOrder, AttemptOutcome, Failure

ERROR_CHARS_MAX = 500
DETAIL_BYTES_MAX = 8 << 10
_FRAMES_MAX = 40
"""Innermost frames of each traceback in a chain."""

_OWN_FRAMES = ("nodes/agent_process.py", "mesh/app.py")
"""Ours, at the outer end of a traceback; they tell a user nothing."""


def failed(order: AttemptOrder, error: BaseException, never: tuple[type[BaseException], ...] = ()) -> AttemptOutcome:
    """The outcome of an attempt that raised. An error of a type in `never` is final: another try would not help."""
    final = isinstance(error, never)
    return AttemptOutcome(order.task_id, order.token, b"", one_line(error), traceback_text(error), final)


def not_run(order: AttemptOrder, error: str, detail: str = "") -> AttemptOutcome:
    """The outcome of an attempt that never began here."""
    return AttemptOutcome(order.task_id, order.token, b"", error, detail, failure=Failure.NOT_RUN)


def one_line(error: BaseException) -> str:
    """`ValueError: what it says`, on one line of ERROR_CHARS_MAX characters at most."""
    try:
        said = str(error)
    except Exception as worse:  # User code again.
        said = f"(its message raised {type(worse).__name__})"
    said = " ".join(said.split())
    name = type(error).__name__
    line = f"{name}: {said}" if said else name
    return _sendable(line if len(line) <= ERROR_CHARS_MAX else line[: ERROR_CHARS_MAX - 3] + "...")


def traceback_text(error: BaseException) -> str:
    """The traceback as Python prints it, without our own frames: its last DETAIL_BYTES_MAX bytes."""
    at = error.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename.endswith(_OWN_FRAMES):
        at = at.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, at, limit=-_FRAMES_MAX))
    except Exception as worse:
        text = f"(the traceback cannot be shown: {type(worse).__name__})"
    data = _sendable(text).encode()
    return data[-DETAIL_BYTES_MAX:].decode(errors="ignore")


def _sendable(text: str) -> str:
    """Lone surrogates cannot be sent as UTF-8; show them escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
