"""Whole nodes on real disks: one survivor goes on alone, and a table that is older than its log is brought up again."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mesh.durable import Configuration, Member
from mesh.ids import NodeId
from mesh.storage.faults import StoreRefused
from mesh.storage.forced import Forced, force_configuration
from mesh.wire.codec import encode
from tests.storage.disk import disk, entry
from tests.storage.living import Life, Meadow

TRIO = ("ana", "ben", "eva")


@pytest.fixture
def meadow(tmp_path: Path) -> Iterator[Meadow]:
    made = Meadow(tmp_path)
    yield made
    made.stop()


def _leader(meadow: Meadow) -> str:
    (leader,) = (name for name, life in meadow.lives.items() if life.node.raft.serving)
    return leader


def _done(life: Life) -> list[str]:
    """Ids of all finished tasks, in order of id."""
    ledger = life.node.ledger
    live = [task_id for task_id, task in ledger.tasks.items() if not task.finished]
    assert live == []
    return sorted(ledger.finished)


def _members(configuration: Configuration) -> list[str]:
    return [member.node_id for member in configuration.voters + configuration.learners]


def _bereaved(meadow: Meadow) -> str:
    """The leader of three has done five tasks and taken in two more that nobody else has heard of: both others are
    gone for good.
    """
    for name in TRIO:
        meadow.start(name, TRIO)
    meadow.run(3_000)
    survivor = _leader(meadow)
    meadow.submit(survivor, *(f"task {number}" for number in range(5)))
    meadow.run(2_000)
    meadow.stop(*(name for name in TRIO if name != survivor))
    meadow.submit(survivor, "late 1", "late 2")
    meadow.run(3_000)
    assert not meadow.lives[survivor].node.raft.serving
    return survivor


def test_one_survivor_of_three_goes_on_alone(meadow: Meadow) -> None:
    """It elects itself at once, commits all it has, the two late tasks included, and does what it is given from then
    on. The tasks that were done stay done, once.
    """
    survivor = _bereaved(meadow)
    raft = meadow.lives[survivor].node.raft
    last_index, term, before = raft.last_index, raft.term, meadow.lives[survivor].disk.store
    meadow.stop()
    forced = force_configuration(meadow.path / survivor, survivor)
    assert sorted(_members(forced.old)) == list(TRIO)
    assert forced == Forced(
        old=forced.old,
        new=Configuration((Member(NodeId(survivor), f"{survivor}:1", before.created),)),
        index=last_index + 1,  # type: ignore[arg-type]  # An index is an int.
        term=term + 1,  # type: ignore[arg-type]  # A term, too.
        incarnation=before.incarnation + 1,
    )
    alone = meadow.start(survivor, TRIO)
    assert alone.disk.store.incarnation == before.incarnation + 2
    meadow.run(2_000)
    assert alone.node.raft.serving and alone.node.raft.configuration == forced.new
    assert alone.node.raft.commit_index > forced.index
    meadow.submit(survivor, "new")
    meadow.run(2_000)
    assert _done(alone) == ["late 1", "late 2", "new", *(f"task {number}" for number in range(5))]
    assert sorted(meadow.ran) == _done(alone)


def test_it_stays_alone_over_restarts(meadow: Meadow) -> None:
    """Whatever voters it is started with."""
    survivor = _bereaved(meadow)
    meadow.stop()
    force_configuration(meadow.path / survivor, survivor)
    for number in range(3):
        alone = meadow.start(survivor, TRIO if number else ())
        meadow.run(2_000)
        assert alone.node.raft.serving and _members(alone.node.raft.configuration) == [survivor]
        meadow.stop()


def test_a_second_time_changes_nothing_but_the_term(meadow: Meadow) -> None:
    """The operator is not sure whether it worked."""
    survivor = _bereaved(meadow)
    meadow.stop()
    first = force_configuration(meadow.path / survivor, survivor)
    second = force_configuration(meadow.path / survivor, survivor)
    assert (second.old, second.new) == (first.new, first.new)
    assert (second.index, second.term) == (first.index + 1, first.term + 1)
    alone = meadow.start(survivor, TRIO)
    meadow.run(2_000)
    assert len(_done(alone)) == 7


def test_a_configuration_that_left_the_log_is_found_in_the_table(tmp_path: Path) -> None:
    """The log was trimmed behind the table, and holds commands only."""
    meadow = Meadow(tmp_path, tail_entries_max=1)
    for name in TRIO:
        meadow.start(name, TRIO)
    meadow.run(3_000)
    survivor = _leader(meadow)
    for number in range(5):
        meadow.submit(survivor, f"task {number}")
        meadow.run(1_000)
    assert meadow.lives[survivor].node.raft.first_index > 3
    meadow.stop()
    forced = force_configuration(meadow.path / survivor, survivor)
    assert sorted(_members(forced.old)) == list(TRIO)
    alone = meadow.start(survivor, TRIO)
    meadow.run(2_000)
    assert alone.node.raft.serving and len(_done(alone)) == 5
    meadow.stop()


def test_a_node_that_runs_is_left_alone(meadow: Meadow) -> None:
    meadow.start("ana", ("ana",))
    meadow.run(1_000)
    with pytest.raises(StoreRefused, match="is in use by process"):
        force_configuration(meadow.path / "ana", "ana")


def test_the_directory_of_another_node_is_refused(meadow: Meadow) -> None:
    """The operator means ben and names ana's directory: nothing is written."""
    meadow.start("ana", ("ana",))
    meadow.run(1_000)
    meadow.stop()
    with pytest.raises(StoreRefused, match="belongs to node ana, not to ben"):
        force_configuration(meadow.path / "ana", "ben")
    assert meadow.start("ana", ("ana",)).disk.store.incarnation == 2


