"""The child processes that run user code: started, fed, listened to and replaced, from the node's event loop.

One shared process runs coroutines and threads; handlers declared with executor="process", and tasks that are to run
alone, go to a pool of solo processes, one attempt each. No user code is ever imported here.

An attempt that is stopped goes down a ladder: its context says that it is cancelled, a coroutine is cancelled; once it
has had its grace, the process it runs in is ended, by SIGTERM and then by SIGKILL, and another takes its place. What
else ran there is reported as disturbed.
"""

import asyncio
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mesh.config import PAYLOAD_BYTES_MAX
from mesh.effects import CheckpointKept, StartAttempts, StopAttempts
from mesh.events import AgentsReady, AttemptsEnded, AttemptsStarted, CheckpointOffered, Event
from mesh.messages import AttemptOrder, AttemptOutcome, Failure, Lease
from nodes.agent_child import Child
from nodes.agent_log import AgentLog
from nodes.agent_outcomes import not_run
from nodes.agent_wire import AgentWord, Began, Ended, Hello, Kept, Offered, Pong, Refusal, Stopped, Stuck

RESPAWN_S_MIN = 0.1
RESPAWN_S_MAX = 5.0
"""The pause before a dead process is replaced doubles from the one to the other."""

LIVED_S = 10.0
"""After a life this long, the pause starts small again."""

GRACE_S = 5.0
"""A stopped attempt has this long to end by itself, before its process is ended."""

BEGAN_AFTER_S = 0.02
"""A solo attempt that still runs after this is reported as started."""

ORDER_BYTES_MAX = 2 * PAYLOAD_BYTES_MAX + 4_096
"""Payload and checkpoint of one order together."""

DISTURBED = "its process was ended for another's sake"

_STRANGE = object()
"""Stands for a lease nobody here knows."""

_log = logging.getLogger("mesh.agents")


KILLED = "(signal "
"""What is said of a process that was killed, by a person or for want of memory. That is not the app's fault: another is
started.
"""
KILLS_MAX = 5
"""So often while the apps are loaded for the first time. An app that crashes when imported is refused after that."""


class AgentsRefused(Exception):
    """The agent process cannot be started, or an app cannot be loaded; the message is for the operator."""


