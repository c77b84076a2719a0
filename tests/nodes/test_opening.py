"""Whose a data directory is and which mesh it belongs to: flags and directory together decide, before anything runs."""

import asyncio
from pathlib import Path

import pytest

from mesh.events import Event
from mesh.ids import NodeId
from mesh.storage.directory import peek
from mesh.storage.faults import StoreDamaged, StoreRefused
from mesh.storage.quarantine import set_aside
from mesh.storage.store import Store
from nodes.joining import Found
from nodes.opening import Opened, open_directory, refuse_other_mesh
from nodes.settings import NodeSettings

TRIO = (("ana", "127.0.0.1:21000"), ("ben", "127.0.0.1:21010"), ("eva", "127.0.0.1:21020"))


def settings(path: Path, *, voters: tuple[tuple[str, str], ...] = (), join: tuple[str, ...] = ()) -> NodeSettings:
    return NodeSettings(id="ana", data_dir=path / "ana", voters=voters, join=join)


def opened(given: NodeSettings) -> Opened:
    """Open, and close again: what was decided stays."""
    posted: list[Event] = []
    found = asyncio.run(open_directory(given, posted.append))
    found.store.close()
    return found


def make_joined(path: Path, cluster: str) -> None:
    """Ana's directory as it is after she joined a mesh that runs."""
    store = Store(path / "ana", node_id="ana", cluster=cluster, post=lambda event: None, rejoining=True)
    store.recover()
    store.close()


def test_a_founder_begins_with_its_list(tmp_path: Path) -> None:
    given = settings(tmp_path, voters=TRIO)
    for _ in range(2):
        found = opened(given)
        assert (found.cluster, found.voters, found.found, found.trouble) == (given.cluster, TRIO, None, "")
        assert not found.store.rejoining


def test_incarnations_grow_though_the_directory_is_lost(tmp_path: Path) -> None:
    """The first one of a directory is a time, so that the next directory's is later."""
    first = opened(settings(tmp_path, voters=TRIO)).store
    assert first.incarnation > 1_700_000_000
    assert opened(settings(tmp_path, voters=TRIO)).store.incarnation == first.incarnation + 1


@pytest.mark.parametrize("how", ["join", "voters", "nothing"])
def test_one_that_joined_founds_nothing_whatever_the_flags_say_later(tmp_path: Path, how: str) -> None:
    """Its directory knows its mesh, and nobody has to be asked for it."""
    founders = settings(tmp_path, voters=TRIO)
    make_joined(tmp_path, founders.cluster)
    given = {
        "join": settings(tmp_path, join=("127.0.0.1:21010",)),
        "voters": founders,
        "nothing": settings(tmp_path),
    }[how]
    found = opened(given)
    assert (found.cluster, found.voters, found.found) == (founders.cluster, (), None)


def test_a_founder_goes_on_without_its_flags(tmp_path: Path) -> None:
    """Its log has the members; a mesh of one is made only where nothing is."""
    founders = settings(tmp_path, voters=TRIO)
    opened(founders)
    found = opened(settings(tmp_path))
    assert (found.cluster, found.voters) == (founders.cluster, ())
    alone = opened(NodeSettings(id="ben", data_dir=tmp_path / "ben"))
    assert alone.voters == (("ben", "127.0.0.1:21000"),)


def test_a_directory_of_another_mesh_is_refused(tmp_path: Path) -> None:
    """By the list of founders, and by what the seeds say."""
    opened(settings(tmp_path, voters=TRIO))
    with pytest.raises(StoreRefused, match=r"belongs to another mesh .* give the list this one was founded with"):
        opened(settings(tmp_path, voters=TRIO[:2]))
    joining = settings(tmp_path, join=("127.0.0.1:21010",))
    here = opened(joining)
    refuse_other_mesh(here, Found(here.cluster, ()), joining)
    with pytest.raises(StoreRefused, match=r"127\.0\.0\.1:21010 to mesh other"):
        refuse_other_mesh(here, Found("other", ((NodeId("ben"), "127.0.0.1:21010"),)), joining)


@pytest.mark.parametrize("file", ["log.db", "identity.json"])
def test_a_damaged_directory_is_set_aside_if_there_are_peers(tmp_path: Path, file: str) -> None:
    """What comes in its place founds nothing, not even the next time. Even if nobody can read whose it was."""
    founders = settings(tmp_path, voters=TRIO)
    created = opened(founders).store.created
    (tmp_path / "ana" / file).write_bytes(b"\0" * 8_192)
    found = opened(founders)
    assert (found.cluster, found.voters, found.store.rejoining) == (founders.cluster, (), True)
    assert found.store.created != created
    assert f"lies in {tmp_path / 'ana.damaged-1'} now" in found.trouble and file in found.trouble
    again = opened(founders)
    assert (again.voters, again.trouble) == ((), "")


def test_a_damaged_directory_without_peers_is_left_alone(tmp_path: Path) -> None:
    """The sentence says what to do."""
    given = settings(tmp_path)
    opened(given)
    (tmp_path / "ana" / "log.db").write_bytes(b"\0" * 8_192)
    with pytest.raises(StoreDamaged, match=r"log\.db.*knows no other.*--join.*restore the whole directory"):
        opened(given)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ana"]


def test_one_that_waits_for_its_mesh_does_not_found_another(tmp_path: Path) -> None:
    """Set aside without a readable identity, and started without a word of any other node."""
    opened(settings(tmp_path, voters=TRIO))
    (tmp_path / "ana" / "identity.json").write_bytes(b"\0")
    with pytest.raises(StoreRefused):
        opened(settings(tmp_path))
    set_aside(tmp_path / "ana", "its identity cannot be read", "now")
    left = peek(tmp_path / "ana")
    assert left is not None and (left.cluster, left.rejoining) == ("", True)
    with pytest.raises(StoreRefused, match=r"waits to be filled .* --join"):
        opened(settings(tmp_path))
