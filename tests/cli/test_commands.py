"""The commands against a mesh of three, started by `mesh up` as a user would, and then losing two nodes."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from nodes.local_mesh import free_base_port
from tests.cli.command import APP, Up, environment, mesh, start, three_up


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with three_up() as running:
        yield running


def test_the_ready_line_says_where_the_nodes_are(up: Up) -> None:
    assert (up.ready["event"], up.ready["http"]) == ("ready", None)
    assert [sorted(node) for node in up.ready["nodes"]] == [["address", "data_dir", "id", "pid"]] * 3
    assert [node["id"] for node in up.ready["nodes"]] == ["n1", "n2", "n3"]
    first, second, _ = (int(node["address"].rpartition(":")[2]) for node in up.ready["nodes"])
    assert second == first + 10
    for node in up.ready["nodes"]:
        os.kill(node["pid"], 0)
        assert Path(node["data_dir"]).is_dir()


def test_status_and_members(up: Up) -> None:
    status = up.mesh("status", "--json").document
    assert (status["version"], status["quorum"], status["stale"]) == (1, True, False)
    assert [node["id"] for node in status["nodes"]] == ["n1", "n2", "n3"]
    assert [node["health"] for node in status["nodes"]] == ["healthy"] * 3
    assert status["nodes"][0]["capabilities"] == ["echo", "fail", "nap"]
    assert {"pending", "running", "completed", "dead"} <= set(status["tasks"])
    assert up.mesh("members", "--json").document["leader"] == status["leader"]
    text = up.mesh("status").out
    assert f"led by {status['leader']} in term {status['term']}, 3 of 3 healthy" in text
    assert "\x1b" not in text


def test_submit_show_result_and_events(up: Up) -> None:
    accepted = up.mesh("task", "submit", "echo", '{"n": 1}', "--id", "t1", "--json").document
    assert sorted(accepted) == ["id", "index", "state"]
    assert up.mesh("task", "result", "t1").out == '{"n":1}\n'

    shown = up.mesh("task", "show", "t1", "--json").document
    assert (shown["state"], shown["result"], shown["attempts"], shown["error"]) == ("completed", {"n": 1}, 1, None)
    assert [item["event"] for item in shown["history"]] == ["task_submitted", "task_dispatched", "task_completed"]
    events = up.mesh("events", "--json", "--task", "t1").lines
    assert [event["event"] for event in events] == [item["event"] for item in shown["history"]]
    assert {"index", "at", "event", "node", "task"} <= set(events[0])

    # Again: the same task. With another payload: refused.
    again = up.mesh("task", "submit", "echo", '{"n": 1}', "--id", "t1", "--json")
    assert (again.code, again.document["state"]) == (0, "completed")
    assert up.mesh("task", "submit", "echo", '{"n": 2}', "--id", "t1").code == 6


@pytest.mark.parametrize("payload", ['{"n": 1}', "-", "@file"])
def test_wait_prints_the_whole_task(up: Up, payload: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text('{"n": 1}')
    argument = f"@{tmp_path / 'file'}" if payload == "@file" else payload
    ran = up.mesh("task", "submit", "echo", argument, "--wait", "--json", stdin='{"n": 1}' if payload == "-" else None)
    assert (ran.code, ran.document["state"], ran.document["result"]) == (0, "completed", {"n": 1})


def test_a_task_that_fails_is_exit_1_and_a_dead_letter(up: Up) -> None:
    arguments = ("fail", '{"why": "no way"}', "--id", "f1", "--max-attempts", "1", "--wait", "--json")
    ran = up.mesh("task", "submit", *arguments)
    assert (ran.code, ran.document["state"], ran.document["error"]) == (1, "dead", "ValueError: no way")
    assert up.mesh("task", "result", "f1").code == 1
    letters = up.mesh("dlq", "list", "--json").document["dead_letters"]
    assert [(letter["id"], letter["error"]) for letter in letters] == [("f1", "ValueError: no way")]
    assert up.mesh("dlq", "show", "f1", "--json").document["attempts"] == 1
    assert up.mesh("dlq", "show", "t1").code == 3

    assert up.mesh("dlq", "retry", "--all", "--json").document == {
        "retried": ["f1"],
        "refused": [],
        "count": 1,
        "dependents": [],
    }
    assert up.mesh("task", "watch", "f1", "--json").code == 1
    assert up.mesh("dlq", "drop", "f1", "nope", "--reason", "known", "--json").code == 7
    assert up.mesh("task", "show", "f1", "--json").document["state"] == "failed"
    assert up.mesh("dlq", "drop", "nope").code == 3


def test_a_task_that_goes_on_is_exit_4_and_can_be_cancelled(up: Up) -> None:
    ran = up.mesh("task", "submit", "nap", '{"seconds": 60}', "--id", "s1", "--wait", "--timeout", "1", "--json")
    assert (ran.code, ran.document["state"]) == (4, "running")
    assert up.mesh("task", "result", "s1", "--timeout", "0.3").code == 4
    assert up.mesh("task", "cancel", "s1", "--reason", "enough", "--json").document == {
        "cancelled": ["s1"],
        "refused": [],
        "count": 1,
        "dependents": [],
    }
    assert up.mesh("task", "cancel", "s1").code == 0
    assert up.mesh("task", "cancel", "t1").code == 6
    assert up.mesh("task", "cancel", "nope").code == 3


def test_a_task_nobody_can_do_is_exit_8_and_says_why(up: Up) -> None:
    ran = up.mesh("task", "submit", "fly", "--id", "u1", "--wait", "--timeout", "1")
    assert ran.code == 8
    assert "No node offers the capability 'fly'" in ran.err
    explained = up.mesh("task", "explain", "u1", "--json").document
    assert (explained["state"], explained["reason"], len(explained["nodes"])) == ("pending", "no_capability", 3)
    assert up.mesh("task", "submit", "fly", "--id", "u2", "--priority", "low").code == 0

    # Several at once: by conditions, after a look, and not without being sure.
    assert up.mesh("task", "cancel", "capability=fly,priority=6-9", "--dry-run").out == "u2\n"
    assert up.mesh("task", "cancel", "capability=fly").code == 2
    assert up.mesh("task", "cancel", "capability=fly", "--yes").out == "cancelled u1\ncancelled u2\n"


def test_lists_come_in_pages(up: Up) -> None:
    for name in ("p1", "p2", "p3"):
        assert up.mesh("task", "submit", "echo", "--id", name, "--wait").code == 0
    page = up.mesh("task", "list", "--state", "completed", "--after", "p", "--limit", "2", "--json").document
    assert ([task["id"] for task in page["tasks"]], page["next"]) == (["p1", "p2"], "p2")
    rest = up.mesh("task", "list", "--state", "completed", "--after", "p2", "--limit", "1", "--json").document
    assert [task["id"] for task in rest["tasks"]] == ["p3"]


def test_leadership_and_draining(up: Up) -> None:
    leader = up.mesh("status", "--json").document["leader"]
    other = next(name for name in ("n1", "n2", "n3") if name != leader)
    assert up.mesh("raft", "transfer", other, "--json").document == {"leader": other}
    raft = up.mesh("raft", "status", "--json").document
    assert (raft["node"], raft["leader"], raft["role"], len(raft["peers"])) == (other, other, "leader", 3)
    assert up.mesh("raft", "transfer", "n9").code == 3

    assert up.mesh("node", "drain", leader, "--json").document == {"id": leader, "admin": "draining"}
    admin = {node["id"]: node["admin"] for node in up.mesh("members", "--json").document["members"]}
    assert admin[leader] == "draining"
    assert up.mesh("node", "undrain", leader).code == 0
    assert up.mesh("node", "drain", "n9").code == 3


def test_one_node_in_full(up: Up) -> None:
    shown = up.mesh("node", "show", "n2", "--json").document
    assert (shown["id"], shown["role"], shown["health"], shown["admin"], shown["stale"]) == (
        "n2",
        "voter",
        "healthy",
        "active",
        False,
    )
    assert shown["address"] == up.ready["nodes"][1]["address"]
    text = up.mesh("node", "show", "n2").out
    assert f"address            {shown['address']}\n" in text
    ran = up.mesh("node", "show", "n9")
    assert (ran.code, ran.err) == (3, "mesh: there is no node 'n9'; there are n1, n2, n3\n")


def test_votes_are_taken_and_given(up: Up) -> None:
    """And nobody loses a vote that is not there, nor the mesh its last."""
    assert up.mesh("raft", "remove-voter", "n3", "--json").document == {"id": "n3", "role": "learner"}
    assert up.mesh("node", "show", "n3", "--json").document["role"] == "learner"
    assert up.mesh("raft", "add-voter", "n3").out == "n3 has a vote\n"
    assert up.mesh("node", "show", "n3", "--json").document["role"] == "voter"
    for order in (("raft", "add-voter"), ("raft", "remove-voter"), ("node", "forget")):
        ran = up.mesh(*order, "n9")
        assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 1), ran.err
        assert "'n9' does not take part in this mesh" in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        "status",
        "members",
        "raft status",
        "task list",
        "task show t1",
        "task result t1",
        "dlq list",
        "events",
        "node show n1",
    ],
)
def test_one_node_can_be_asked_alone_and_it_is_said_that_it_was(up: Up, arguments: str) -> None:
    """Quickly, and without a quorum. Where the document can say it, it does."""
    ran = up.mesh(*arguments.split(), "--stale", "--json")
    assert (ran.code, ran.err) == (0, "this is what one node knows, and may be out of date\n")
    if arguments in ("status", "members", "task list", "task show t1", "node show n1"):
        assert ran.document["stale"] is True


def test_one_node_alone_does_not_wait_for_a_result_and_says_how_it_stands(up: Up) -> None:
    assert up.mesh("task", "submit", "nap", '{"seconds": 60}', "--id", "s2").code == 0
    ran = up.mesh("task", "result", "s2", "--stale")
    assert ran.code in (3, 4), "the node asked may not know it yet"
    assert up.mesh("task", "cancel", "s2").code == 0
    assert up.mesh("task", "result", "s2").code == 1


def test_events_can_be_followed(up: Up) -> None:
    """What happens next arrives as it happens; an interrupt ends it with 130."""
    following = subprocess.Popen(
        [sys.executable, "-m", "nodes", "events", "-f", "--json", "--task", "e1", "--peer", up.peer],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        # Whoever runs the tests in the background of a shell has it ignored, and so would this process.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - It takes no lock.
    )
    assert up.mesh("task", "submit", "echo", "--id", "e1", "--wait").code == 0
    assert following.stdout is not None
    seen = [json.loads(following.stdout.readline())["event"] for _ in range(3)]
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=10)
    assert seen == ["task_submitted", "task_dispatched", "task_completed"]
    assert (following.returncode, err.strip()) == (130, "interrupted; whatever was submitted goes on")


def test_a_second_mesh_on_the_same_ports_is_one_sentence_and_exit_1(up: Up) -> None:
    base = up.peer.split(",")[0].rpartition(":")[2]
    ran = mesh("up", "--base-port", base, "--json")
    assert (ran.code, ran.out) == (1, "")
    assert "could not start" in ran.err


def test_an_unknown_app_is_one_sentence_and_exit_1() -> None:
    ran = mesh("up", "--nodes", "1", "--app", "no.such.module:app", "--base-port", str(free_base_port(1)), "--json")
    assert (ran.code, ran.out) == (1, "")
    assert "no.such.module" in ran.err


def test_zz_without_a_quorum_reads_are_marked_and_writes_are_exit_5(up: Up) -> None:
    """Last, because two of the three nodes are killed: by the pids of the ready line."""
    leader = up.mesh("status", "--json").document["leader"]
    nodes = {node["id"]: node["pid"] for node in up.ready["nodes"]}
    kept = next(name for name in nodes if name != leader)
    for name, pid in nodes.items():
        if name != kept:
            os.kill(pid, signal.SIGKILL)
    up.peer = ",".join(node["address"] for node in up.ready["nodes"])
    status = up.mesh("status", "--json", "--timeout", "8")
    assert (status.code, status.document["stale"], status.document["quorum"]) == (0, True, False)
    ran = up.mesh("task", "submit", "echo", "{}", "--id", "q1", "--timeout", "2")
    assert (ran.code, ran.out, ran.err.count("\n")) == (5, "", 1), ran.err
    shown = up.mesh("task", "show", "t1", "--json", "--timeout", "4")
    assert (shown.code, shown.document["stale"], shown.document["state"]) == (0, True, "completed")


def test_mesh_up_ends_quickly_though_all_its_nodes_leave_at_once() -> None:
    """The last ones have nobody left to agree with, and what runs is given 1 s here."""
    arguments = ("--app", APP, "--base-port", str(free_base_port(3)), "--drain-s", "1")
    process = start(*arguments)
    assert process.stdout is not None
    peer = json.loads(process.stdout.readline())["nodes"][0]["address"]
    assert mesh("task", "submit", "nap", '{"seconds": 60}', "--peer", peer).code == 0
    began_s = time.monotonic()
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert time.monotonic() - began_s < 6.0


def test_the_nodes_do_not_outlive_mesh_up() -> None:
    """SIGTERM ends them in order and removes the data; SIGKILL, which asks nobody, takes them along."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = start("--nodes", "1", "--base-port", str(free_base_port(1)))
        assert process.stdout is not None
        (node,) = json.loads(process.stdout.readline())["nodes"]
        end_of_node = os.pidfd_open(node["pid"])
        process.send_signal(number)
        ended, _, _ = select.select([end_of_node], [], [], 20)
        os.close(end_of_node)
        process.communicate(timeout=20)
        assert ended == [end_of_node]
        if number == signal.SIGTERM:
            assert process.returncode == 0
            assert not Path(node["data_dir"]).exists()
