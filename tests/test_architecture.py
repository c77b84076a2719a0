"""The style guide, as a test: what may touch the world, how long things are, what things are called.

It sees source, not behaviour. Two runs that differ for a reason invisible here are caught by tests/sim/ (same seed, two
processes, two values of PYTHONHASHSEED).
"""

import ast
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mesh import effects, events, messages
from mesh.ledger import commands

ROOT = Path(__file__).parent.parent


def _sources(*rooms: str) -> dict[str, str]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for room in rooms
        for path in sorted((ROOT / room).rglob("*.py"))
    }


LIBRARY = _sources("mesh")
PRODUCT = LIBRARY | _sources("nodes")
EVERYTHING = PRODUCT | _sources("tests", "examples", "bench")

# --- the rules, as data -----------------------------------------------------------------------------------------------

WORLD = frozenset(
    """
    asyncio concurrent ctypes curses datetime faulthandler fcntl gc getpass glob http io locale logging mmap
    multiprocessing os pathlib platform queue random resource sched secrets select selectors shutil signal socket
    socketserver sqlite3 ssl subprocess sys tempfile threading time tracemalloc urllib uuid weakref zmq zoneinfo
    """.split()
)
"""Modules through which a clock, dice, sockets, files, threads or this process can be reached."""

ALL = WORLD
MAY_TOUCH_THE_WORLD: dict[str, frozenset[str]] = {
    "mesh/client/": ALL,
    "mesh/testing/": ALL,
    # S0's names want a PriorityQueue, the wall clock of `last_heartbeat`, and not to keep alive what users dropped.
    "mesh/facades/": frozenset({"asyncio", "time", "weakref"}),
    "mesh/transport/": ALL,
    "mesh/storage/": ALL,
    "mesh/context.py": frozenset({"logging"}),  # `ctx.log` is a logger; context.py itself writes nothing.
    # Calendars need dates, and the host's time zone data: read once per zone, by the leader, whose answer is committed.
    "mesh/dispatch/calendar.py": frozenset({"datetime", "zoneinfo"}),
    "mesh/sim/__main__.py": ALL,  # The command line around the simulator: arguments, several processes, wall clock.
}
"""Making this longer is a decision someone signs."""

WORLD_BUILTINS = frozenset({"open()", "print()", "input()", "breakpoint()", "exec()", "eval()", "__import__()"})
UNSTABLE_BUILTINS = frozenset({"hash()", "id()"})
"""Differ from process to process, so a seed would not reproduce a run."""

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
MAY_BE_LONGER: dict[str, str] = {"mesh/messages.py": "the whole protocol stands on one page"}
"""`path` or `path:function` -> the reason. Test modules are not measured: a story takes what it takes."""

NAMES_THAT_SAY_NOTHING = frozenset(
    """
    util utils helper helpers manager managers common misc base core shared lib stuff tools
    """.split()
)

LEFT_FOR_LATER = ("TO" + "DO", "FIX" + "ME", "XX" + "X")


# --- reading source ---------------------------------------------------------------------------------------------------


def _permitted(path: str) -> frozenset[str]:
    for where, modules in MAY_TOUCH_THE_WORLD.items():
        if path == where or (where.endswith("/") and path.startswith(where)):
            return modules
    return frozenset()


def _world_reached(source: str, permitted: frozenset[str] = frozenset()) -> list[str]:
    """What in a module reaches outside, by line. `from random import Random` is allowed: dice come as arguments."""
    forbidden = WORLD - permitted | WORLD_BUILTINS | UNSTABLE_BUILTINS
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and ast.unparse(node) != "from random import Random":
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and permitted != ALL:
            names = [node.func.id + "()"]
        found += [f"{name} in `{ast.unparse(node)}`" for name in names if name.split(".")[0] in forbidden]
    return found


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Every function with its length in lines, methods as Class.method."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not isinstance(node, ast.ClassDef):
                yield prefix + node.name, (node.end_lineno or node.lineno) - node.lineno + 1
            yield from _functions(node, f"{prefix}{node.name}.")
        else:
            yield from _functions(node, prefix)


def _too_long(path: str, source: str) -> list[str]:
    lines = len(source.splitlines())
    found = [path] if lines > MODULE_LINES_MAX else []
    return found + [f"{path}:{name}" for name, long in _functions(ast.parse(source)) if long > FUNCTION_LINES_MAX]


ORDER_DOES_NOT_MATTER = frozenset({"sorted", "any", "all", "sum", "min", "max", "len", "set", "frozenset"})
ORDER_MATTERS = frozenset({"list", "tuple", "iter", "enumerate", "zip", "map", "filter", "dict", "next", "reversed"})


