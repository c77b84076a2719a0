"""Names for the plain values that identify things. One type each, so that two of them are never mixed."""

from typing import NewType

NodeId = NewType("NodeId", str)
"""One node of the mesh, chosen by the operator: `n1`."""

Incarnation = NewType("Incarnation", int)
"""Which start of a node's process speaks. Grows with every start of the same data directory."""

TaskId = NewType("TaskId", str)
"""One task. Chosen by whoever submits it; also the key under which a repeated submit is recognised."""

ClientId = NewType("ClientId", int)
"""One client link at one node. Local to that node's process; never reused while it runs."""

Term = NewType("Term", int)
"""Raft's term of office (Raft 5.1). 1 is the founding term, in which nobody leads."""

LogIndex = NewType("LogIndex", int)
"""Position in the log. 1 is the founding configuration; 0 means nothing."""

FencingToken = NewType("FencingToken", int)
"""Log index of the grant a lease came from. Of two leases of one task, the later has the greater token."""

PersistToken = NewType("PersistToken", int)
"""Names one batch handed to the log store. Batches become durable in the order of their tokens."""
