"""One module a system: how it is started, and how it is killed and started again."""