class _SetIteration(ast.NodeVisitor):
    """Finds places where the order of a set can reach an outcome.

    Knows a set by its literal, by set(...) and frozenset(...), by set arithmetic on those, and by names and attributes
    that were assigned or annotated as one anywhere in the same module (a name used for a set here and a list there is
    worth renaming).
    """

    def __init__(self, source: str) -> None:
        self.found: list[str] = []
        self._sets: set[str] = set()
        self._harmless: set[ast.AST] = set()
        tree = ast.parse(source)
        for _ in range(2):  # The second pass knows names assigned from names.
            for node in ast.walk(tree):
                self._learn(node)
        self.visit(tree)

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, ast.AnnAssign) and self._is_set_type(node.annotation):
            self._sets.add(ast.unparse(node.target))
        elif isinstance(node, ast.arg) and node.annotation is not None and self._is_set_type(node.annotation):
            self._sets.add(node.arg)
        elif isinstance(node, ast.Assign) and self._is_set(node.value):
            self._sets.update(ast.unparse(target) for target in node.targets)

    @staticmethod
    def _is_set_type(annotation: ast.expr) -> bool:
        return ast.unparse(annotation).split("[")[0] in {"set", "frozenset", "Set", "AbstractSet", "MutableSet"}

    def _is_set(self, node: ast.expr) -> bool:
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Call(func=ast.Name(id="set" | "frozenset")):
                return True
            case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() | ast.BitXor() | ast.Sub(), right=right):
                return self._is_set(left) or self._is_set(right)
            case ast.Name() | ast.Attribute():
                return ast.unparse(node) in self._sets
            case _:
                return False

    def _flag(self, node: ast.expr) -> None:
        if self._is_set(node):
            self.found.append(f"line {node.lineno}: {ast.unparse(node)}")

    def visit_For(self, node: ast.For) -> None:
        self._flag(node.iter)
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        self._flag(node.value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in ORDER_DOES_NOT_MATTER:
            self._harmless.update(node.args)
        if isinstance(node.func, ast.Name) and node.func.id in ORDER_MATTERS:
            for argument in node.args:
                self._flag(argument)
        if isinstance(node.func, ast.Attribute) and node.func.attr in {"join", "extend"}:
            for argument in node.args:
                self._flag(argument)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "pop" and not node.args:
            self._flag(node.func.value)
        self.generic_visit(node)

    def _visit_comprehension(self, node: ast.ListComp | ast.GeneratorExp | ast.DictComp) -> None:
        if node not in self._harmless:
            for generator in node.generators:
                self._flag(generator.iter)
        self.generic_visit(node)

    visit_ListComp = _visit_comprehension
    visit_GeneratorExp = _visit_comprehension
    visit_DictComp = _visit_comprehension


# --- the library ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LIBRARY)
def test_the_core_cannot_reach_the_outside_world(path: str) -> None:
    """No clock, no sockets, no global dice: a run is a function of its inputs."""
    assert _world_reached(LIBRARY[path], _permitted(path)) == []


@pytest.mark.parametrize("path", [path for path in LIBRARY if not _permitted(path)])
def test_no_outcome_hangs_on_the_order_of_a_set(path: str) -> None:
    """Sets of strings come in another order in every process. Sort them, or use a dict, which keeps its order."""
    assert _SetIteration(LIBRARY[path]).found == []


@pytest.mark.parametrize("path", PRODUCT)
def test_modules_and_functions_fit_a_head(path: str) -> None:
    """Aim at 40 lines a function; 70, and 500 a module, are refused unless MAY_BE_LONGER says why."""
    assert [name for name in _too_long(path, PRODUCT[path]) if name not in MAY_BE_LONGER] == []


def test_exceptions_that_are_no_longer_needed_go() -> None:
    needed = [name for path, source in PRODUCT.items() for name in _too_long(path, source)]
    assert [name for name in MAY_BE_LONGER if name not in needed] == []
    assert all(reason.strip() for reason in MAY_BE_LONGER.values())


@pytest.mark.parametrize("path", PRODUCT)
def test_every_module_says_what_it_is_for(path: str) -> None:
    docstring = ast.get_docstring(ast.parse(PRODUCT[path]))
    assert docstring is not None
    assert docstring.splitlines()[0].endswith((".", ":", "?"))


def test_every_room_is_a_package() -> None:
    """Without __init__.py the import rules would not see it."""
    rooms = sorted({Path(path).parent.as_posix() for path in PRODUCT})
    assert [room for room in rooms if not (ROOT / room / "__init__.py").exists()] == []


@pytest.mark.parametrize("path", EVERYTHING)
def test_files_are_named_after_what_they_hold(path: str) -> None:
    parts = Path(path).with_suffix("").parts
    assert not NAMES_THAT_SAY_NOTHING.intersection(parts)


@pytest.mark.parametrize("path", EVERYTHING)
def test_nothing_is_left_for_later(path: str) -> None:
    """What is not done is an issue, not a comment."""
    assert [word for word in LEFT_FOR_LATER if word in EVERYTHING[path]] == []


# --- rooms ------------------------------------------------------------------------------------------------------------


def _layers() -> list[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rooms = next(contract for contract in contracts if contract["id"] == "rooms")
    return [name.strip(" ()") for layer in rooms["layers"] for name in layer.split("|")]


def test_every_room_has_its_place_in_the_order() -> None:
    """A room nobody listed would be free to import anything."""
    rooms = {"mesh." + Path(path).relative_to("mesh").with_suffix("").parts[0] for path in LIBRARY} - {"mesh.__init__"}
    assert sorted(rooms - set(_layers())) == []


def test_rooms_import_only_downwards() -> None:
    """The contracts stand in pyproject.toml; import-linter reads every import, direct or not."""
    linted = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout[-4_000:] + linted.stderr[-4_000:]


# --- the four nouns ---------------------------------------------------------------------------------------------------

UNIONS: dict[str, tuple[type[msgspec.Struct], object]] = {
    "message": (
        messages._Message,
        messages.PeerMessageBody | messages.ClientRequest | messages.ClientReply | messages.Heartbeat,
    ),
    "command": (commands._Command, commands.Command),
    "event": (events._Event, events.Event),
    "effect": (effects._Effect, effects.Effect),
}


@pytest.mark.parametrize("noun", UNIONS)
def test_messages_commands_events_and_effects_are_closed_records(noun: str) -> None:
    """No bare dict crosses a border: every member is a frozen struct, and every struct of the kind is a member."""
    kind, union = UNIONS[noun]
    members: tuple[type[msgspec.Struct], ...] = typing.get_args(union)
    for member in members:
        assert issubclass(member, msgspec.Struct), member
        assert issubclass(member, kind), member
        assert member.__struct_config__.frozen, member
    assert sorted(member.__name__ for member in members) == sorted(member.__name__ for member in kind.__subclasses__())


@pytest.mark.parametrize("noun", ["message", "command"])
def test_what_crosses_a_wire_carries_a_number_of_its_own(noun: str) -> None:
    """A tag once used stays used: another language may be reading."""
    tags = [member.__struct_config__.tag for member in typing.get_args(UNIONS[noun][1])]
    assert all(isinstance(tag, int) for tag in tags)
    assert len(tags) == len(set(tags))


def test_no_record_has_a_dict_for_a_message() -> None:
    """Fields are typed too; a dict among them would be a message inside a message."""
    for kind, union in UNIONS.values():
        for member in typing.get_args(union):
            for field in msgspec.structs.fields(member):
                assert "dict" not in str(field.type), f"{kind.__name__} {member.__name__}.{field.name}"


# --- these tests can fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import os.path",
        "from time import monotonic",
        "from random import Random, random",
        "import random",
        "def f():\n    import socket",
        "from asyncio import sleep as nap",
        "x = open('f')",
        "x = hash('a')",
    ],
)
def test_the_world_is_noticed(source: str) -> None:
    assert len(_world_reached(source)) == 1


