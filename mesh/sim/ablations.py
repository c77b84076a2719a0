"""One safeguard removed at a time, from outside and only here, to show that the simulator would notice.

Each ablation replaces one function by a mistake that somebody once made, runs seeds until an invariant breaks, and puts
everything back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from mesh.config import MembershipConfig
from mesh.dispatch.placement import Placement
from mesh.effects import NOTHING, Reply
from mesh.execution.attempts import Attempts, Running
from mesh.ids import ClientId, LogIndex, Term
from mesh.ledger import commands, completion, ending, lease, leasing, ledger, verdicts
from mesh.ledger.table import Table
from mesh.ledger.task import COMPLETED, RUNNING
from mesh.messages import Accepted
from mesh.node.behind import Behind
from mesh.node.clients import CLIENTS_PER_START, ClientDesk
from mesh.node.holding import Holding
from mesh.node.leading import Leading
from mesh.raft import commit, election, reads, replication
from mesh.raft.journal import Journal
from mesh.raft.log import Log
from mesh.raft.replica import Replica, Role
from mesh.sim.ablation import Ablation, Found, Replacement
from mesh.sim.ablations_membership import MEMBERSHIP
from mesh.sim.ablations_scheduling import SCHEDULING
from mesh.sim.campaign import shrink, smallest
from mesh.sim.plan import Plan, calm, draw
from mesh.sim.world import run_seed

_TRIPS = (LookupError, TypeError, AttributeError, ValueError, RecursionError)
"""How the rest of the code may trip over a missing safeguard."""


@contextmanager
def removed(name: str) -> Iterator[None]:
    """The safeguard of this name is gone while the context lasts."""
    kept: list[tuple[Any, Any, Any]] = []
    try:
        for where, key, instead in ABLATIONS[name].replace():
            if isinstance(where, dict):
                key = getattr(commands, key)
                kept.append((where, key, where[key]))
                where[key] = instead
            else:
                kept.append((where, key, where.__dict__[key]))
                setattr(where, key, instead)
        yield
    finally:
        for where, key, before in reversed(kept):
            if isinstance(where, dict):
                where[key] = before
            else:
                setattr(where, key, before)


def plan_for(name: str, seed: int) -> Plan:
    """The seed's own plan, or one stirred for what the ablation needs."""
    ablation = ABLATIONS[name]
    if ablation.nodes:
        return calm(
            seed,
            ablation.nodes,
            faults=ablation.stirred,
            safety_ms=40_000,
            tasks_max=200,
            membership=MembershipConfig(replace_after_ms=2_000),
            spare_ids=tuple(f"n{ablation.nodes + number + 1}" for number in range(ablation.spares)),
        )
    plan = draw(seed)
    return msgspec.structs.replace(plan, faults={**plan.faults, **ablation.stirred})


def find(name: str, seeds_max: int = 1_000, first: int = 0, tries_max: int = 0) -> Found:
    """Run seeds without the safeguard until an invariant breaks, or whatever is left of the code trips over itself.

    The failure is made smaller in up to `tries_max` runs more.
    """
    says = ABLATIONS[name].says
    with removed(name):
        for tried in range(1, seeds_max + 1):
            try:
                verdict = run_seed(first + tried - 1, plan_for(name, first + tried - 1))
            except _TRIPS as error:
                trip = f"{type(error).__name__}: {error}"
                break
            if verdict.invariant:
                story = _smallest(name, first + tried - 1, tries_max) if tries_max else ""
                return Found(name, says, tried, verdict.invariant, verdict.detail, tried, story)
        else:
            return Found(name, says, 0, "", "", seeds_max)
    run_seed(first + tried - 1, plan_for(name, first + tried - 1))  # With the safeguard in place it must not trip.
    return Found(name, says, tried, "the code trips over itself", trip, tried)


def _smallest(name: str, seed: int, tries_max: int) -> str:
    try:
        return smallest(*shrink(seed, plan_for(name, seed), tries_max))
    except _TRIPS:
        return ""


# --- Raft -------------------------------------------------------------------------------------------------------------


def _vote_not_persisted() -> list[Replacement]:
    return [(Journal, "hard_state_changed", lambda journal: None)]


def _ack_before_durable() -> list[Replacement]:
    return [(Journal, "after_entry", lambda journal, index, log: journal.after_hard_state())]


