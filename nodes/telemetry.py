"""What a node tells its operator: one line an occurrence, on stderr."""

import logging
import sys

LOG = logging.getLogger("mesh.node")


def start_logging(node_id: str, level: int = logging.INFO) -> None:
    """Send log lines to stderr, each with time, level and node."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {node_id} %(name)s %(message)s"))
    root = logging.getLogger("mesh")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def complain(why: str) -> None:
    """Why this process ends, for whoever started it: one line, whatever is quoted in it."""
    print(f"mesh: {' '.join(why.split())}", file=sys.stderr)