def test_dice_that_come_as_an_argument_are_fine() -> None:
    assert _world_reached("from random import Random\nimport math\nfrom . import time") == []
    assert _world_reached("import logging", frozenset({"logging"})) == []
    assert _world_reached("import logging, os", frozenset({"logging"})) == ["os in `import logging, os`"]


@pytest.mark.parametrize(
    "source",
    [
        "for x in {1, 2}: pass",
        "for x in set(y): pass",
        "a = set()\nb = [x for x in a]",
        "def f(a: frozenset[str]) -> None:\n    return list(a)",
        "self.a: set[str] = set()\nfor x in self.a: pass",
        "for x in set(a) - set(b): pass",
        "a = {1}\nb = a | c\nf(*b)",
        "a = {x for x in y}\nb = ','.join(a)",
        "a = {1}\na.pop()",
        "a = {1}\nb = {x: 1 for x in a}",
    ],
)
def test_order_of_a_set_is_noticed(source: str) -> None:
    assert len(_SetIteration(source).found) == 1


@pytest.mark.parametrize(
    "source",
    [
        "for x in sorted({1, 2}): pass",
        "a = {1}\nb = any(x for x in a)",
        "a = {1}\nb = {x for x in a}",
        "a = {1: 2}\nfor x in a: pass",
        "a = {1}\nb = 1 in a",
    ],
)
def test_sets_used_as_sets_are_fine(source: str) -> None:
    assert _SetIteration(source).found == []


def test_length_is_noticed() -> None:
    body = "\n".join(["    x = 1"] * 70)
    assert _too_long("m.py", f"class A:\n  def f():\n{body}".replace("    x", "     x")) == ["m.py:A.f"]
    assert _too_long("m.py", f"def f():\n{body[:-10]}") == []
    assert _too_long("m.py", "x = 1\n" * 501) == ["m.py"]