def _vote_before_durable() -> list[Replacement]:
    return [(Journal, "after_hard_state", lambda journal: NOTHING)]


def _leader_counts_itself_early() -> list[Replacement]:
    def advance(s: Any) -> None:
        held = [
            s.log.last_index if voter == s.node_id else s.peers[voter].match for voter in s.log.configurations.voter_ids
        ]
        match = commit.quorum_value(held)
        if match > s.commit_index and s.log.term_at(match) == s.term:
            s.uncommitted_bytes -= sum(len(entry.data) for entry in s.log.between(s.commit_index, match))
            s.commit_index = LogIndex(match)

    return [(commit, "advance", advance)]


def _older_term_by_counting() -> list[Replacement]:
    def advance(s: Any) -> None:
        held = [
            s.journal.durable_index if voter == s.node_id else s.peers[voter].match
            for voter in s.log.configurations.voter_ids
        ]
        match = commit.quorum_value(held)
        if match > s.commit_index:
            s.uncommitted_bytes -= sum(len(entry.data) for entry in s.log.between(s.commit_index, match))
            s.commit_index = LogIndex(match)

    return [(commit, "advance", advance)]


def _votes_without_identity() -> list[Replacement]:
    def on_vote_reply(s: Any, sender: Any, message: Any, now_ms: int) -> None:
        if message.term > s.term:
            election.become_follower(s, message.term, None, now_ms)
        elif message.term == s.term and s.role is Role.CANDIDATE and message.granted:
            s.votes[f"vote {len(s.votes)}"] = True
            if len(s.votes) > len(s.log.configurations.voter_ids) // 2:
                election.become_leader(s, now_ms)

    return [(election, "on_vote_reply", on_vote_reply)]


def _unconditional_truncation() -> list[Replacement]:
    def merge(s: Any, entries: Any) -> None:
        log = s.log
        fresh = [entry for entry in entries if entry.index > log.before_index]
        if fresh and fresh[0].index <= log.last_index:
            log.truncate(fresh[0].index)
            s.journal.truncated(fresh[0].index)
        for entry in fresh:
            log.append(entry)

    return [(replication, "_merge", merge)]


def _unvalidated_commit() -> list[Replacement]:
    def learn(s: Any, leader_commit: int, validated: int) -> None:
        s.commit_index = LogIndex(max(s.commit_index, min(leader_commit, s.log.last_index)))

    return [(commit, "learn", learn)]


def _vote_for_a_shorter_log() -> list[Replacement]:
    return [(Log, "is_up_to_date", lambda log, last_index, last_term: True)]


def _serving_before_its_no_op() -> list[Replacement]:
    return [(Replica, "serving", property(lambda replica: replica.role is Role.LEADER))]


def _reads_without_a_round() -> list[Replacement]:
    def start_waiting(s: Any) -> None:
        s.reads_confirmed.extend((read_id, s.commit_index) for read_id in s.reads_waiting)
        s.reads_waiting = []

    return [(reads, "start_waiting", start_waiting)]


def _pre_vote_takes_the_term() -> list[Replacement]:
    honest = election.on_pre_vote

    def on_pre_vote(s: Any, sender: Any, message: Any, now_ms: int) -> None:
        if message.term > s.term:
            election.become_follower(s, Term(message.term), None, now_ms)
        honest(s, sender, message, now_ms)

    return [(election, "on_pre_vote", on_pre_vote)]


def _log_trimmed_too_far() -> list[Replacement]:
    honest = Behind.write

    def write(behind: Any, now_ms: int) -> Any:
        effects = honest(behind, now_ms)
        return effects + behind.written(behind._ledger.applied_index) if effects else effects

    return [(Behind, "write", write)]


# --- ledger -----------------------------------------------------------------------------------------------------------


def _token_not_checked() -> list[Replacement]:
    def complete(table: Any, command: Any, position: int) -> int:
        task = table.tasks.get(command.task_id)
        token = command.token if task is None else task.token
        return completion.complete(table, commands.CompleteTask(command.task_id, token, command.result), position)

    return [(ledger._HANDLERS, "CompleteTask", complete)]


def _lease_survives_its_node() -> list[Replacement]:
    return [(verdicts, "lose_leases", lambda table, node_id, why: None)]


