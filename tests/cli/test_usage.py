"""What `mesh` says without any mesh: help, wrong usage, nobody there. One sentence and an exit code, no traceback."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mesh.errors import TaskFailed, Unschedulable
from mesh.ids import TaskId
from nodes.cli import mesh as root
from nodes.cli.command import MeshCommand, MeshGroup, exit_code_of
from nodes.cli.node import _from_file, node_settings
from nodes.cli.printing import as_text, clean
from nodes.local_mesh import free_base_port
from nodes.settings import NodeSettings
from tests.cli.command import environment, mesh


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["task", "submit"],
        ["task", "submit", "code", "{bad"],
        ["task", "submit", "code", '{"a": NaN}'],
        ["task", "submit", "code", "@/no/such/file"],
        ["task", "submit", "code", "{}", "--priority", "soon"],
        ["task", "submit", "code", "{}", "--id", ""],
        ["task", "submit", "code", "{}", "--id", "two\nlines"],
        ["task", "submit", "code", "{}", "--delay", "nan"],
        ["task", "submit", "code", "{}", "--delay", "1e300"],
        ["status", "--timeout", "nan"],
        ["status", "--timeout", "inf"],
        ["events", "--after", "99999999999999999999"],
        ["task", "list", "--state", "unheard-of"],
        ["status", "--timeout", "0"],
        ["status", "--peer", "nowhere"],
        ["status", "--secret-file", "/no/such/file"],
        ["dlq", "retry"],
        ["dlq", "retry", "t1", "--all"],
        ["task", "submit", "code", "--id", "t1", "--key", "k"],
        ["task", "submit", "code", "--concurrency", "k"],
        ["task", "cancel", "capability=a,type=b"],
        ["queue", "pause", "code", "--for", "0"],
        ["cron", "set", "often", "@hourly", "code", "--overlap", "all"],
        ["settings", "set", "ageing_ms", "5s"],
        ["node", "run"],
        ["node", "run", "--id", "n1", "--voters", "n2@127.0.0.1:21000"],
        ["node", "run", "--id", "n1", "--voters", "127.0.0.1:21000"],
        ["node", "run", "--id", "n1", "--labels", "zone"],
        ["node", "run", "--id", "../n1"],
        ["node", "run", "--id", "n" * 65],
        ["node", "run", "--id", "n1\x1b[31m"],
        ["node", "run", "--id", "n1", "--slots", "99999999999999999999"],
        ["node", "run", "--id", "n1", "--heartbeat-interval-ms", "99999999999999999999"],
        ["node", "run", "--id", "n1", "--voters", "n1@127.0.0.1:21000,n2@127.0.0.1:21000"],
        ["node", "run", "--id", "n1", "--voters", "n1@127.0.0.1:21010", "--bind", "127.0.0.1:21000"],
        ["node", "run", "--id", "n1", "--config", "/no/such/file"],
        ["node", "run", "--id", "n1", "--voters", "n1@127.0.0.1:21000", "--join", "127.0.0.1:21010"],
        ["node", "run", "--id", "n1", "--join", "nowhere"],
        ["node", "run", "--id", "n1", "--join", "127.0.0.1:21000"],
        ["node", "run", "--id", "n1", "--voters-wanted", "8"],
        ["node", "run", "--id", "n1", "--replace-after-s", "-1"],
        ["node", "run", "--id", "n1", "--drain-s", "nan"],
        ["node", "run", "--id", "n1", "--type", "boss"],
        ["raft", "recover"],
        ["up", "--nodes", "0"],
        ["demo", "/no/such/directory"],
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(arguments: list[str]) -> None:
    ran = mesh(*arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran.err
    assert ran.err.startswith("mesh: ")


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ('{"a": 1e999}', "a number JSON cannot hold: inf"),
        ("123456789012345678901234567890", "an integer beyond 64 bits"),
        ('"\\ud800"', "not valid Unicode"),
    ],
)
def test_a_payload_that_cannot_be_sent_is_refused_before_anybody_is_asked(payload: str, why: str) -> None:
    """Nobody listens at that port, and the answer is 6 (refused), not 5 (unreachable)."""
    ran = mesh("task", "submit", "code", payload, "--peer", "127.0.0.1:1")
    assert (ran.code, ran.out) == (6, "")
    assert why in ran.err


def test_a_payload_over_a_mebibyte_is_refused_too(tmp_path: Path) -> None:
    big = tmp_path / "big.json"
    big.write_text('"' + "x" * (1 << 20) + '"')
    for arguments, stdin in ((["@" + str(big)], None), (["-"], big.read_text())):
        ran = mesh("task", "submit", "code", *arguments, "--peer", "127.0.0.1:1", stdin=stdin)
        assert (ran.code, ran.err) == (6, "mesh: the payload has 1,048,581 bytes, more than 1,048,576\n")


def test_where_no_mesh_is_the_exit_code_is_5_and_the_answer_comes_in_time() -> None:
    ran = mesh("status", "--peer", "127.0.0.1:1", "--timeout", "0.5")
    assert (ran.code, ran.out, ran.err.count("\n")) == (5, "", 1)
    assert "no node answered within 0.5 s" in ran.err
    assert "mesh up" in ran.err


def test_peers_come_from_the_environment_too() -> None:
    assert "127.0.0.1:2" in mesh("status", "--timeout", "0.3", MESH_PEER="127.0.0.1:2").err


def test_every_command_of_every_group_has_help_with_the_shared_options() -> None:
    """The tree is walked; commands that are not built yet are not in it."""
    found = []

    def walk(command: click.Command, path: str) -> None:
        if isinstance(command, MeshGroup):
            for name in command.list_commands(click.Context(command)):
                child = command.get_command(click.Context(command), name)
                assert child is not None
                walk(child, f"{path} {name}")
        else:
            assert isinstance(command, MeshCommand), path
            assert command.help, path
            options = {option for parameter in command.params for option in parameter.opts}
            assert {"--json", "--peer", "--secret-file", "--timeout"} <= options, path
            found.append(path.strip())

    walk(root, "")
    assert sorted(found) == sorted(
        "demo;up;node run;node drain;node undrain;node forget;node show;status;members;events;"
        "task submit;task show;task list;task result;task watch;task explain;task cancel;task retry;"
        "task reprioritize;queue list;queue clear;queue pause;queue resume;doctor;"
        "agent list;agent show;agent strategy;agent close-breaker;"
        "cron list;cron set;cron drop;cron pause;cron resume;settings list;settings set;"
        "dlq list;dlq show;dlq retry;dlq drop;raft status;raft transfer;raft add-voter;raft remove-voter;"
        "raft recover;key new;"
        "bench submit;bench latency;bench failover;chaos".split(";")
    )


def test_help_is_there_before_any_socket_library() -> None:
    """The prompt is quick because a command imports what it needs when it runs."""
    code = (
        "import sys\n"
        "from nodes.cli import main\n"
        "sys.argv = ['mesh', '--help']\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "assert not {'zmq', 'rich', 'msgspec', 'sqlite3'} & set(sys.modules), sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, capture_output=True, timeout=30)


def test_a_new_key_is_readable_by_its_owner_only_and_never_overwritten(tmp_path: Path) -> None:
    secret = tmp_path / "mesh.secret"
    assert mesh("key", "new", str(secret)).code == 0
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    first = secret.read_text()
    assert len(first.strip()) == 64
    ran = mesh("key", "new", str(secret))
    assert (ran.code, ran.err) == (1, f"mesh: {secret} cannot be written: File exists\n")
    assert secret.read_text() == first
    assert mesh("key", "new").out != mesh("key", "new").out


def test_settings_of_a_node_come_from_flags_before_the_file(tmp_path: Path) -> None:
    """Relative paths in the file are relative to it."""
    file = tmp_path / "mesh.toml"
    file.write_text(
        'id = "n1"\nbind = "127.0.0.1:22000"\nvoters = ["n1@127.0.0.1:22000", "n2@127.0.0.1:22010"]\n'
        'app = "work:app"\ndata_dir = "data"\nslots = 4\nlabels = {zone = "eu"}\nheartbeat_interval_ms = 250\n'
    )
    assert node_settings(_from_file(str(file)) | {"slots": 8}) == NodeSettings(
        id="n1",
        bind="127.0.0.1:22000",
        voters=(("n1", "127.0.0.1:22000"), ("n2", "127.0.0.1:22010")),
        apps=("work:app",),
        data_dir=tmp_path / "data",
        slots=8,
        labels=(("zone", "eu"),),
        heartbeat_interval_ms=250,
    )


@pytest.mark.parametrize(
    "text", ["nonsense = 1", "slots = 'many'", "slots = true", "id = ", "voters = ['n1']\nid = 'n1'"]
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text(text)
    ran = mesh("node", "run", "--config", str(file))
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err


def test_where_to_join_and_how_long_to_wait_may_stand_in_the_file(tmp_path: Path) -> None:
    """As a list or as the flag has it."""
    file = tmp_path / "mesh.toml"
    numbers = 'voters_wanted = 3\nreplace_after_s = 1.5\ndrain_s = 0\ntype = "worker"\n'
    for text in ('join = ["127.0.0.1:22000", "127.0.0.1:22010"]', 'join = "127.0.0.1:22000, 127.0.0.1:22010"'):
        file.write_text(f'id = "n4"\n{text}\n{numbers}')
        assert node_settings(_from_file(str(file))) == NodeSettings(
            id="n4",
            join=("127.0.0.1:22000", "127.0.0.1:22010"),
            voters_wanted=3,
            replace_after_s=1.5,
            drain_s=0,
            kind="worker",
        )


def test_a_node_that_finds_nobody_to_join_says_so_once_and_goes_on_asking(tmp_path: Path) -> None:
    """Told to stop, it stops, and has made nothing."""
    data = tmp_path / "n4"
    base = free_base_port(1)
    command = [sys.executable, "-m", "nodes", "node", "run", "--id", "n4", "--bind", f"127.0.0.1:{base}"]
    command += ["--join", "127.0.0.1:1", "--data-dir", str(data)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        process.terminate()
        _, rest = process.communicate(timeout=20)
    assert "waiting for a node to join at 127.0.0.1:1" in said
    assert (process.returncode, rest.count("\n"), data.exists()) == (0, 1, False), rest


def test_an_app_that_fails_when_imported_is_one_sentence_and_its_traceback_is_kept(tmp_path: Path) -> None:
    """Nothing of it on the terminal; all of it in the log that sentence names."""
    app = tmp_path / "broken.py"
    app.write_text("raise RuntimeError('at import')\n")
    base = free_base_port(1)
    data = tmp_path / "data"
    ran = mesh(
        "node", "run", "--id", "n1", "--bind", f"127.0.0.1:{base}", "--data-dir", str(data), "--app", f"{app}:app"
    )
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1), ran.err
    assert "RuntimeError: at import" in ran.err
    log = data / "agent.log"
    assert str(log) in ran.err
    assert "Traceback" in log.read_text()


def test_a_closed_stdout_is_no_surprise() -> None:
    ran = subprocess.run(
        [f"{sys.executable} -m nodes key new --json >&-"],
        shell=True,
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_other_peoples_text_cannot_command_the_terminal() -> None:
    assert clean("plain \N{SNOWMAN}") == "plain \N{SNOWMAN}"
    assert clean("\x1b[2Jgone\x07 \ud800 a\nb") == r"\x1b[2Jgone\x07 \ud800 a\nb"


def test_a_result_whose_keys_are_no_text_can_be_shown() -> None:
    """Results travel as MessagePack, which has more keys than JSON."""
    document = {"result": {1: "one", (1, 2): ["pair", {None: 0}]}}
    assert json.loads(as_text(document)) == {"result": {"1": "one", "[1,2]": ["pair", {"null": 0}]}}


def test_a_task_that_found_no_node_has_an_exit_code_of_its_own() -> None:
    """8, though it is a failed task too."""
    task_id = TaskId("t1")
    assert exit_code_of(Unschedulable(task_id, "unschedulable: no node offers 'code'")) == 8
    assert exit_code_of(TaskFailed(task_id, "ValueError: no")) == 1