@pytest.mark.parametrize("made", [False, True])
def test_without_a_log_there_is_nothing_to_go_on_from(tmp_path: Path, made: bool) -> None:
    if made:
        with disk(tmp_path / "ana", node_id="ana"):
            pass
    with pytest.raises(StoreRefused, match=r"holds no (log|configuration)"):
        force_configuration(tmp_path / "ana", "ana")
    assert (tmp_path / "ana").exists() is made


def test_a_node_that_was_removed_does_not_go_on_alone(tmp_path: Path) -> None:
    """The newest configuration it knows is ben's and eva's: what was committed since, it never saw."""
    others = Configuration((Member(NodeId("ben"), "ben:1"),), (Member(NodeId("eva"), "eva:1"),))
    with disk(tmp_path / "ana", node_id="ana") as opened:
        configuration = entry(1, data=encode(others))
        opened.persist(1, type(configuration)(configuration.index, configuration.term, 2, configuration.data))
        opened.durable(1)
    with pytest.raises(StoreRefused, match="is without ana; it has ben, eva: recover from one of those"):
        force_configuration(tmp_path / "ana", "ana")


def test_a_learner_may_be_the_one_that_survives(tmp_path: Path) -> None:
    """It has a copy of the log like any other, and its operator has nothing else."""
    known = Configuration((Member(NodeId("ben"), "ben:1"),), (Member(NodeId("ana"), "ana:7"),))
    with disk(tmp_path / "ana", node_id="ana") as opened:
        founding = entry(1, data=encode(known))
        opened.persist(1, type(founding)(founding.index, founding.term, 2, founding.data))
        opened.durable(1)
        created = opened.store.created
    forced = force_configuration(tmp_path / "ana", "ana")
    assert forced.new == Configuration((Member(NodeId("ana"), "ana:7", created),))
    assert (forced.index, forced.term) == (2, 2)


def test_a_table_older_than_it_was_is_brought_up_from_the_log(meadow: Meadow) -> None:
    """ana dies; her table is put back as it was five tasks ago. What the log applies again comes out the same: every
    digest, every finished task, and nothing runs a second time.
    """
    ana = meadow.start("ana", ("ana",))
    meadow.run(1_000)
    for number in range(5):
        meadow.submit("ana", f"task {number}")
        meadow.run(1_000)
    backup = _backup(meadow.path / "ana" / "ledger-1.db", meadow.path / "backup")
    for number in range(5, 10):
        meadow.submit("ana", f"task {number}")
        meadow.run(1_000)
    ledger, ran = ana.node.ledger, list(meadow.ran)
    applied, digests, done = ledger.applied_index, dict(ledger.digests), _done(ana)
    image = shutil.copytree(meadow.path / "ana", meadow.path / "image")
    meadow.stop()
    shutil.rmtree(meadow.path / "ana")
    image.rename(meadow.path / "ana")
    for suffix in ("-wal", "-shm"):
        (meadow.path / "ana" / f"ledger-1.db{suffix}").unlink(missing_ok=True)
    shutil.copy(backup, meadow.path / "ana" / "ledger-1.db")
    again = meadow.start("ana", ("ana",))
    assert again.disk.recovered.mark is not None and again.disk.recovered.mark.applied_index < applied
    meadow.run(2_000)
    assert again.node.ledger.applied_index > applied
    common = sorted(set(digests) & set(again.node.ledger.digests))
    assert common[-1] == applied and len(common) > 10
    assert [again.node.ledger.digests[index] for index in common] == [digests[index] for index in common]
    assert (_done(again), meadow.ran) == (done, ran)


def _backup(file: Path, to: Path) -> Path:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)
    return to


def test_the_survivor_may_be_killed_right_after(tmp_path: Path) -> None:
    """What was done is durable when it is reported."""
    known = Configuration((Member(NodeId("ana"), "ana:1"), Member(NodeId("ben"), "ben:1")))
    with disk(tmp_path / "ana", node_id="ana") as opened:
        founding = entry(1, data=encode(known))
        opened.persist(1, type(founding)(founding.index, founding.term, 2, founding.data))
        opened.durable(1)
    forced = force_configuration(tmp_path / "ana", "ana")
    with disk(tmp_path / "ana", node_id="ana") as opened:
        last = opened.recovered.entries[-1]
        assert (last.index, last.term, last.kind, last.data) == (forced.index, forced.term, 2, encode(forced.new))
        assert opened.recovered.hard_state is not None
        assert (opened.recovered.hard_state.term, opened.recovered.hard_state.voted_for) == (forced.term, None)
