"""Invariant 15: who may take part, and how that changes. One function each; each raises Violation.

A log is named by its mark. A founder whose configuration has no mark yet means the first log under its name.
"""

from mesh.config import VOTERS_MAX
from mesh.durable import Configuration, Member
from mesh.raft.state import ReplicaState
from mesh.sim.disk import Disk, mark_of
from mesh.sim.record import Record, Seen
from mesh.sim.violation import Violation

NUMBER = "15 configuration rules"


def well_formed(node_id: str, configuration: Configuration) -> None:
    """There is a voter and there are not too many; nobody is named twice; no log that was removed is let in."""
    members = configuration.members
    names = [member.node_id for member in members]
    if not 0 < len(configuration.voters) <= VOTERS_MAX or len(set(names)) != len(names):
        raise Violation(NUMBER, f"{node_id} holds a configuration nobody can run under: {configuration}")
    if any(member.mark and member.mark in configuration.forgotten for member in members):
        raise Violation(NUMBER, f"{node_id} holds a configuration with a log that was removed: {configuration}")


def one_voter_apart(node_id: str, before: Configuration, after: Configuration) -> None:
    """Of two configurations that follow each other in a log, one has at most one voter more or less. A voter with
    another log is another voter.
    """
    old = {(member.node_id, mark_of(member)) for member in before.voters}
    new = {(member.node_id, mark_of(member)) for member in after.voters}
    if len(old ^ new) > 1:
        raise Violation(NUMBER, f"{node_id} goes from {before} to {after}: more than one voter at once")


def proposed_in_turn(node_id: str, s: ReplicaState, before_index: int) -> None:
    """A leader proposes a configuration once the one before is committed, and an entry of its own term."""
    if before_index > s.commit_index:
        raise Violation(
            NUMBER,
            f"{node_id} proposes a configuration at {s.log.configurations.index} while the one at {before_index} "
            f"is not committed, {s.commit_index} is",
        )
    if s.log.term_at(s.commit_index) != s.term:
        raise Violation(
            NUMBER,
            f"{node_id} proposes a configuration at {s.log.configurations.index} in term {s.term}, with nothing of "
            f"that term committed: {s.commit_index} is of term {s.log.term_at(s.commit_index)}",
        )


def configuration_seen(node_id: str, s: ReplicaState, seen: Seen, *, is_leader: bool) -> None:
    """A node has another configuration in force than it was last seen with."""
    configurations = s.log.configurations
    if configurations.latest.members:
        well_formed(node_id, configurations.latest)
    history = configurations._history
    if len(history) > 1 and history[-2][1].voters:  # Who joins begins with nobody.
        before_index, before = history[-2]
        one_voter_apart(node_id, before, configurations.latest)
        is_mine = s.log.term_at(configurations.index) == s.term
        if is_leader and is_mine and configurations.index > seen.configuration_index:
            proposed_in_turn(node_id, s, before_index)


def configuration_committed(record: Record, index: int, configuration: Configuration, disks: dict[str, Disk]) -> None:
    """The next configuration is committed: it is one step from the last, and brings no log back that was gone."""
    before = record.configurations[-1][1] if record.configurations else None
    well_formed("the log", configuration)
    if before is not None:
        one_voter_apart("the log", before, configuration)
        stay = {mark_of(member) for member in configuration.members}
        # Who is removed before its log has a name cannot be told from somebody new when it knocks. It comes as such,
        # as a learner, and takes from nobody what its log has: nothing it voted for is undone by that.
        record.gone.update(
            {member.mark: member.node_id for member in before.members if member.mark and member.mark not in stay}
        )
        _count(record, before, configuration, disks)
    for member in configuration.members:
        mark = mark_of(member)
        if mark in record.gone:
            raise Violation(NUMBER, f"entry {index} lets {member} in again, whose log was removed or replaced")
        if record.bound.setdefault(mark, member.node_id) != member.node_id:
            raise Violation(NUMBER, f"entry {index} binds {mark} to {member.node_id}, it was {record.bound[mark]}'s")
    record.configurations.append((index, configuration))


def _count(record: Record, before: Configuration, after: Configuration, disks: dict[str, Disk]) -> None:
    """What has happened by this change."""
    add = record.coverage.add
    add("configuration changed")
    if any(member.mark for member in after.members) and not any(member.mark for member in before.members):
        add("logs named")
    for member in after.members:
        known = before.member(member.node_id)
        if known is None:
            add("member taken in")
        if known is None or mark_of(known) != mark_of(member):
            disk = disks[member.node_id]
            if disk.mark == mark_of(member) and disk.loss:
                add(f"{disk.loss} node came back")
    for member in before.members:
        if after.member(member.node_id) is None:
            add("node forgotten")
    leaders = [
        record.leaders[term] for term in sorted(record.leaders)[-2:]
    ]  # A leader hands over before it is removed.
    for voter in before.voters:
        kept = after.member(voter.node_id)
        if kept is not None and mark_of(kept) != mark_of(voter):
            add("voter replaced")
        elif voter.node_id not in after.voter_ids:
            add("voter removed")
        if voter.node_id in leaders and voter.node_id not in after.voter_ids:
            add("leader removed or replaced")
    if any(_is_learner(before, voter) for voter in after.voters):
        add("learner promoted")


def _is_learner(configuration: Configuration, member: Member) -> bool:
    return any(learner.node_id == member.node_id for learner in configuration.learners)