def _submits_not_recognised() -> list[Replacement]:
    return [(Table, "is_same", lambda table, spec: None)]


def _retry_charges_nothing() -> list[Replacement]:
    def fail(table: Any, command: Any, position: int) -> int:
        task = table.tasks.get(command.task_id)
        if task is not None and task.state == RUNNING and task.token == command.token:
            task.attempts = max(task.attempts - 1, 1)
        return completion.fail(table, command, position)

    return [(ledger._HANDLERS, "FailAttempt", fail)]


def _checkpoints_go_back() -> list[Replacement]:
    def checkpoint(table: Any, command: Any, position: int) -> int:
        task = lease.leased(table, command.task_id, command.token)
        if task is not None:
            task.checkpoint_sequence = 0
        return leasing.checkpoint(table, command, position)

    return [(ledger._HANDLERS, "SaveCheckpoint", checkpoint)]


def _dead_without_a_reason() -> list[Replacement]:
    honest = ending.bury

    def bury(table: Any, task: Any, reason: str) -> None:
        honest(table, task, "")
        task.error = ""

    return [(ending, "bury", bury)]


def _finished_twice() -> list[Replacement]:
    honest = Table.finish

    def finish(table: Any, task: Any, state: int) -> None:
        honest(table, task, state)
        if state == COMPLETED:
            table.finished[task.spec.task_id] = 0
            table.tasks[task.spec.task_id] = task

    return [(Table, "finish", finish)]


# --- node -------------------------------------------------------------------------------------------------------------


def _followers_perform_effects() -> list[Replacement]:
    honest = Holding.applied

    def applied(holding: Any, result: Any) -> None:
        honest(holding, result)
        node = holding._node
        if not node.leading.dispatcher.in_office:
            for task in result.granted:
                node.leading._send_grants(task.node_id, [task.attempt_order(2)])

    return [(Holding, "applied", applied)]


def _dispatch_ignores_slots() -> list[Replacement]:
    def choose(placement: Any, candidates: Any) -> Any:
        for candidate in candidates:
            candidate.slots = 1_000
        return candidates[0] if candidates else None

    return [(Placement, "choose", choose)]


def _grants_not_remembered() -> list[Replacement]:
    def grant(attempts: Any, term: Any, orders: Any) -> Any:
        fresh = [order for order in orders if order.task_id not in attempts.running]
        attempts.running.update((order.task_id, Running(order.token)) for order in fresh)
        return fresh, []

    return [(Attempts, "grant", grant)]


def _grants_for_another_life() -> list[Replacement]:
    def on_grants(holding: Any, peer: Any, message: Any) -> None:
        mine = msgspec.structs.replace(message, incarnation=holding._node.config.incarnation)
        honest(holding, peer, mine)

    honest = Holding.on_grants
    return [(Holding, "on_grants", on_grants)]


def _outcome_told_once() -> list[Replacement]:
    return [
        (Holding, "leader_changed", lambda holding: None),
        (Holding, "tick", lambda holding, now_ms: setattr(holding, "_resend_ms", now_ms + 1_000)),
        (Attempts, "settle", lambda attempts, task_id, token: None),
        (Holding, "on_report_wanted", lambda holding, peer, message: None),
    ]


def _accepted_before_committed() -> list[Replacement]:
    honest = ClientDesk._submit

    def submit(desk: Any, client: Any, request: Any) -> None:
        honest(desk, client, request)
        from_here = [spec.task_id for spec in request.specs if spec.task_id in desk.waiting.accepting]
        if from_here:
            desk.tell(client, Accepted(LogIndex(desk._node.raft.last_index + 1), from_here))

    return [(ClientDesk, "_submit", submit)]


def _answers_for_another_life() -> list[Replacement]:
    def relayed(desk: Any, message: Any) -> None:
        desk._node.out.append(Reply(ClientId(message.client % CLIENTS_PER_START), message.data))

    return [(ClientDesk, "relayed", relayed)]


def _slots_not_guarded() -> list[Replacement]:
    def hand_over(attempts: Any, orders: Any, slots: int) -> Any:
        return [order for order in orders if order.task_id in attempts.running], []

    return [(Attempts, "hand_over", hand_over), (Leading, "_send_stops", lambda leading, peer, leases: None)]


