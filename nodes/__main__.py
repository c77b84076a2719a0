"""`python -m nodes`: the same as the `mesh` command."""

from nodes.cli import main

main()
