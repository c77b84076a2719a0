"""A damaged directory is set aside: nothing is lost with it, and what begins in its place knows where it comes from."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from mesh.storage import quarantine
from mesh.storage.directory import Identity, new_identity, peek, write_identity
from mesh.storage.faults import StoreDamaged, StoreRefused
from mesh.storage.quarantine import set_aside
from mesh.storage.store import Store
from tests.storage.disk import Disk, disk, entries

NOW = "2026-11-21T03:00:00Z"


def _damaged(data_dir: Path) -> Path:
    """ana's directory with an entry that rotted."""
    with disk(data_dir, node_id="ana") as opened:
        opened.persist(1, *entries(1, 9))
        opened.durable(1)
    data = (data_dir / "log.db").read_bytes()
    (data_dir / "log.db").write_bytes(data.replace(b"entry 7", b"entry 8"))
    (data_dir / "agent.log").write_text("what user code said")
    with pytest.raises(StoreDamaged):
        Disk(data_dir, node_id="ana")
    return data_dir


def _content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name != "lock"}


def _begun(data_dir: Path) -> Store:
    return Store(data_dir, node_id="ana", cluster="mesh-1", post=lambda _: None, first_incarnation=1_800_000_000)


def test_what_was_damaged_is_kept_and_the_node_begins_anew(tmp_path: Path) -> None:
    """Byte for byte, with the reason; in its place an empty directory, of the same node, under another mark, for ever
    rejoining, and with an incarnation beyond any the old one had.
    """
    data_dir = _damaged(tmp_path / "ana")
    before, old = _content(data_dir), peek(data_dir)
    aside = set_aside(data_dir, "entry 7 is not as it was written", NOW)
    assert aside == tmp_path / "ana.damaged-1"
    why = f"{NOW} entry 7 is not as it was written\n".encode()
    assert _content(aside) == before | {"why.txt": why}
    new = peek(data_dir)
    assert old is not None and new is not None
    assert (new.node_id, new.cluster, new.rejoining, new.incarnation) == ("ana", "mesh-1", True, 0)
    assert new.created != old.created
    for start in range(3):
        store = _begun(data_dir)
        assert (store.incarnation, store.rejoining, store.created) == (1_800_000_000 + start, True, new.created)
        assert store.recover().entries == []
        store.close()


def test_what_was_set_aside_is_still_a_directory(tmp_path: Path) -> None:
    """Whoever looks into it later finds it complete: with the one row repaired, it opens."""
    data_dir = _damaged(tmp_path / "ana")
    aside = set_aside(data_dir, "rot", NOW)
    data = (aside / "log.db").read_bytes()
    at = data.rfind(b"entry 8")  # SQLite fills a page from its end: the earlier row comes last.
    (aside / "log.db").write_bytes(data[:at] + b"entry 7" + data[at + 7 :])
    with disk(aside, node_id="ana") as opened:
        assert opened.recovered.entries == entries(1, 9)


def test_each_goes_to_a_place_of_its_own(tmp_path: Path) -> None:
    data_dir = tmp_path / "ana"
    places = []
    for _ in range(3):
        _begun(data_dir).close()
        places.append(set_aside(data_dir, "again", NOW).name)
    assert places == ["ana.damaged-1", "ana.damaged-2", "ana.damaged-3"]


