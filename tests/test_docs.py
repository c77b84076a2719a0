"""What the documents show of the code is what the code says."""

from pathlib import Path

from mesh.ledger.transitions import diagram

ROOT = Path(__file__).parent.parent


def test_the_transitions_in_the_architecture_are_those_of_the_table() -> None:
    """Change the table, and this says what to paste."""
    assert diagram() in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), diagram()


def test_the_readme_names_the_two_commands() -> None:
    """A fresh clone, and these."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in readme and "make test" in readme
