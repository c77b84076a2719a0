"""Safeguards of membership and of damaged disks, removed one at a time; see ablations.py."""

from typing import Any

import msgspec

from mesh import admission
from mesh.admission import Verdict
from mesh.dispatch import verdicts as dispatch_verdicts
from mesh.durable import Configuration, EntryKind
from mesh.gossip.members import Health
from mesh.ids import LogIndex
from mesh.ledger import commands, ledger, verdicts
from mesh.node import membership
from mesh.node.membership import Membership
from mesh.raft import commit, configuration, replica
from mesh.raft.configuration import ConfigurationHistory
from mesh.raft.replica import Replica, Role
from mesh.raft.state import ReplicaState
from mesh.sim.ablation import Ablation, Replacement
from mesh.sim.disk import Disk


def _commit_at(s: Any, held: list[int], needed: int) -> None:
    """Commit what `needed` of these have."""
    match = sorted(held, reverse=True)[needed - 1] if len(held) >= needed else 0
    if match > s.commit_index and s.log.term_at(match) == s.term:
        s.uncommitted_bytes -= sum(len(entry.data) for entry in s.log.between(s.commit_index, match))
        s.commit_index = LogIndex(match)


def _held_by(s: Any, node_ids: Any) -> list[int]:
    return [
        s.journal.durable_index if node_id == s.node_id else s.peers[node_id].match
        for node_id in node_ids
        if node_id == s.node_id or node_id in s.peers
    ]


