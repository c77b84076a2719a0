"""What the nodes of `mesh demo` can do: read one Python file, and add the findings up."""

from __future__ import annotations

import ast
from typing import Any

from mesh import Mesh

app = Mesh("demo")

_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.ExceptHandler, ast.IfExp, ast.match_case)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LONGEST_MAX = 5


@app.task(capability="analyse", max_attempts=5)
def analyse(path: str) -> dict[str, Any]:
    """Lines, functions and branches of one file. A file that cannot be parsed is counted as such, not failed."""
    with open(path, "rb") as file:
        source = file.read()
    found: dict[str, Any] = {"path": path, "lines": source.count(b"\n"), "functions": 0, "branches": 0, "unparsed": 0}
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        found["unparsed"] = 1
        return found
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS):
            found["functions"] += 1
        elif isinstance(node, _BRANCHES):
            found["branches"] += 1
    return found


@app.task(capability="reduce", max_attempts=5)
def reduce(rows: list[list[Any]]) -> dict[str, Any]:
    """One report from rows of [path, lines, functions, branches, unparsed]."""
    longest = sorted(rows, key=lambda row: (-row[1], row[0]))[:LONGEST_MAX]
    return {
        "files": len(rows),
        "lines": sum(row[1] for row in rows),
        "functions": sum(row[2] for row in rows),
        "branches": sum(row[3] for row in rows),
        "unparsed": sum(row[4] for row in rows),
        "longest": [{"path": row[0], "lines": row[1]} for row in longest],
    }