ABLATIONS: dict[str, Ablation] = {
    "vote-not-persisted": Ablation("term and vote never reach the disk", _vote_not_persisted),
    "vote-before-durable": Ablation("a vote leaves before it is on disk", _vote_before_durable),
    "ack-before-durable": Ablation("an append is acknowledged before it is on disk", _ack_before_durable),
    "leader-counts-early": Ablation(
        "the leader counts itself before its own disk has the entry", _leader_counts_itself_early
    ),
    "older-term-by-counting": Ablation(
        "an earlier term's entry is committed by counting (figure 8)", _older_term_by_counting
    ),
    "votes-without-identity": Ablation(
        "each vote that arrives counts, doubled ones too",
        _votes_without_identity,
        {"duplicate": 500, "partition": 1_500, "bridge": 3_000},
        5,
    ),
    "unconditional-truncation": Ablation("an append cuts all that follows it", _unconditional_truncation),
    "unvalidated-commit": Ablation("a follower commits what the leader has, validated or not", _unvalidated_commit),
    "vote-for-shorter-log": Ablation("a vote goes to a candidate whose log lacks entries", _vote_for_a_shorter_log),
    "serving-too-early": Ablation("a leader serves before its own-term no-op is applied", _serving_before_its_no_op),
    "reads-without-round": Ablation(
        "a read is answered without asking a majority first",
        _reads_without_a_round,
        {"sleeping_leader": 3_000},
        3,
    ),
    "pre-vote-takes-term": Ablation("a pre-vote request changes the term of who is asked", _pre_vote_takes_the_term),
    "log-trimmed-too-far": Ablation(
        "the log is trimmed when the table is written, not when it is durable", _log_trimmed_too_far
    ),
    "token-not-checked": Ablation("a completion counts under any fencing token", _token_not_checked),
    "lease-survives-node": Ablation("the leases of a failed node go on", _lease_survives_its_node),
    "submit-not-recognised": Ablation("a repeated submit makes another task", _submits_not_recognised),
    "retry-charges-nothing": Ablation("a failed attempt is not charged", _retry_charges_nothing),
    "checkpoints-go-back": Ablation("an older checkpoint replaces a newer one", _checkpoints_go_back),
    "dead-without-reason": Ablation("a dead letter forgets why", _dead_without_a_reason),
    "finished-stays-live": Ablation("a completed task stays in the table of live ones", _finished_twice),
    "followers-perform-effects": Ablation("followers hand out leases too", _followers_perform_effects),
    "dispatch-ignores-slots": Ablation("tasks are granted beyond a node's slots", _dispatch_ignores_slots),
    "grants-not-remembered": Ablation("a grant that comes again is run again", _grants_not_remembered),
    "grants-for-another-life": Ablation(
        "a grant meant for an earlier process of the node is run",
        _grants_for_another_life,
        {"crash": 800, "replay": 300},
        3,
    ),
    "answers-for-another-life": Ablation(
        "an answer for a client of an earlier process goes to whoever has its number now",
        _answers_for_another_life,
        {"crash": 1_500},
    ),
    "outcome-told-once": Ablation("an outcome is told once and not again", _outcome_told_once),
    "accepted-before-committed": Ablation(
        "a client is told accepted when the submit is proposed", _accepted_before_committed
    ),
    "slots-not-guarded": Ablation(
        "a node is not told what is over, and starts whatever it is granted",
        _slots_not_guarded,
    ),
    **MEMBERSHIP,
    **SCHEDULING,
}


# --- the table in tests/sim/README.md ---------------------------------------------------------------------------------

BEGIN, END = "<!-- ablations begin -->", "<!-- ablations end -->"


def table(found: list[Found]) -> str:
    """The results as Markdown."""
    lines = [
        "| safeguard removed | what is broken | found after | by invariant | made as small as |",
        "|---|---|---|---|---|",
    ]
    for result in found:
        after = f"{result.seeds} seed{'s' if result.seeds > 1 else ''}" if result.seeds else f"not in {result.tried}"
        lines.append(f"| `{result.name}` | {result.says} | {after} | {result.invariant} | {result.story} |")
    return "\n".join(lines)


def with_table(text: str, rows: str) -> str:
    """The text with the table between its marks replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{rows}\n{END}{after}"
