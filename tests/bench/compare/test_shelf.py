"""What is installed is found, what is not is named, and nothing is fetched to find that out."""

from pathlib import Path

from bench.compare.compare import folder_of_peers, present
from bench.compare.roster import ROSTER
from bench.compare.shelf import Needs, Shelf, planned

NEEDS = Needs(python=("ana-queue>=1",), commands=(("ana-server-of-nobody", "ana"),))


def test_everything_is_missing_on_an_empty_shelf(tmp_path: Path) -> None:
    assert Shelf(tmp_path).missing("ana", NEEDS) == "not installed: ana-server-of-nobody, ana-queue>=1 (--install)"


def test_an_unpacked_program_is_found_with_its_libraries(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    program = tmp_path / "debian" / "ana" / "usr" / "bin" / "ana-server-of-nobody"
    libraries = tmp_path / "debian" / "ana" / "usr" / "lib" / "x86_64-linux-gnu"
    program.parent.mkdir(parents=True)
    program.touch()
    libraries.mkdir(parents=True)
    assert shelf.command("ana-server-of-nobody", "ana") == program
    assert shelf.libraries("ana") == {"LD_LIBRARY_PATH": str(libraries)}
    assert shelf.missing("ana", NEEDS) == "not installed: ana-queue>=1 (--install)"


def test_a_program_of_the_machine_is_found_and_needs_no_libraries(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    found = shelf.command("sh", "dash")
    assert found is not None
    assert found.name == "sh"
    assert shelf.libraries("dash") == {}


def test_an_environment_counts_only_once_it_is_whole(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    needs = Needs(python=("ana-queue>=1",))
    shelf.python("ana").parent.mkdir(parents=True)
    assert shelf.missing("ana", needs) == "not installed: ana-queue>=1 (--install)"
    (tmp_path / "ana" / "whole").touch()
    assert shelf.missing("ana", needs) == ""
    assert shelf.script("ana", "ana-queue") == tmp_path / "ana" / "venv" / "bin" / "ana-queue"


def test_the_plan_of_apt_names_what_would_be_installed() -> None:
    plan = (
        "Reading package lists...\nInst liblzf1 (3.6-3 Debian:12/stable [amd64])\n"
        "Inst redis-server (5:7.0.15 Debian:12/stable [amd64])\nConf liblzf1 (3.6-3 Debian:12/stable [amd64])\n"
    )
    assert planned(plan) == ["liblzf1", "redis-server"]


def test_the_mesh_is_always_there_and_others_are_skipped_with_a_line(tmp_path: Path) -> None:
    said: list[str] = []
    makes, skipped = present(["mesh", "dask"], Shelf(tmp_path), install=False, say=said.append)
    assert [make().label.title for make in makes] == ["agent-mesh"]
    assert skipped == {"dask": "not installed: distributed>=2024.8 (--install)"}
    assert said == ["dask is skipped: not installed: distributed>=2024.8 (--install)"]


def test_every_system_says_what_it_is_once_a_configuration() -> None:
    labels = [make().label for makes in ROSTER.values() for make in makes]
    assert len({(label.name, label.mode) for label in labels}) == len(labels) == 11
    assert list(ROSTER) == list(dict.fromkeys(label.name for label in labels))
    assert all(label.setting and label.keeper and label.durability.fsync for label in labels)


def test_others_are_kept_in_one_place_unless_somebody_says_where(tmp_path: Path) -> None:
    assert folder_of_peers(None, tmp_path) == tmp_path / "mesh-bench-peers"
    assert folder_of_peers(tmp_path / "here", Path("/nowhere")) == tmp_path / "here"
