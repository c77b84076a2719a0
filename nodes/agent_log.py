"""Where what user code prints goes: one file that is never allowed to fill the disk."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import IO

LOG_BYTES_MAX = 16 << 20
"""A longer agent.log is moved to agent.log.1, over what was there."""

LOOK_S = 30.0


class AgentLog:
    """`agent.log` in a directory, opened for appending and looked at every LOOK_S seconds."""

    def __init__(self, directory: Path, loop: asyncio.AbstractEventLoop) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._loop = loop
        self._path = directory / "agent.log"
        shorten(self._path)
        self.file: IO[bytes] = self._path.open("ab", buffering=0)
        self._timer = loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._loop.run_in_executor(None, shorten, self._path)
        self._timer = self._loop.call_later(LOOK_S, self._look)

    def close(self) -> None:
        self._timer.cancel()
        self.file.close()


def shorten(path: Path) -> None:
    """Move what is in a log over LOG_BYTES_MAX aside; whoever has it open for appending goes on at its beginning.

    What is written between the copy and the cut is lost. A disk that refuses leaves the log as it is.
    """
    try:
        if path.stat().st_size > LOG_BYTES_MAX:
            shutil.copyfile(path, path.with_name(f"{path.name}.1"))
            os.truncate(path, 0)
    except OSError:
        return