def test_there_is_an_end_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that damages its directory again and again does not fill the disk with it."""
    monkeypatch.setattr(quarantine, "ASIDE_MAX", 2)
    data_dir = tmp_path / "ana"
    for _ in range(2):
        _begun(data_dir).close()
        set_aside(data_dir, "again", NOW)
    _begun(data_dir).close()
    before = _content(data_dir)
    with pytest.raises(
        StoreRefused, match=r"2 damaged directories lie beside /.*/ana: find out why, and move them away"
    ):
        set_aside(data_dir, "again", NOW)
    assert _content(data_dir) == before


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    with disk(tmp_path / "ana", node_id="ana"):
        with pytest.raises(StoreRefused, match=f"in use by process {os.getpid()}"):
            set_aside(tmp_path / "ana", "a mistake", NOW)
        assert [file.name for file in tmp_path.iterdir()] == ["ana"]


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="is not there"):
        set_aside(tmp_path / "ana", "a typo", NOW)
    assert not (tmp_path / "ana").exists()


def test_where_nothing_can_be_made_beside_it_its_content_goes_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the directory is often a volume of its own. Later ones do not swallow earlier ones."""
    data_dir = _damaged(tmp_path / "ana")
    before = _content(data_dir)
    monkeypatch.setattr(quarantine, "_place", _inside_only)
    assert set_aside(data_dir, "rot", NOW) == data_dir / "damaged-1"
    _begun(data_dir).close()
    assert set_aside(data_dir, "rot", NOW) == data_dir / "damaged-2"
    assert set(before) < set(_content(data_dir / "damaged-1"))
    store = _begun(data_dir)
    assert (store.rejoining, store.recover().entries) == (True, [])
    store.close()


def _inside_only(data_dir: Path, number: int, *, beside: bool) -> Path:
    return Path("/proc/nothing can be made here") if beside else data_dir / f"damaged-{number}"


@pytest.mark.parametrize("lost", ["identity.json", "log.db", "ledger-1.db"])
def test_a_directory_without_one_of_its_files_is_set_aside_as_well(tmp_path: Path, lost: str) -> None:
    """Also without the identity: the new one is then told at its first start whose it is, but rejoining it is."""
    with disk(tmp_path / "ana", node_id="ana"):
        pass
    (tmp_path / "ana" / lost).unlink()
    set_aside(tmp_path / "ana", f"no {lost}", NOW)
    found = peek(tmp_path / "ana")
    assert found is not None and found.rejoining and found.node_id == ("" if lost == "identity.json" else "ana")
    store = _begun(tmp_path / "ana")
    assert store.rejoining
    store.close()
    with pytest.raises(StoreRefused, match="belongs to node ana, not to ben"):
        Disk(tmp_path / "ana", node_id="ben")


@pytest.mark.parametrize("steps", range(1, 30))
def test_a_crash_in_the_middle_leaves_nothing_to_found_a_mesh_from(tmp_path: Path, steps: int) -> None:
    """The process is gone after its n-th call into the file system. What is left is refused, or rejoins; and setting it
    aside once more ends well. No file is lost on the way.
    """
    data_dir = _damaged(tmp_path / "ana")
    before = _content(data_dir)
    child = multiprocessing.get_context("fork").Process(target=_die_in_between, args=(data_dir, steps))
    child.start()
    child.join(20)
    assert child.exitcode in (0, 9)
    try:
        with disk(data_dir, node_id="ana") as opened:
            assert opened.store.rejoining and opened.recovered.entries == []
    except StoreDamaged:
        set_aside(data_dir, "once more", NOW)
        with disk(data_dir, node_id="ana") as opened:
            assert opened.store.rejoining and opened.recovered.entries == []
    kept = [_content(folder) for folder in sorted(tmp_path.glob("ana.damaged-*"))]
    for name in before:  # A start that was refused counts all the same, so not all of it is byte for byte as it was.
        assert any(name in content for content in kept), name
    assert any(content.get("log.db", b"").count(b"entry 8") == 2 for content in kept)


def _die_in_between(data_dir: Path, steps: int) -> None:
    """Runs in a child."""
    left = steps
    real = {name: getattr(os, name) for name in ("rename", "fsync", "mkdir")}

    def counted(name: str) -> object:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if not left:
                os._exit(9)
            return real[name](*args, **kwargs)

        return call

    for name in real:
        setattr(os, name, counted(name))
    set_aside(data_dir, "rot", NOW)
    os._exit(0)


# --- the identity ---


def test_a_node_that_joins_has_that_written_down_before_anything_else(tmp_path: Path) -> None:
    """Its process dies before the log is made. Started by hand without --join, it still founds nothing."""
    data_dir = tmp_path / "ana"
    data_dir.mkdir()
    write_identity(data_dir, new_identity("ana", "mesh-1", rejoining=True))
    store = Store(data_dir, node_id="ana", cluster="mesh-1", post=lambda _: None, rejoining=False)
    assert store.rejoining
    store.close()