class Pool:
    """Agent processes of one kind, and the orders that wait for one of them.

    `size_max` processes, each running at most `each_max` attempts. With `eager`, a process is kept up always; else one
    is started when an order waits. What happens is told to `owner`.
    """

    def __init__(self, owner: "Agents", command: Sequence[str], *, size_max: int, each_max: int, eager: bool) -> None:
        self._owner = owner
        self._command = command
        self._size_max = size_max
        self._each_max = each_max
        self._eager = eager
        self._waiting: deque[AttemptOrder] = deque()
        self._pause_s = RESPAWN_S_MIN
        self._pausing: asyncio.TimerHandle | None = None
        self.children: list[Child] = []

    def spawn(self) -> None:
        """Start one more process. Raises OSError."""
        child = self._owner.spawn(self._command, self._heard, self._died)
        self.children.append(child)

    def start(self, orders: Iterable[AttemptOrder]) -> None:
        self._waiting += orders
        self._feed()

    def _feed(self) -> None:
        """Hand out what waits, as far as there is room, and see to more room."""
        if not self._owner.serving:
            return
        waiting = self._waiting
        for child in self.children:
            if not waiting:
                break
            free = self._each_max - len(child.running) - len(child.stopping)
            if free > 0 and child.takes_orders:
                orders = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                child.run(orders)
                if not self._eager:
                    self._owner.loop.call_later(BEGAN_AFTER_S, self._began, child, orders)
        coming = sum(not child.ready for child in self.children)
        wanted = len(waiting) - coming if not self._eager else self._size_max
        while wanted > 0 and len(self.children) < self._size_max and self._pausing is None:
            wanted -= 1
            try:
                self.spawn()
            except OSError as error:  # No memory, or no process to be had. Said later: this may be inside `perform`.
                self._owner.loop.call_soon(self._setback, f"an agent process cannot be started: {error}")
                break

    def _began(self, child: Child, orders: list[AttemptOrder]) -> None:
        """A solo process runs nothing else, so what it was given and has not ended has begun."""
        leases = [(order.task_id, order.token) for order in orders]
        self._owner.tell(started=[lease for lease in leases if lease in child.running])

    def _heard(self, child: Child, words: list[AgentWord]) -> None:
        started: list[Lease] = []
        offered: list[CheckpointOffered] = []
        ended: list[AttemptOutcome] = []
        running = child.running
        for word in words:
            match word:
                case Ended(outcomes):
                    for outcome in outcomes:
                        lease = (outcome.task_id, outcome.token)
                        known = running.pop(lease, _STRANGE) is not _STRANGE
                        if not known:
                            child.stopping.pop(lease, None)
                        if known or not outcome.error:  # One that was stopped too late: the core says what it is worth.
                            ended.append(outcome)
                case Began(leases):
                    started += [lease for lease in leases if lease in running]
                case Offered(task_id, token, sequence, state):
                    if (task_id, token) in running:
                        offered.append(CheckpointOffered(task_id, token, sequence, state))
                case Pong():
                    child.answered()
                case Stopped(leases):
                    for lease in leases:
                        child.stopping.pop(lease, None)
                case Stuck():
                    child.terminate()
                case Hello(offers):
                    child.accept()
                    self._owner.loaded(self, offers)
                case Refusal(sentence):
                    child.doomed = True
                    self._setback(sentence)
        if self._waiting:
            self._feed()
        self._owner.tell(started, offered, ended)

    def _died(self, child: Child, how: str) -> None:
        """Every change here comes before anything is told: whoever hears it may give new orders at once."""
        self.children.remove(child)
        error, failure = f"agent process died ({how})", Failure.CRASH
        ended = [AttemptOutcome(*lease, b"", error, failure=failure) for lease in child.running]
        if child.terminated:
            self._owner.disturbed(child)
            ended = [AttemptOutcome(*lease, b"", DISTURBED, failure=Failure.DISTURBED) for lease in child.running]
        elif child.doomed:
            pass
        elif not child.ready:
            self._setback(f"{error} before its apps were loaded")
        else:
            if self._owner.loop.time() - child.born >= LIVED_S:
                self._pause_s = RESPAWN_S_MIN
            self._pause()
        self._feed()
        self._owner.tell(ended=ended)

    def _setback(self, sentence: str) -> None:
        """A process that could not be brought up: nothing that waits can be run here now."""
        error = sentence.splitlines()[0]
        orders, self._waiting = self._waiting, deque()
        self._pause()
        self._owner.failed(self, sentence)
        self._owner.tell(ended=[not_run(order, error, sentence) for order in orders])

    def _pause(self) -> None:
        if self._pausing is None and self._owner.serving:
            self._pausing = self._owner.loop.call_later(self._pause_s, self._resume)
            self._pause_s = min(self._pause_s * 2, RESPAWN_S_MAX)

    def _resume(self) -> None:
        self._pausing = None
        self._feed()

    def stop(self, leases: list[Lease]) -> None:
        """Give up these leases, wherever they are."""
        gone = frozenset(leases)
        if self._waiting:
            self._waiting = deque(order for order in self._waiting if (order.task_id, order.token) not in gone)
        for child in self.children:
            mine = [lease for lease in leases if lease in child.running]
            if mine:
                child.stop(mine)

    def answer(self, word: Kept) -> bool:
        """Pass on what became of a checkpoint. False if no process here runs the attempt."""
        for child in self.children:
            if (word.task_id, word.token) in child.running:
                child.answer(word)
                return True
        return False

    def close(self) -> None:
        if self._pausing is not None:
            self._pausing.cancel()
        self._waiting.clear()


