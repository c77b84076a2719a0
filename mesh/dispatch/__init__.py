"""Which node runs which task. The leader's room: all of it is volatile and begins afresh with every term of office."""