def test_rejoining_stays_and_does_not_come_later(tmp_path: Path) -> None:
    """A founder that is started with --join by mistake is what it was."""
    for made, asked, expected in ((True, False, True), (False, True, False)):
        data_dir = tmp_path / f"made {made}"
        Store(data_dir, node_id="ana", cluster="c", post=lambda _: None, rejoining=made).close()
        again = Store(data_dir, node_id="ana", cluster="c", post=lambda _: None, rejoining=asked)
        assert again.rejoining is expected
        again.close()
        found = peek(data_dir)
        assert found is not None and found.rejoining is expected


def test_the_identity_is_there_before_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the node's mesh, which it may have learnt from the first peer it met."""
    seen: list[tuple[Identity | None, list[str]]] = []

    def look(path: Path, *_: object, **__: object) -> None:
        seen.append((peek(path.parent), sorted(file.name for file in path.parent.iterdir())))
        raise StoreRefused("enough")

    monkeypatch.setattr("mesh.storage.store.LogStore", look)
    with pytest.raises(StoreRefused, match="enough"):
        Store(tmp_path / "ana", node_id="ana", cluster="learnt", post=lambda _: None, rejoining=True)
    ((identity, files),) = seen
    assert identity is not None and files == ["identity.json", "lock"]
    assert (identity.node_id, identity.cluster, identity.rejoining) == ("ana", "learnt", True)


def test_peeking_claims_nothing(tmp_path: Path) -> None:
    assert peek(tmp_path / "nowhere") is None
    with disk(tmp_path / "ana", node_id="ana", cluster="learnt"):
        found = peek(tmp_path / "ana")
        assert found is not None
        assert (found.node_id, found.cluster, found.rejoining, found.incarnation) == ("ana", "learnt", False, 1)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(("number", "release"), [(3, "a later"), (1, "an earlier")])
def test_the_identity_of_another_release_is_refused(tmp_path: Path, number: int, release: str) -> None:
    """It is not damaged, and not set aside: that release can start from it."""
    with disk(tmp_path / "ana", node_id="ana"):
        pass
    found = peek(tmp_path / "ana")
    assert found is not None
    other = Identity(found.node_id, found.cluster, found.created, incarnation=1, format=number)
    write_identity(tmp_path / "ana", other)
    with pytest.raises(StoreRefused, match=f"written by {release} release") as refused:
        Disk(tmp_path / "ana", node_id="ana")
    assert not isinstance(refused.value, StoreDamaged)


def test_no_bit_of_an_identity_can_change_what_it_says(tmp_path: Path) -> None:
    """Every byte, each bit of it: refused, or nothing is different."""
    with disk(tmp_path / "ana", node_id="ana"):
        pass
    file = tmp_path / "ana" / "identity.json"
    whole, expected = file.read_bytes(), peek(tmp_path / "ana")
    assert json.loads(whole)["node_id"] == "ana"
    refused = 0
    for at in range(len(whole)):
        for bit in range(8):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            try:
                assert peek(tmp_path / "ana") == expected
            except StoreDamaged:
                refused += 1
    assert refused > len(whole) * 7


def test_an_identity_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    with disk(tmp_path / "ana", node_id="ana"):
        pass
    file = tmp_path / "ana" / "identity.json"
    whole = file.read_bytes()
    for size in range(len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(StoreDamaged, match=r"identity\.json is damaged"):
            peek(tmp_path / "ana")


def test_an_old_log_does_not_pass_in_a_new_directory(tmp_path: Path) -> None:
    """Somebody means well and copies the log back into the directory that has just been made in its place."""
    data_dir = _damaged(tmp_path / "ana")
    aside = set_aside(data_dir, "rot", NOW)
    for name in ("log.db", "ledger-1.db"):
        shutil.copy(aside / name, data_dir / name)
    with pytest.raises(StoreRefused, match=r"log\.db belongs to another data directory of ana"):
        Disk(data_dir, node_id="ana")
