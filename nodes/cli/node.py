"""`mesh node`: run one, and take one out of service."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nodes.cli.command import OK, MeshGroup, Seconds, Shared
from nodes.cli.printing import print_json, print_pairs, say
from nodes.cli.session import AS_ONE_NODE_KNOWS, stale_option, talk

if TYPE_CHECKING:
    from mesh.client import MeshClient
    from mesh.documents import NodeView
    from nodes.settings import NodeSettings

CONFIG_KEYS = {
    "id": str,
    "bind": str,
    "advertise": str,
    "voters": list | str,
    "app": list | str,
    "data_dir": str,
    "slots": int,
    "labels": dict | str,
    "type": str,
    "secret_file": str,
    "heartbeat_interval_ms": int,
    "failure_threshold": int,
    "join": list | str,
    "voters_wanted": int,
    "replace_after_s": int | float,
    "drain_s": int | float,
}
"""What mesh.toml may hold: the flags, with underscores."""


@click.group("node", cls=MeshGroup)
def node() -> None:
    """Nodes.

    \b
    mesh node run --id n1 --app work:app
    mesh node run --id n4 --join 10.0.0.1:21000
    mesh node drain n2
    """


@node.command("run")
@click.option("--id", "id", metavar="ID", help="This node's name.  [required, here or in the file]")
@click.option("--bind", metavar="HOST:PORT", help="First of its four ports.  [default: 127.0.0.1:21000]")
@click.option(
    "--advertise", metavar="HOST:PORT", help="Where others reach it.  [default: as --voters says, else --bind]"
)
@click.option("--voters", metavar="ID@HOST:PORT,...", help="The founding nodes; the same list on each of them.")
@click.option("--join", metavar="HOST:PORT,...", help="Some nodes of a mesh that runs, to take part in it.")
@click.option("--app", multiple=True, metavar="MOD:ATTR", help="User code to run (may be repeated).")
@click.option("--data-dir", metavar="DIR", help="Where it keeps everything.  [default: .mesh/ID]")
@click.option("--slots", type=int, metavar="N", help="Attempts it runs at once.")
@click.option("--labels", metavar="K=V,...")
@click.option("--type", metavar="worker|provider|consumer|general", help="What it is there for.  [default: general]")
@click.option(
    "--heartbeat-interval-ms", type=int, metavar="MS", help="Heartbeats come at least this often.  [default: 1000]"
)
@click.option("--failure-threshold", type=int, metavar="N", help="Heartbeats that may be missed.  [default: 3]")
@click.option("--voters-wanted", type=int, metavar="N", help="Votes are given to joining nodes up to N.  [default: 5]")
@click.option(
    "--replace-after-s", type=Seconds(), metavar="S", help="A voter failed for so long is replaced.  [default: 600]"
)
@click.option("--drain-s", type=Seconds(), metavar="S", help="When stopped, what runs may go on.  [default: 30]")
@click.option("--protocol", type=int, metavar="N", hidden=True)  # For rolling upgrades: the version before this one.
@click.option("--config", metavar="FILE", help="A TOML file with the same settings; flags win.")
@click.pass_obj
def run(shared: Shared, /, config: str | None, app: tuple[str, ...], **flags: Any) -> int:
    """Run one node, in the foreground, until it is told to stop.

    Without --voters and --join it is a mesh of one, or goes on in the mesh its data directory belongs to. It writes
    nothing outside that. Told to stop (SIGTERM, Ctrl-C), it lets what runs finish, and leaves; told twice, it ends.
    """
    from nodes.lifeline import die_with_parent
    from nodes.process import run_node
    from nodes.stalls import WatchedLoop

    die_with_parent()
    given = {name: value for name, value in flags.items() if value is not None}
    if app:
        given["app"] = list(app)
    if shared.secret_file is not None:
        given["secret_file"] = shared.secret_file
    settings = node_settings((_from_file(config) if config is not None else {}) | given)

    def on_ready(document: dict[str, Any]) -> None:
        if shared.as_json:
            print_json(document)
        else:
            say(f"{document['id']} serves at {document['address']} (pid {document['pid']})")

    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        return runner.run(run_node(settings, on_ready=on_ready))


@node.command("drain")
@click.argument("node_id", metavar="ID")
@click.option("--reason", default="")
@click.pass_obj
def drain(shared: Shared, node_id: str, reason: str) -> int:
    """Give a node no more work; what it runs, it finishes."""

    async def work(mesh: MeshClient) -> int:
        await mesh.drain(node_id, reason, timeout=shared.left_s())
        return _done(shared, node_id, "draining")

    return talk(shared, work)


@node.command("undrain")
@click.argument("node_id", metavar="ID")
@click.pass_obj
def undrain(shared: Shared, node_id: str) -> int:
    """Give it work again."""

    async def work(mesh: MeshClient) -> int:
        await mesh.undrain(node_id, timeout=shared.left_s())
        return _done(shared, node_id, "active")

    return talk(shared, work)


@node.command("forget")
@click.argument("node_id", metavar="ID")
@click.pass_obj
def forget(shared: Shared, node_id: str) -> int:
    """Remove a node from the mesh for good. If it runs, it ends; its data directory is never let in again."""

    async def work(mesh: MeshClient) -> int:
        await mesh.forget(node_id, timeout=shared.left_s())
        if shared.as_json:
            print_json({"id": node_id, "forgotten": True})
        else:
            click.echo(f"{node_id} is forgotten")
        return OK

    return talk(shared, work)


@node.command("show")
@click.argument("node_id", metavar="ID")
@stale_option()
@click.pass_obj
def show(shared: Shared, node_id: str, stale: bool) -> int:
    """One node, as the mesh sees it."""

    async def work(mesh: MeshClient) -> int:
        from mesh.errors import NotFound

        # A status says itself whether it is stale; it needs no quorum.
        seen = await mesh.status(stale=stale, timeout=shared.left_s())
        if seen.stale:
            say(AS_ONE_NODE_KNOWS)
        found = next((one for one in seen.nodes if one.id == node_id), None)
        if found is None:
            known = ", ".join(one.id for one in seen.nodes)
            raise NotFound(f"there is no node {node_id!r}; there are {known}")
        if shared.as_json:
            print_json(_document(found) | {"stale": seen.stale})
        else:
            print_pairs([(name.replace("_", " "), _shown(value)) for name, value in _document(found).items()])
        return OK

    return talk(shared, work)


def _document(found: NodeView) -> dict[str, Any]:
    return {name: getattr(found, name) for name in found.__struct_fields__}


def _shown(value: Any) -> Any:
    return (", ".join(value) if isinstance(value, list) else value) if value not in ("", []) else None


def _done(shared: Shared, node_id: str, admin: str) -> int:
    if shared.as_json:
        print_json({"id": node_id, "admin": admin})
    else:
        click.echo(f"{node_id} is {admin}")
    return OK


def node_settings(given: dict[str, Any]) -> NodeSettings:
    """Settings from flags and file. Raises a usage error."""
    from nodes.settings import NodeSettings

    if not given.get("id"):
        raise click.UsageError("--id is missing: every node has a name")
    fields: dict[str, Any] = dict(given)
    fields["voters"] = _voters(fields.pop("voters", ""))
    apps = fields.pop("app", ())
    fields["apps"] = (apps,) if isinstance(apps, str) else tuple(apps)
    seeds = fields.pop("join", ())
    fields["join"] = tuple(part.strip() for part in _listed(seeds) if part.strip())
    fields["labels"] = _labels(fields.pop("labels", ""))
    if "type" in fields:
        fields["kind"] = fields.pop("type")
    for name in ("data_dir", "secret_file"):
        if name in fields:
            fields[name] = Path(fields[name])
    return NodeSettings(**fields)


def _from_file(path: str) -> dict[str, Any]:
    """What mesh.toml says; relative paths in it are relative to it."""
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is not TOML: {error}") from None
    for key, value in found.items():
        kind = CONFIG_KEYS.get(key)
        if kind is None:
            raise click.UsageError(f"{path} has {key!r}, which is no setting; there are {', '.join(CONFIG_KEYS)}")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise click.UsageError(f"{path}: {key} cannot be {value!r}")
    for key in ("data_dir", "secret_file"):
        if key in found:
            found[key] = str(Path(path).parent / found[key])
    return found


def _listed(text: str | list[Any]) -> list[str]:
    return text.split(",") if isinstance(text, str) else [str(part) for part in text]


def _voters(text: str | list[Any]) -> tuple[tuple[str, str], ...]:
    voters = []
    for part in _listed(text):
        name, at, address = part.strip().partition("@")
        if not part.strip():
            continue
        if not (name and at and address):
            raise click.UsageError(f"a voter is ID@HOST:PORT, not {part!r}")
        voters.append((name, address))
    return tuple(voters)


def _labels(text: str | dict[str, Any]) -> tuple[tuple[str, str], ...]:
    if isinstance(text, dict):
        return tuple((str(key), str(value)) for key, value in text.items())
    labels = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not (key and equals):
            raise click.UsageError(f"a label is K=V, not {part!r}")
        labels.append((key, value))
    return tuple(labels)
