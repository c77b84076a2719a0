"""How fast it is, measured the same way every time. `mesh bench`, or `make bench`; figures in bench/README.md."""
