"""One node without I/O: the rooms joined. The process and the simulator are two shells around this same Node."""

from mesh.node.node import Node

__all__ = ["Node"]