class Agents:
    """Everything the node's process does about user code.

    Args:
        apps: `MODULE:ATTRIBUTE` or `path/to/file.py:ATTRIBUTE`, each naming a mesh.Mesh. The current directory is on
            the import path of the agent processes.
        slots: attempts the node runs at once.
        post: called with each event, from the event loop, never from inside `perform`.
        turn_ended: called after the last of the events that one turn brought.
        peer_address: HOST:PORT under which agent processes find the mesh (their MESH_PEER).
        log_dir: where `agent.log` takes what user code prints; None leaves it on this process's stderr.
        secret_file: the mesh's secret, for the clients in them (their MESH_SECRET_FILE).
        grace_s: what a stopped attempt is given to end by itself.
    """

    def __init__(
        self,
        apps: Sequence[str],
        *,
        node_id: str,
        slots: int,
        post: Callable[[Event], None],
        turn_ended: Callable[[], None],
        peer_address: str,
        log_dir: Path | None = None,
        secret_file: Path | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self._apps = tuple(apps)
        self._post = post
        self._turn_ended = turn_ended
        self._environment = _environment(node_id, peer_address, secret_file)
        self._log_dir = log_dir
        self._log: AgentLog | None = None
        self._grace_s = grace_s
        self._capabilities: tuple[str, ...] = ()
        self._versions: tuple[tuple[str, str], ...] = ()
        self._solo_names: frozenset[str] = frozenset()
        self._first: asyncio.Future[None] | None = None
        self._node_id = node_id
        slots = max(slots, 1)
        self.serving = False
        """Between start and stop: processes are started, and events posted."""
        self.loop: asyncio.AbstractEventLoop
        command = [sys.executable, "-P", "-m", "nodes.agent_process", "--node", self._node_id]
        command += ["--grace-ms", str(round(grace_s * 1_000))]
        shared = [*command, "--slots", str(slots), *self._apps]
        self._shared = Pool(self, shared, size_max=1, each_max=slots, eager=True)
        solo = [*command, "--slots", "1", "--solo", *self._apps]
        self._solo = Pool(self, solo, size_max=min(slots, os.cpu_count() or 1), each_max=1, eager=False)

        self._kills = 0

    async def start(self) -> tuple[str, ...]:
        """Bring up the shared process and load the apps in it. Returns the capabilities, sorted; posts AgentsReady.

        No apps: no process, and (). Raises AgentsRefused, after 30 s at the latest.
        """
        self.loop = asyncio.get_running_loop()
        self.serving = True
        if self._apps:
            self._first = self.loop.create_future()
            try:
                if self._log_dir is not None:
                    self._log = AgentLog(self._log_dir, self.loop)
                self._shared.spawn()
                await self._first
            except (AgentsRefused, OSError) as error:
                await self.stop(0)
                raise AgentsRefused(str(error)) from None
            finally:
                self._first = None
        self._post(AgentsReady(self._capabilities, self._versions))
        self._turn_ended()
        return self._capabilities

    def perform(self, effect: StartAttempts | StopAttempts | CheckpointKept) -> None:
        """Take an order of the core. Never blocks; what becomes of it comes back as events."""
        match effect:
            case StartAttempts(orders):
                self._start(orders)
            case StopAttempts(leases):
                self._shared.stop(leases)
                self._solo.stop(leases)
            case CheckpointKept(task_id, token, sequence, kept):
                word = Kept(task_id, token, sequence, kept)
                if not self._shared.answer(word):
                    self._solo.answer(word)

    def _start(self, orders: list[AttemptOrder]) -> None:
        together: list[AttemptOrder] = []
        alone: list[AttemptOrder] = []
        refused: list[AttemptOutcome] = []
        for order in orders:
            if len(order.payload) + len(order.checkpoint) > ORDER_BYTES_MAX:
                refused.append(not_run(order, f"InvalidPayload: more than {ORDER_BYTES_MAX} bytes"))
            elif not self._apps:
                refused.append(not_run(order, "UnknownCapability: this node runs no apps"))
            elif order.is_alone or order.capability in self._solo_names:
                alone.append(order)
            else:
                together.append(order)
        if together:
            self._shared.start(together)
        if alone:
            self._solo.start(alone)
        if refused:
            asyncio.get_running_loop().call_soon(self._deliver, [AttemptsEnded(refused)])

    async def stop(self, grace_s: float) -> None:
        """End all agent processes: cancel what runs, let it clean up for `grace_s`, kill the rest. Posts nothing more.

        Returns when all are dead.
        """
        self.serving = False
        for pool in (self._shared, self._solo):
            pool.close()
        await asyncio.gather(*(child.leave(grace_s) for child in self._children()))
        if self._log is not None:
            self._log.close()
            self._log = None

    def pids(self) -> list[int]:
        """Process ids: the shared one first."""
        return [child.pid for child in self._children()]

    def blocked_ms(self) -> int:
        """For how long no coroutine of the shared process has had its turn, because one does not yield; 0 if all is
        well. Known after a second, and while something runs.
        """
        return max((child.blocked_ms() for child in self._shared.children), default=0)

    def late(self) -> int:
        """Attempts that were stopped, have had their grace, and still run and take up a slot."""
        return sum(child.late() for child in self._children())

    def _children(self) -> list[Child]:
        return [*self._shared.children, *self._solo.children]

    # --- for the pools ------------------------------------------------------------------------------------------------

    def spawn(
        self,
        command: Sequence[str],
        on_words: Callable[[Child, list[AgentWord]], None],
        on_death: Callable[[Child, str], None],
    ) -> Child:
        return Child(
            self.loop,
            command,
            environment=self._environment,
            output=None if self._log is None else self._log.file,
            grace_s=self._grace_s,
            on_words=on_words,
            on_death=on_death,
        )

    def loaded(self, pool: Pool, offers: list[tuple[str, str, str]]) -> None:
        """A process is up and offers (capability, where it runs, version)."""
        if pool is self._shared:
            self._solo_names = frozenset(name for name, runs_on, _ in offers if runs_on == "process")
            versions = tuple(sorted((name, version) for name, _, version in offers if version))
            self._offer(tuple(sorted(name for name, _, _ in offers)), versions)
            if self._first is not None and not self._first.done():
                self._first.set_result(None)

    def failed(self, pool: Pool, sentence: str) -> None:
        """A process could not be brought up."""
        if self._first is not None and not self._first.done():
            if KILLED in sentence and self._kills < KILLS_MAX:
                self._kills += 1
                _log.warning("agents of %s: %s; starting another", self._node_id, sentence)
            else:
                self._first.set_exception(AgentsRefused(sentence))
        elif pool is self._shared:
            _log.error("agents of %s: %s", self._node_id, sentence)
            self._offer((), ())

    def disturbed(self, child: Child) -> None:
        """A process was ended for the sake of an attempt in it."""
        _log.warning(
            "agents of %s: process %d was ended, and %d attempts with it, because code that was stopped went on",
            self._node_id,
            child.pid,
            len(child.running),
        )

    def _offer(self, capabilities: tuple[str, ...], versions: tuple[tuple[str, str], ...]) -> None:
        if (capabilities, versions) != (self._capabilities, self._versions):
            self._capabilities, self._versions = capabilities, versions
            if self._first is None:
                self.loop.call_soon(self._deliver, [AgentsReady(capabilities, versions)])

    def tell(
        self,
        started: Sequence[Lease] = (),
        offered: Sequence[CheckpointOffered] = (),
        ended: Sequence[AttemptOutcome] = (),
    ) -> None:
        """Post what happened, in this order."""
        events: list[Event] = []
        if started:
            events.append(AttemptsStarted(list(started)))
        events += offered
        if ended:
            events.append(AttemptsEnded(list(ended)))
        if events:
            self._deliver(events)

    def _deliver(self, events: Sequence[Event]) -> None:
        if self.serving:
            for event in events:
                self._post(event)
            self._turn_ended()


def _environment(node_id: str, peer_address: str, secret_file: Path | None) -> dict[str, str]:
    """What agent processes inherit: our own, the way to the mesh, and the way to this very package.

    They are started with -P, so that a user's `mesh.py` in the current directory does not stand in for ours; a package
    that is installed is found anyway.
    """
    environment = dict(os.environ, MESH_PEER=peer_address, MESH_NODE=node_id)
    if secret_file is not None:
        environment["MESH_SECRET_FILE"] = str(secret_file.resolve())
    root = Path(__file__).resolve().parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    return environment
