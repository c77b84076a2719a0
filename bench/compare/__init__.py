"""The mesh beside other systems, on the same machine and the same work: `python -m bench.compare`, bench/README.md."""
