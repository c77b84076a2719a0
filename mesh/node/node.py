"""One node without I/O: `handle(event, now_ms) -> effects`.

Joins the rooms: Raft orders opaque entries, the ledger gives them meaning, gossip says who is there, the leader's desk
(in office only) matches tasks with slots, the holder's keeps what runs here. Nothing below this room knows more than
one of them.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from mesh import events
from mesh.config import LEVEL, NodeConfig
from mesh.durable import Configuration, Entry, EntryKind, LedgerMark, Member, Recovered
from mesh.effects import Channel, Effect, Notice, Publish, Send
from mesh.gossip.detector import Detector
from mesh.ids import Incarnation, NodeId, Term
from mesh.ledger.intake import Intake, whole
from mesh.ledger.ledger import Ledger
from mesh.messages import (
    Append,
    AppendReply,
    CheckpointReport,
    Departing,
    Forward,
    Grants,
    Heartbeat,
    Knock,
    NodeReport,
    PreVote,
    PreVoteReply,
    Relay,
    Reports,
    ReportWanted,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotPull,
    Started,
    Stops,
    TimeoutNow,
    Vote,
    VoteReply,
)
from mesh.node.answers import Answers
from mesh.node.behind import Behind
from mesh.node.clients import ClientDesk
from mesh.node.holding import Holding
from mesh.node.leading import Leading
from mesh.node.leaving import Leaving
from mesh.node.lists import Lists
from mesh.node.many import Many
from mesh.node.membership import Membership
from mesh.node.orders import Orders
from mesh.node.sweeps import Sweeps
from mesh.node.transfers import Transfers, is_legible
from mesh.raft.replica import NO_OUTPUT, Replica
from mesh.wire.codec import Rubbish, decode_heartbeat, decode_peer, decode_summary, decode_task, encode

_RAFT = (Append, AppendReply, PreVote, PreVoteReply, Vote, VoteReply, TimeoutNow)
CTL_BYTES_MAX = 64 << 10
"""Larger messages go to the data port, so that a vote never waits behind them."""
TROUBLE_SHOWN_MS = 60_000
"""What was wrong at the start is shown for so long at least, though it may be put right in a second."""
HELD_MAX = 256
"""Leases listed in a heartbeat; more are only counted. With the longest ids they fit what a link takes as gossip."""


class Node:
    """Everything a node is, but for its clock, its dice, its sockets, its disk and its users' code."""

    def __init__(self, config: NodeConfig, recovered: Recovered, rng: Random, now_ms: int) -> None:
        self.config = config
        self.node_id = NodeId(config.node_id)
        self.now_ms = now_ms
        self.out: list[Effect] = []
        self.counters: dict[str, int] = {}
        founding = Configuration(tuple(Member(NodeId(name), address) for name, address in config.voters))
        self.raft = Replica(
            node_id=self.node_id,
            config=config.raft,
            recovered=recovered,
            founding=founding,
            configuration_data=encode(founding),
            rng=Random(rng.getrandbits(64)),
            now_ms=now_ms,
            mark=config.mark,
        )
        self._configuration = self.raft.configuration
        members = [(member.node_id, member.address) for member in self._configuration.members]
        self.ledger = Ledger()
        self._restore(recovered)
        self.detector = Detector(config.gossip, self.node_id, config.cluster, members, now_ms)
        self.behind = Behind(config, self.ledger, self.raft, now_ms)
        self.transfers = Transfers(config.incarnation, self.raft, self._may_install, self.ledger.leftovers)
        self.leading = Leading(self, Random(rng.getrandbits(64)))
        self.holding = Holding(self)
        self.answers = Answers(config, self.raft, self.ledger, self.detector, self.leading.dispatcher)
        self.clients = ClientDesk(self)
        self.lists = Lists(self)
        self.sweeps = Sweeps(self)
        self.orders = Orders(self)
        self.many = Many(self)
        self.membership = Membership(self)
        self.leaving = Leaving(self)
        self.trouble = config.trouble
        self.machine = (0, 0)
        """How busy its machine is: cores and memory, in thousandths."""
        self.versions: tuple[tuple[str, str], ...] = ()
        """Of its handlers, of those that have one."""
        self._started_ms = now_ms
        self._sequence = 0
        self._told: tuple[Term, NodeId | None] = (Term(0), None)
        self._beat_ms = now_ms
        self._deadline_ms = now_ms
        self._handlers = self._event_handlers()
        self._peer_handlers = self._message_handlers()
        self._pump()

    # --- the two verbs of the shell ---

    def handle(self, event: events.Event, now_ms: int) -> list[Effect]:
        """Take in one event. Returns what is asked of the world, in order."""
        self.now_ms = max(self.now_ms, now_ms)
        self._handlers[type(event)](event)
        self._pump()
        if not self.out:
            return []
        out, self.out = self.out, []
        return out

    def next_deadline_ms(self) -> int:
        """When to hand in DeadlineReached, if nothing else comes before."""
        deadline_ms = min(self.raft.next_deadline_ms(), self._beat_ms)
        for other in (
            self.detector.next_deadline_ms(),
            self.behind.next_deadline_ms(),
            self.transfers.next_deadline_ms(),
            self.holding.next_deadline_ms(),
            self.leaving.next_deadline_ms(),
            self.lists.next_deadline_ms(),
            self.sweeps.next_deadline_ms(),
            self.leading.next_deadline_ms(),
        ):
            if other is not None and other < deadline_ms:
                deadline_ms = other
        self._deadline_ms = deadline_ms
        return deadline_ms

    # --- what Raft decided ---

    def _pump(self) -> None:
        """Turn what Raft decided into effects and applied entries, until it has no more to say."""
        out, raft = self.out, self.raft
        while (output := raft.take()) is not NO_OUTPUT:
            out.extend(output.persists)
            encoded, data = None, b""
            for outgoing in output.outgoing:
                if outgoing.message is not encoded:  # The same message for several followers is encoded once.
                    encoded, data = outgoing.message, encode(outgoing.message)
                channel = Channel.CTL if len(data) <= CTL_BYTES_MAX else Channel.DATA
                out.append(Send(outgoing.to, channel, data, outgoing.after))
            for entry in output.committed:
                self._apply(entry)
            for read_id, index in output.reads:
                self.clients.waiting.confirm(read_id, index)
            for read_id in output.failed_reads:
                self.clients.read_failed(read_id)
            for peer in output.snapshots_needed:
                out.extend(self.transfers.offer(peer, self.now_ms))
            self.leading.check()
        self.leading.check()
        configuration = raft.configuration
        if configuration is not self.membership.settled:
            if configuration is not self._configuration:
                self._members_changed()
            self.membership.look()
        self.clients.answer_ready()
        told = (raft.term, raft.leader_id)
        if told != self._told:
            self._told = told
            self._leader_changed()

    def _apply(self, entry: Entry) -> None:
        """Give a committed entry its meaning. The leader acts on it; everybody learns what became of their own
        leases.
        """
        if entry.kind != EntryKind.COMMANDS:
            self.ledger.skip(entry.index, entry.term, entry.data)
            if entry.kind == EntryKind.CONFIGURATION:
                self.orders.configured(entry.index)
            return
        batch = self.leading.batch_of(entry)
        applied = self.ledger.apply(entry.index, entry.term, batch, entry.data)
        self.holding.applied(applied)
        if self.leading.dispatcher.in_office:
            self.leading.applied(applied, batch)

    def _members_changed(self) -> None:
        """Another configuration is in force: watch whoever came. If that is us, tell everybody at once that we are."""
        before, self._configuration = self._configuration, self.raft.configuration
        for member in self._configuration.members:
            self.detector.add(member.node_id, member.address, self.now_ms)
        for gone in before.members:
            if self._configuration.member(gone.node_id) is None:
                self.detector.remove(gone.node_id, self.now_ms)
        if self._configuration.member(self.node_id) is not None and before.member(self.node_id) is None:
            self.publish()

    def _leader_changed(self) -> None:
        self.clients.leader_changed()
        if self.raft.leader_id is not None:
            self.holding.leader_changed()

    # --- time ---

    def _end_turn(self) -> None:
        """Nothing more to read: send what this turn gathered."""
        if self.sweeps.waiting:  # What it finds may be proposed.
            self.sweeps.work()
        self.holding.end_turn()
        self.leading.end_turn()
        self.out.extend(self.behind.write(self.now_ms))
        if self.lists.waiting:
            self.lists.work()
        if self.ledger.leftovers:
            self.ledger.leftovers.let_go()

    def _on_deadline(self) -> None:
        now_ms = self.now_ms
        if self._has_overslept():
            # What others said meanwhile may be waiting to be read. Judge nobody before that.
            self.counters["late"] = self.counters.get("late", 0) + 1
            self.raft.was_late(now_ms)
            self.detector.was_late(now_ms)
        self.raft.tick(now_ms)
        self.leading.changed(self.detector.tick(now_ms))
        if now_ms >= self._beat_ms or self.detector.take_urgent():
            self.publish()
        self.holding.tick(now_ms)
        self.leaving.tick(now_ms)
        self.out.extend(self.transfers.tick(now_ms))
        self._end_turn()

    def _has_overslept(self) -> bool:
        """Whether our timer should have come long ago."""
        return self.now_ms - self._deadline_ms > self.config.gossip.lateness_ms_max

    # --- gossip ---

    def publish(self) -> None:
        """Tell everybody how we are."""
        now_ms = self.now_ms
        cpu_permille, memory_permille = self.machine
        is_over = now_ms >= self._started_ms + TROUBLE_SHOWN_MS and self.membership.has_caught_up
        if is_over and self.trouble == self.config.trouble:
            self.trouble = ""
        self._beat_ms = now_ms + self.config.gossip.beat_ms
        self._sequence += 1
        config, attempts, raft = self.config, self.holding.attempts, self.raft
        held = attempts.held()
        heartbeat = Heartbeat(
            cluster=config.cluster,
            node_id=self.node_id,
            incarnation=config.incarnation,
            sequence=self._sequence,
            address=config.address,
            pid=config.pid,
            slots=config.slots,
            running=self.holding.running_count,
            draining=self.leaving.is_leaving,
            capabilities=self.holding.capabilities,
            labels=config.labels,
            held=tuple(held[:HELD_MAX]),
            held_total=len(held),
            term=raft.term,
            leader=raft.leader_id,
            commit=raft.commit_index,
            applied=self.ledger.applied_index,
            digest=self.ledger.digest,
            views=self.detector.views(),
            trouble=self.trouble,
            mark=config.mark,
            protocol=config.protocol,
            levels=config.level,
            since=self.membership.since,
            kind=config.kind,
            cpu_permille=cpu_permille,
            memory_permille=memory_permille,
            versions=self.versions,
        )
        own = self.detector.member(self.node_id)
        assert own is not None, "the detector knows its own node"
        own.last, own.incarnation, own.heard_ms = heartbeat, Incarnation(config.incarnation), now_ms
        self.out.append(Publish(encode(heartbeat)))
        self.leading.heard(self.node_id, len(held))
        self.leading.judge()
        self.leading.ask_reports()
        self.membership.check()

    def _on_gossip(self, event: events.GossipReceived) -> None:
        try:
            heartbeat = decode_heartbeat(event.data)
        except Rubbish as error:
            self.count_rubbish("gossip", str(error))
            return
        member = self._configuration.member(heartbeat.node_id)
        if member is None:
            self.membership.heard_from_outside(heartbeat)
        is_other = member is not None and member.mark and heartbeat.mark and member.mark != heartbeat.mark
        if is_other or not self.detector.heard(heartbeat, self.now_ms):
            self.count("heartbeats_dropped")
            return
        self._compare(heartbeat)
        if not self._has_overslept():  # What the others said meanwhile may come right behind this one.
            self.leading.changed(self.detector.tick(self.now_ms))
        self.leading.heard(heartbeat.node_id, heartbeat.held_total)
        self.leading.judge()
        if self.detector.take_urgent():
            self.publish()

    def _compare(self, heartbeat: Heartbeat) -> None:
        """Tables must agree at every index. Who is wrong cannot be told from here, so the operator is told instead."""
        mine = self.ledger.digests.get(heartbeat.applied)
        if mine is None or mine == heartbeat.digest:
            return
        if "tables_differ" not in self.counters:
            text = f"{heartbeat.node_id} has another table than {self.node_id} at log index {heartbeat.applied}"
            self.out.append(Notice("tables_differ", text))
        self.count("tables_differ")

    def _on_link_up(self, event: events.LinkUp) -> None:
        self.detector.link_up(event.peer, Incarnation(event.incarnation), self.now_ms)
        self.raft.link_up(event.peer, self.now_ms)
        self.membership.link_up(event.peer, event.mark)
        if event.peer in self.leading.dispatcher.unreported():
            self.leading.ask_report(event.peer)

    def _on_link_down(self, event: events.LinkDown) -> None:
        self.detector.link_down(event.peer, self.now_ms)
        self.raft.link_down(event.peer, self.now_ms)
        if self.detector.take_urgent():
            self.publish()

    # --- messages of nodes ---

    def _on_peer(self, event: events.PeerMessage) -> None:
        try:
            message = decode_peer(event.data)
        except Rubbish as error:
            self.count_rubbish("peer_message", str(error))
            return
        self._peer_handlers[type(message)](event.peer, message)

    def _on_raft(self, peer: NodeId, message: Any) -> None:
        self.raft.receive(peer, message, self.now_ms)

    def _on_pull(self, peer: NodeId, message: SnapshotPull) -> None:
        self.out.extend(self.transfers.pulled(peer, message, self.now_ms))

    def _on_offer(self, peer: NodeId, message: SnapshotOffer) -> None:
        """Only of whom we follow, and only what can be read: our own table makes room for it."""
        if peer != self.raft.leader_id or message.term != self.raft.term or not is_legible(message.mark):
            self.count("offers_dropped")
            return
        self.out.extend(self.transfers.offered(peer, message, self.ledger.applied_index, self.now_ms))

    def _on_chunk(self, peer: NodeId, message: SnapshotChunk) -> None:
        try:
            self.out.extend(self.transfers.chunk(peer, message, self.now_ms))
        except Rubbish as error:
            self.count_rubbish("snapshot_chunk", str(error))

    def _on_ledger_written(self, event: events.LedgerWritten) -> None:
        self.out.extend(self.behind.written(event.applied_index, self.transfers.needed_after()))

    def _may_install(self, mark: LedgerMark) -> bool:
        """Nothing is written behind, and no entry taken, while the table is replaced."""
        self.behind.paused = self.raft.begin_install(mark)
        return self.behind.paused

    # --- disk ---

    def _on_installed(self, event: events.SnapshotInstalled) -> None:
        """A table from the leader has taken the place of ours. Its rows came in chunk by chunk."""
        mark = event.recovered.mark
        assert mark is not None, "what is installed stands somewhere"
        self._adopt(mark, self.transfers.installed())
        self.behind.replaced()
        self.raft.restored(event.recovered, self.now_ms)
        self.holding.reconcile()

    def _restore(self, recovered: Recovered) -> None:
        mark = recovered.mark
        if mark is None:
            return
        live = (decode_task(row.record) for row in recovered.live)
        self._adopt(mark, whole(live, recovered.finished, recovered.finished_last))

    def _adopt(self, mark: LedgerMark, intake: Intake) -> None:
        summary = decode_summary(mark.summary)
        level = summary.registry.level
        assert level <= LEVEL, f"the table is of level {level}, this release knows {LEVEL}; upgrade it"
        self.ledger.restore(mark.applied_index, mark.applied_term, mark.digest, summary, intake)

    def _on_disk_failed(self, event: events.DiskFailed) -> None:
        """What is on disk is not known any more: never vote or lead again."""
        self.raft.disk_failed()
        self.out.append(Notice("disk_failed", event.reason))
        self.trouble = f"The disk failed: {event.reason}"
        self.publish()

    # --- odds and ends of the shell ---

    def _on_agents(self, event: events.AgentsReady) -> None:
        if (event.capabilities, event.versions) != (self.holding.capabilities, self.versions):
            self.holding.capabilities, self.versions = event.capabilities, event.versions
            self.publish()

    def _on_machine(self, event: events.MachineMeasured) -> None:
        self.machine = (event.cpu_permille, event.memory_permille)

    def address_of(self, node_id: NodeId) -> str:
        """Where a node listens: HOST:PORT. Empty if it is not known here: our configuration may be out of date."""
        member = self.detector.member(node_id)
        if member is None:
            return ""
        return member.address if member.last is None else member.last.address

    def count(self, what: str, how_many: int = 1) -> None:
        self.counters[what] = self.counters.get(what, 0) + how_many

    def counted(self) -> dict[str, int]:
        """What was dropped and refused here since the start, by name."""
        elsewhere = {"raft_messages_dropped": self.raft.dropped, "grants_from_past_term": self.holding.attempts.refused}
        return self.counters | {what: how_many for what, how_many in elsewhere.items() if how_many}

    def count_rubbish(self, where: str, why: str) -> None:
        """A peer sent what no correct peer sends: counted, told the operator once, otherwise ignored."""
        what = f"rubbish_{where}"
        if what not in self.counters:
            self.out.append(Notice(what, why))
        self.count(what)

    def _event_handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            events.PeerMessage: self._on_peer,
            events.ClientMessage: self.clients.message,
            events.GossipReceived: self._on_gossip,
            events.LinkUp: self._on_link_up,
            events.LinkDown: self._on_link_down,
            events.Knocked: self.membership.knocked,
            events.TurnedAway: self.membership.turned_away,
            events.Leave: self.leaving.asked,
            events.ClientGone: lambda event: self.clients.gone(event.client),
            events.Durable: lambda event: self.raft.durable(event.token, self.now_ms),
            events.LedgerWritten: self._on_ledger_written,
            events.TurnEnded: lambda event: self._end_turn(),
            events.DeadlineReached: lambda event: self._on_deadline(),
            events.AgentsReady: self._on_agents,
            events.MachineMeasured: self._on_machine,
            events.AttemptsStarted: lambda event: self.holding.attempts.started(event.leases),
            events.AttemptsEnded: lambda event: self.holding.attempts.ended(event.outcomes),
            events.CheckpointOffered: self.holding.on_checkpoint,
            events.RowsLoaded: self.clients.rows_loaded,
            events.HistoryLoaded: self.clients.history_loaded,
            events.SnapshotOpened: lambda event: self.out.extend(
                self.transfers.opened(event, self.raft.term, self.now_ms)
            ),
            events.SnapshotRead: lambda event: self.out.extend(self.transfers.read(event)),
            events.SnapshotStaged: lambda event: self.out.extend(self.transfers.staged(event, self.now_ms)),
            events.SnapshotInstalled: self._on_installed,
            events.DiskFailed: self._on_disk_failed,
        }

    def _message_handlers(self) -> dict[type, Callable[[NodeId, Any], None]]:
        handlers: dict[type, Callable[[NodeId, Any], None]] = dict.fromkeys(_RAFT, self._on_raft)
        handlers |= {
            Grants: self.holding.on_grants,
            Stops: self.holding.on_stops,
            ReportWanted: self.holding.on_report_wanted,
            Reports: self.leading.on_reports,
            Started: self.leading.on_started,
            CheckpointReport: self.leading.on_checkpoint_report,
            NodeReport: self.leading.on_node_report,
            Forward: self.clients.forwarded,
            Relay: lambda peer, message: self.clients.relayed(message),
            Knock: self.membership.on_knock,
            Departing: self.leaving.on_departing,
            SnapshotOffer: self._on_offer,
            SnapshotPull: self._on_pull,
            SnapshotChunk: self._on_chunk,
        }
        return handlers
