"""One agent process, seen from the node: its start, the socket to it, its end."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import IO

from mesh.messages import AttemptOrder, Lease
from nodes.agent_wire import AgentWord, Kept, Leave, NodeWord, Ping, Run, Stop, Wire, from_agent

HELLO_S_MAX = 30.0
"""A process that has not loaded its apps by then is killed."""

BEAT_S = 1.0
"""While it runs something, it is asked so often whether its event loop turns."""

ANSWER_S = 0.5
"""Whoever owes the end of an attempt, and does not answer for so long, will not end it."""

TERMINATE_S = 0.5
"""Between SIGTERM and SIGKILL."""

_BUFFER_BYTES = 1 << 20
_LAST_READS_MAX = 256
"""Reads of what a dead process left in the socket. More can only come from a process it left behind."""


class Child:
    """A running agent process.

    `on_words(child, words)` hears it, and comes with no words when the socket to it has room again; `on_death(child,
    how)` comes once, when it is dead and everything it said has been heard: `how` is "signal 11" or "exit code 3", or
    why it was killed. Whatever it started in its own process group dies with it.

    Attributes:
        pid: of the process.
        born: loop time of its start.
        ready: it said hello.
        doomed: told to die; its death is no accident.
        running: leases whose outcome it owes.
        stopping: leases that were stopped and whose code may still run, with the loop time by which it should not.
        terminated: it was ended for the sake of an attempt.
        blocked: it has left a question unanswered for BEAT_S: some handler keeps its event loop from turning.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        command: Sequence[str],
        *,
        environment: dict[str, str],
        output: IO[bytes] | None,
        grace_s: float,
        on_words: Callable[["Child", list[AgentWord]], None],
        on_death: Callable[["Child", str], None],
    ) -> None:
        self._loop = loop
        self._grace_s = grace_s
        self._on_words = on_words
        self._on_death = on_death
        self._orders: list[AttemptOrder] = []
        self._stops: list[Lease] = []
        self._says: list[NodeWord] = []
        self.running: dict[Lease, None] = {}
        self.stopping: dict[Lease, float] = {}
        self._asked_s: float | None = None
        """When the question was asked that is not answered."""
        self._pulse: asyncio.TimerHandle | None = None
        self.blocked = False
        self.born = loop.time()
        self.ready = False
        self.doomed = False
        self.terminated = False
        self._why = ""
        """Why we killed it, if that says more than how it died."""
        self.dead: asyncio.Future[None] = loop.create_future()
        ours, theirs = socket.socketpair()
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            try:
                self._process = subprocess.Popen(
                    [*command, "--fd", str(theirs.fileno()), "--parent", str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(theirs.fileno(),),
                    env=environment,
                    start_new_session=True,  # The terminal's Ctrl-C is the node's, not its children's.
                )
            except BaseException:
                ours.close()
                raise
        self.pid = self._process.pid
        self._wire: Wire[AgentWord, NodeWord] = Wire(
            loop,
            ours,
            from_agent,
            heard=self._heard,
            gather=self._gather,
            closed=self._lost,
            drained=lambda: on_words(self, []),
        )
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._died)
        self._patience = loop.call_later(HELLO_S_MAX, self._give_up)

    @property
    def takes_orders(self) -> bool:
        """It reads what it is given. What cannot be read now may still be run by another."""
        return self.ready and not self.doomed and not self.blocked and not self._wire.full

    # --- speaking -----------------------------------------------------------------------------------------------------

    def run(self, orders: list[AttemptOrder]) -> None:
        """Run these; their leases are in `running` from now on."""
        for order in orders:
            self.running[(order.task_id, order.token)] = None
        self._orders += orders
        self._wire.wake()
        if self._pulse is None:
            self._pulse = self._loop.call_later(BEAT_S, self._beat)

    def stop(self, leases: list[Lease]) -> None:
        """Cancel these; nothing is owed for them any more but the word that they have ended.

        Where that does not come within the grace, and the process does not answer either, it is ended.
        """
        until_s = self._loop.time() + self._grace_s
        for lease in leases:
            self.running.pop(lease, None)
            self.stopping[lease] = until_s
        self._stops += leases
        self._ask()
        self._loop.call_at(until_s, self._press)

    def answer(self, word: Kept) -> None:
        self._says.append(word)
        self._wire.wake()

    def _gather(self) -> list[NodeWord]:
        words: list[NodeWord] = []
        if self._orders:
            words.append(Run(self._orders))
            self._orders = []
        if self._stops:
            words.append(Stop(self._stops))
            self._stops = []
        if self._says:
            words += self._says
            self._says = []
        return words

    # --- watching -----------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """See to it that a question is on its way."""
        if self._asked_s is None:
            self._asked_s = self._loop.time()
            self._says.append(Ping())
        self._wire.wake()

    def answered(self) -> None:
        self._asked_s = None
        self.blocked = False

    def _beat(self) -> None:
        """A pause of our own is no silence of the other end: what it said meanwhile has been read before this."""
        if self._asked_s is not None:
            self.blocked = self._loop.time() - self._asked_s >= BEAT_S
        elif self.running or self.stopping:
            self._ask()
        else:
            self._pulse = None
            return
        self._pulse = self._loop.call_later(BEAT_S, self._beat)
        self._press()

    def blocked_ms(self) -> int:
        """For how long its event loop has not turned, as far as is known; 0 while it does."""
        if not self.blocked or self._asked_s is None:
            return 0
        return round((self._loop.time() - self._asked_s) * 1_000)

    def late(self) -> int:
        """Attempts that were stopped, have had their time, and still run."""
        now_s = self._loop.time()
        return sum(until_s <= now_s for until_s in self.stopping.values())

    def _press(self) -> None:
        """Whoever does not end what is late must at least be able to say so.

        We may have overslept ourselves, and what we had to say not have left: so there is always time to answer.
        """
        if self.late():
            self._ask()
            assert self._asked_s is not None, "just asked"
            at_s = max(self._asked_s + ANSWER_S, self._loop.time() + ANSWER_S / 2)
            self._loop.call_at(at_s, self._judge, self._asked_s)

    def _judge(self, asked_s: float) -> None:
        if self._asked_s == asked_s and self.late():
            self.terminate()

    # --- hearing ------------------------------------------------------------------------------------------------------

    def _heard(self, words: list[AgentWord]) -> None:
        self._on_words(self, words)

    def accept(self) -> None:
        """It said hello."""
        self.ready = True
        self._patience.cancel()

    # --- ending -------------------------------------------------------------------------------------------------------

    async def leave(self, grace_s: float) -> None:
        """Let it cancel what runs and clean up, for `grace_s` at most; then kill it. Returns when it is dead."""
        self.doomed = True
        if self.ready and grace_s > 0:
            self._says.append(Leave(int(grace_s * 1_000)))
            self._wire.flush()
            await asyncio.wait([self.dead], timeout=grace_s)
        self.kill()
        await asyncio.wait([self.dead])

    def terminate(self) -> None:
        """SIGTERM, and SIGKILL if that does not do. Whatever else runs in it ends too."""
        if not self.doomed and not self.dead.done():
            self.doomed = self.terminated = True
            self._process.send_signal(signal.SIGTERM)
            self._patience.cancel()
            self._patience = self._loop.call_later(TERMINATE_S, self.kill)

    def kill(self) -> None:
        if not self.dead.done():
            self._kill_group()

    def _give_up(self) -> None:
        self._why = f"killed after {HELLO_S_MAX:.0f} s"
        self.kill()

    def _lost(self, reason: str) -> None:
        if reason.startswith("rubbish"):
            self._why = f"killed, it sent {reason}"
        self.kill()

    def _kill_group(self) -> None:
        """Its process group bears its pid, and nobody else can: we have not reaped it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _died(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._patience.cancel()
        if self._pulse is not None:
            self._pulse.cancel()
        for _ in range(_LAST_READS_MAX):
            if not self._wire.read():
                break
        self._wire.close()
        self._kill_group()
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self.dead.set_result(None)
        self._on_death(self, self._why or how)
