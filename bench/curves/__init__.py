"""How the cost of a task grows with what there is of everything: `python -m bench.curves`; bench/README.md says how."""
