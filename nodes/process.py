"""One node as a process: the shell around mesh.node.Node. Waits for an event, hands it in, performs what is asked.

Everything happens on one event loop. The disk has threads of its own and user code processes of its own; both report
back as events. A turn of the loop ends with TurnEnded, so that what arrived together leaves together.
"""

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Callable
from random import Random, SystemRandom
from typing import Any

from mesh.effects import Effect
from mesh.events import DeadlineReached, DiskFailed, Durable, Event, TurnEnded
from mesh.ids import NodeId
from mesh.node import Node
from mesh.storage.faults import StoreDamaged, StoreRefused
from mesh.storage.store import Store
from mesh.transport.address import TransportRefused
from mesh.transport.handshake import Identity
from mesh.transport.zeromq import Transport
from nodes.agents import Agents, AgentsRefused
from nodes.perform import Performer
from nodes.settings import NodeSettings, SettingsRefused
from nodes.stalls import STALL_MS, WatchedLoop
from nodes.telemetry import LOG, start_logging

TRANSFER_S = 1.0
"""How long a leader that is asked to stop waits for another to take over."""
AGENTS_GRACE_S = 2.0
_TURN_ENDED = TurnEnded()
_DEADLINE = DeadlineReached()


class Process:
    """A node and the parts of the world it uses."""

    def __init__(self, settings: NodeSettings, on_ready: Callable[[dict[str, Any]], None]) -> None:
        self._settings = settings
        self._on_ready: Callable[[dict[str, Any]], None] | None = on_ready
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._turn_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._agents_ready = False
        settings.check()
        secret = settings.secret()
        config = settings.node_config(0, 0)
        self._store = Store(
            settings.directory, node_id=settings.id, cluster=config.cluster, post=self._post_from_thread
        )
        identity = Identity(
            node_id=settings.id,
            cluster=config.cluster,
            incarnation=self._store.incarnation,
            role="node",
            secret=secret,
        )
        try:
            self._transport = Transport(
                identity,
                bind=settings.bind,
                advertise=settings.address,
                deliver=self._deliver,
                turn_ended=self._end_turn,
                loop=self._loop,
            )
        except TransportRefused:
            self._store.close()
            raise
        self._agents = Agents(
            settings.apps,
            node_id=settings.id,
            slots=settings.slots,
            post=self._deliver,
            turn_ended=self._end_turn,
            peer_address=settings.address,
            log_dir=settings.directory,
            secret_file=settings.secret_file,
        )
        self._performer = Performer(self._store, self._transport, self._agents)

    async def run(self) -> int:
        """Serve until told to stop. Returns the exit code."""
        try:
            self._transport.bind()
            self._start_node()
        except (TransportRefused, StoreDamaged):
            self._transport.close()
            self._store.close()
            raise
        self._loop.set_exception_handler(self._on_exception)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)
        starting = self._loop.create_task(self._start_agents(), name="start agents")
        code = await self._ended
        await self._hand_over()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        await self._agents.stop(AGENTS_GRACE_S)
        self._transport.close()
        self._store.close()
        return code

    def _start_node(self) -> None:
        settings = self._settings
        recovered = self._store.recover()
        now_ms = _now_ms()
        epoch_ms = time.time_ns() // 1_000_000 - now_ms
        config = settings.node_config(self._store.incarnation, epoch_ms)
        self._node = Node(config, recovered, Random(SystemRandom().getrandbits(64)), now_ms)
        del recovered
        self._store.start()
        for name, address in config.voters:
            if name != settings.id:
                self._transport.dial(NodeId(name), address)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        if isinstance(self._loop, WatchedLoop):
            self._loop.watch.begin()
        self._end_turn()

    async def _start_agents(self) -> None:
        try:
            capabilities = await self._agents.start()
        except AgentsRefused as error:
            sentence, _, traceback = str(error).partition("\n")
            log = self._settings.directory / "agent.log"
            self._stop(1, f"{sentence} (its traceback is in {log})" if traceback else sentence)
            return
        LOG.info("offers %s", ", ".join(capabilities) or "no capability")
        self._agents_ready = True
        self._check_ready()

    # --- the loop's one circle: event, effects, deeds ---

    def _deliver(self, event: Event) -> None:
        if self._ended.done() and isinstance(event, DiskFailed):
            return
        try:
            self._perform(self._node.handle(event, _now_ms()))
        except AssertionError as error:
            self._stop(1, f"A broken invariant: {error}. This node stops before it does harm.")
            LOG.exception("broken invariant")
            raise
        if type(event) is DiskFailed:
            self._stop(1, f"The disk failed: {event.reason}")

    def _perform(self, wanted: list[Effect]) -> None:
        if wanted:
            self._performer.perform(wanted)

    def _end_turn(self) -> None:
        """Nothing more to read just now."""
        self._turn_due = False
        self._deliver(_TURN_ENDED)
        self._arm()
        if self._on_ready is not None:
            self._check_ready()

    def _post_from_thread(self, event: Event) -> None:
        """The disk reports, from a thread of its own."""
        try:
            self._loop.call_soon_threadsafe(self._from_disk, event)
        except RuntimeError:
            return  # The loop is closed: the process is ending.

    def _from_disk(self, event: Event) -> None:
        if type(event) is Durable:
            self._performer.durable(event.token)
        self._deliver(event)
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._end_turn)

    def _arm(self) -> None:
        """Keep one timer, for the node's next deadline. A later deadline lets the timer come early and look again."""
        deadline_ms = self._node.next_deadline_ms()
        if self._timer is not None:
            if self._timer_ms <= deadline_ms:
                return
            self._timer.cancel()
        self._timer_ms = deadline_ms
        self._timer = self._loop.call_later(max(0, deadline_ms - _now_ms()) / 1_000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if _now_ms() >= self._node.next_deadline_ms():
            self._count_stalls()
            self._deliver(_DEADLINE)
        self._arm()

    def _count_stalls(self) -> None:
        """Shown with the node's own counters."""
        if isinstance(self._loop, WatchedLoop):
            watch = self._loop.watch
            self._node.counters["loop_stall_ms_max"] = watch.longest_ms()
            self._node.counters[f"loop_stalls_over_{STALL_MS}_ms"] = watch.stalls

    # --- beginning and end ---

    def _check_ready(self) -> None:
        """Say once that this node serves: user code is loaded, and a leader is known."""
        leader = self._node.raft.leader_id
        if self._on_ready is None or not self._agents_ready or leader is None:
            return
        on_ready, self._on_ready = self._on_ready, None
        settings, config = self._settings, self._node.config
        on_ready(
            {
                "event": "ready",
                "id": settings.id,
                "address": settings.address,
                "pid": config.pid,
                "data_dir": str(settings.directory),
                "cluster": config.cluster,
                "leader": leader,
                "incarnation": config.incarnation,
            }
        )

    def _on_signal(self) -> None:
        if self._ended.done():
            raise KeyboardInterrupt  # Asked twice: now.
        self._stop(0, "asked to stop")

    def _stop(self, code: int, why: str) -> None:
        if not self._ended.done():
            if code:
                print(f"mesh: {why}", file=sys.stderr)
            else:
                LOG.info("stopping: %s", why)
            self._ended.set_result(code)

    async def _hand_over(self) -> None:
        """A leader that leaves asks another voter to take over, so that the mesh need not notice its absence."""
        raft = self._node.raft
        voters = raft.configuration.voter_ids
        others = [node_id for node_id, _, state in raft.peers() if state == "replicate" and node_id in voters]
        if not raft.serving or not others or not raft.transfer(others[0], _now_ms()):
            return
        self._end_turn()
        gone = self._loop.create_future()
        self._on_ready = None

        def look() -> None:
            if not gone.done():
                if raft.serving:
                    self._loop.call_later(0.01, look)
                else:
                    gone.set_result(None)

        look()
        try:
            async with asyncio.timeout(TRANSFER_S):
                await gone
        except TimeoutError:
            LOG.info("nobody took over in time")

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What no callback caught. Going on with half an event handled would be guessing."""
        LOG.error("%s", context.get("message"), exc_info=context.get("exception"))
        self._stop(1, f"An unexpected error: {context.get('exception')!r}. This node stops.")


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


async def run_node(settings: NodeSettings, *, on_ready: Callable[[dict[str, Any]], None]) -> int:
    """Run one node until it is told to stop.

    Returns:
        The exit code: 0 when told to stop, 1 when it cannot run or must not go on, 2 when its settings contradict each
        other. The reason is on stderr, in one sentence.
    """
    start_logging(settings.id)
    try:
        process = Process(settings, on_ready)
        return await process.run()
    except SettingsRefused as error:
        print(f"mesh: {error}", file=sys.stderr)
        return 2
    except (StoreRefused, StoreDamaged, TransportRefused) as error:
        print(f"mesh: {error}", file=sys.stderr)
        return 1
