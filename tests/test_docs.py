"""What the documents show of the code is what the code says."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from mesh.ledger.transitions import diagram
from nodes.cli import mesh

ROOT = Path(__file__).parent.parent
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SECTIONS = {text.partition("\n")[0]: text for text in OPERATIONS.split("\n## ")[1:]}
COMMANDS = sorted({line for line in OPERATIONS.splitlines() if line.startswith("mesh ")})


def test_the_transitions_in_the_architecture_are_those_of_the_table() -> None:
    """Change the table, and this says what to paste."""
    assert diagram() in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), diagram()


def test_the_readme_names_the_two_commands() -> None:
    """A fresh clone, and these."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in readme and "make test" in readme


@pytest.mark.parametrize("section", SECTIONS)
def test_every_procedure_of_operations_is_tried_by_a_test_that_exists(section: str) -> None:
    """A procedure nobody has tried is a guess."""
    named = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", SECTIONS[section])
    assert named, f"{section}: no test is named"
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], f"{path}::{name}"


PAGES = (
    "docs/guarantees.md",
    "docs/scheduling.md",
    "docs/testing.md",
    "tests/sim/README.md",
    "README.md",
    "ARCHITECTURE.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_points_to_is_there(page: str) -> None:
    """Tests by name, files and folders by path."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", text):
        source = (ROOT / path).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in source, f"{path}::{name}"
    for path in re.findall(r"`((?:tests|docs|mesh|nodes|bench|examples)/[\w/.-]*)`", text):
        assert (ROOT / path).exists() or path == "tests/chaos/RESULTS.md", path


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_operations_is_one(line: str) -> None:
    """Its words name a command, and each of its flags is one of that command's."""
    command: click.Command = mesh
    words = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words.pop(0))
        assert found is not None, line
        command = found
    command.make_parser(click.Context(command)).parse_args(words)


def test_operations_has_commands_and_sections() -> None:
    """Or the two tests above would try nothing."""
    assert len(SECTIONS) >= 7
    assert len(COMMANDS) >= 10