def _learners_acks_count() -> list[Replacement]:
    def advance(s: Any) -> None:
        latest = s.log.configurations.latest
        held = _held_by(s, [member.node_id for member in latest.members])
        _commit_at(s, held, len(latest.voters) // 2 + 1)

    return [(commit, "advance", advance)]


def _removed_voters_acks_count() -> list[Replacement]:
    def advance(s: Any) -> None:
        configurations = s.log.configurations
        counted = dict.fromkeys(configurations.voter_ids)
        for _, earlier in configurations._history[:-1]:
            counted.update(dict.fromkeys(earlier.voter_ids))
        _commit_at(s, _held_by(s, counted), len(configurations.voter_ids) // 2 + 1)

    return [(commit, "advance", advance)]


def _in_force_when_committed() -> list[Replacement]:
    def advance(s: Any) -> None:
        voter_ids = s.log.configurations.at(s.commit_index).voter_ids
        _commit_at(s, _held_by(s, voter_ids), len(voter_ids) // 2 + 1)

    return [(commit, "advance", advance)]


def _propose(*, alone: bool, serving: bool) -> Any:
    """Replica.propose without one of its two questions about configurations."""
    honest = Replica.propose

    def propose(self: Any, kind: int, data: bytes, now_ms: int) -> Any:
        s = self._s
        changed = configuration.decode(data) if kind == EntryKind.CONFIGURATION else None
        if changed is None or s.role is not Role.LEADER or s.transfer_target is not None:
            return honest(self, kind, data, now_ms)
        if (alone and self.is_configuring) or (serving and not self.serving):
            return None
        s.now_ms = now_ms
        index = s.append_own(kind, data)
        s.sync_peers()
        return index

    return propose


def _two_changes_at_once() -> list[Replacement]:
    def check(self: Any) -> None:
        node = self._node
        if node.leading.dispatcher.in_office:
            facts = self.facts()
            changed = membership.next_change(node.raft.configuration, facts, node.config.membership)
            if changed is not None:
                self.propose(changed)

    return [(Replica, "propose", _propose(alone=False, serving=True)), (Membership, "check", check)]


def _change_before_own_commit() -> list[Replacement]:
    def check(self: Any) -> None:
        node = self._node
        if node.raft.role is Role.LEADER and not node.raft.is_configuring:
            facts = self.facts()
            changed = membership.next_change(node.raft.configuration, facts, node.config.membership)
            if changed is not None:
                self.propose(changed)

    return [(Replica, "propose", _propose(alone=True, serving=False)), (Membership, "check", check)]


def _not_rolled_back() -> list[Replacement]:
    return [(ConfigurationHistory, "truncate", lambda history, from_index: None)]


def _marks_not_judged() -> list[Replacement]:
    honest = admission.judge

    def judge(roll: Any, standing: Any) -> Verdict:
        known = any(member.node_id == standing.node_id for member in roll.members)
        return Verdict.ACCEPTED if known else honest(roll, standing)

    return [(admission, "judge", judge)]


def _removed_log_returns() -> list[Replacement]:
    def judge(roll: Any, standing: Any) -> Verdict:
        verdict = honest(roll, standing)
        return Verdict.STRANGER if verdict is Verdict.REMOVED else verdict

    def made(before: Configuration, voters: Any, learners: Any, forgotten: str = "") -> Configuration:
        return Configuration(voters, learners)

    honest = admission.judge
    return [(admission, "judge", judge), (configuration, "_made", made)]


def _replaced_stays_voter() -> list[Replacement]:
    honest = configuration.with_learner

    def with_learner(now: Configuration, learner: Any) -> Configuration:
        known = now.member(learner.node_id)
        if known is None or learner.node_id not in now.voter_ids:
            return honest(now, learner)
        voters = tuple(learner if voter.node_id == learner.node_id else voter for voter in now.voters)
        return msgspec.structs.replace(now, voters=voters, forgotten=(*now.forgotten, known.mark))

    return [(membership, "with_learner", with_learner), (replica, "is_single_change", lambda old, new: True)]


def _learners_campaign() -> list[Replacement]:
    def is_voter(s: Any) -> bool:
        return s.node_id in s.log.configurations.members

    return [(ReplicaState, "is_voter", property(is_voter))]


def _damage_not_noticed() -> list[Replacement]:
    return [(Disk, "is_whole", property(lambda disk: True))]


def _leaving_charges() -> list[Replacement]:
    def leave(table: Any, command: Any, position: int) -> int:
        for task in table.holder_leases(command.node_id).values():
            task.attempts += 1
        return verdicts.leave(table, command, position)

    return [(ledger._HANDLERS, "LeaveNode", leave)]


def _left_comes_back() -> list[Replacement]:
    def may_return(node: Any, incarnation: int) -> bool:
        return incarnation > node.incarnation or (incarnation == node.incarnation and not node.active)

    def due(table: Any, detector: Any, reasons: Any) -> Any:
        admitted = [
            commands.AdmitNode(member.node_id, member.incarnation)
            for member in detector.members()
            if member.node_id in table.nodes
            and table.nodes[member.node_id].left
            and table.nodes[member.node_id].incarnation == member.incarnation
            and member.health == Health.HEALTHY
        ]
        return honest(table, detector, reasons) + admitted

    honest = dispatch_verdicts.due
    return [(verdicts, "_may_return", may_return), (dispatch_verdicts, "due", due)]


_CHURN = {"churn": 600, "partition": 1_500, "crash": 2_000}
_LOSS = {"wipe": 1_500, "damage": 3_000, "crash": 2_000}

MEMBERSHIP: dict[str, Ablation] = {
    "two-changes-at-once": Ablation(
        "a configuration is proposed before the last one is committed", _two_changes_at_once
    ),
    "change-before-own-commit": Ablation(
        "a leader changes the configuration before it has committed an entry of its own term", _change_before_own_commit
    ),
    "configuration-not-rolled-back": Ablation(
        "a configuration stays in force when its entry is cut", _not_rolled_back, _CHURN, 5, 2
    ),
    "in-force-when-committed": Ablation(
        "who counts is taken from the committed configuration, not from the latest", _in_force_when_committed
    ),
    "learner-ack-counts": Ablation("a learner's acknowledgement counts for a majority", _learners_acks_count),
    "removed-ack-counts": Ablation(
        "the acknowledgement of one whose vote was taken counts", _removed_voters_acks_count, _CHURN, 5, 2
    ),
    "learners-campaign": Ablation("a learner stands for election", _learners_campaign),
    "marks-not-judged": Ablation("a node that lost its disk is taken for what it was", _marks_not_judged, _LOSS, 3),
    "removed-log-returns": Ablation("a log that was removed is let in again", _removed_log_returns, _CHURN, 5, 2),
    "replaced-stays-voter": Ablation("a node that lost its disk keeps its vote", _replaced_stays_voter),
    "damage-not-noticed": Ablation("a node starts from a log that is not what it was", _damage_not_noticed, _LOSS, 3),
    "leaving-charges": Ablation("an attempt that a leaving node gives back is charged", _leaving_charges),
    "left-comes-back": Ablation("a node that left is admitted again in the same life", _left_comes_back),
}
