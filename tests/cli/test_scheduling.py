"""Scheduling from the command line, against a mesh of three that `mesh up` started: what waits, why, and what to do."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from mesh import connect_sync
from tests.cli.command import Up, mesh, three_up


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with three_up() as running:
        yield running


def findings(up: Up, about: str) -> list[Any]:
    """What `mesh doctor` says about this; on a busy machine it may say more of other things."""
    document = up.mesh("doctor", "--json").document
    assert document["ok"] is (not document["findings"])
    return [finding for finding in document["findings"] if about in finding["what"]]


def queue_of(up: Up, capability: str) -> Any:
    [queue] = [one for one in up.mesh("queue", "list", "--json").document["queues"] if one["capability"] == capability]
    return queue


def test_s4_42_a_mesh_that_is_well_is_told_so(up: Up) -> None:
    """Heartbeats may be late here, which is said too: so it is asked until they are not."""
    while (ran := up.mesh("doctor")).code:
        assert ran.code == 1
        assert ran.out.startswith(("minor: n", "serious: n"))
    assert ran.out.startswith("Nothing is wrong: 3 nodes, led by n")
    assert mesh("doctor", "--peer", "127.0.0.1:1", "--timeout", "0.3").code == 5


def test_s4_41_a_task_that_nobody_offers_is_found_by_doctor_explain_and_queue_list(up: Up) -> None:
    """The agents are active, and none was discovered for it. Once it is cancelled nothing is said of it."""
    assert up.mesh("task", "submit", "fly", "--id", "u1", "--priority", "low").code == 0
    [finding] = findings(up, "'fly'")
    assert finding["severity"] == "serious"
    assert finding["what"] == "1 task waits for 'fly', which no agent offers."
    assert "n2 offers echo, fail, nap" in finding["why"]
    assert "mesh task cancel capability=fly" in finding["do"]

    ran = up.mesh("doctor")
    assert ran.code == 1
    assert f"serious: {finding['what']}\n  why  " in ran.out

    explained = up.mesh("task", "explain", "u1", "--json").document
    assert (explained["reason"], explained["rejected"]) == ("no_capability", {"capability": 3})
    assert "nodes rejected by capability: 3\n" in up.mesh("task", "explain", "u1").out

    queue = queue_of(up, "fly")
    assert (queue["waiting"], queue["running"], queue["paused"]) == (1, 0, False)
    text = up.mesh("queue", "list").out
    assert "fly         1        0" in text
    assert "waiting by priority  8: 1\n" in text

    assert up.mesh("task", "cancel", "type=fly", "--yes").out == "cancelled u1\n"
    assert findings(up, "'fly'") == []


def test_s4_41_a_task_whose_labels_no_node_has_is_found(up: Up) -> None:
    """Though every node is active and offers it."""
    assert up.mesh("task", "submit", "echo", "--id", "l1", "--require", "gpu=yes").code == 0
    [finding] = findings(up, "'echo'")
    assert finding["what"] == "1 task waits for 'echo', and no node will do."
    assert finding["why"].startswith("Of l1: n1 has gpu='', not 'yes'; n2 has")
    assert up.mesh("task", "explain", "l1", "--json").document["rejected"] == {"labels": 3}
    assert up.mesh("task", "cancel", "l1").code == 0


def test_s4_41_a_paused_queue_is_found_and_resumed(up: Up) -> None:
    """Nothing of it begins; what waited goes on afterwards."""
    ran = up.mesh("queue", "pause", "echo", "--reason", "too hot", "--for", "10m", "--json").document
    assert (ran["capability"], ran["paused"], ran["reason"]) == ("echo", True, "too hot")
    queue = queue_of(up, "echo")
    assert (queue["paused"], queue["paused_until"], queue["reason"]) == (True, ran["until"], "too hot")
    assert up.mesh("task", "submit", "echo", '{"n": 1}', "--id", "p1").code == 0
    assert "the queue of 'echo' is paused for" in up.mesh("task", "explain", "p1").out
    [finding] = findings(up, "'echo'")
    assert (finding["severity"], finding["do"]) == ("minor", "When the reason is gone: mesh queue resume echo.")
    assert "(too hot)" in up.mesh("queue", "list").out

    assert up.mesh("queue", "resume", "echo", "--json").document == {"capability": "echo", "paused": False}
    assert up.mesh("task", "result", "p1").out == '{"n":1}\n'
    assert "held so far by n" in up.mesh("task", "explain", "p1").out
    assert up.mesh("queue", "pause", "echo").out == "echo is paused\n"
    assert up.mesh("queue", "resume", "echo").out == "echo goes on\n"


def test_tasks_held_back_by_a_full_key_are_found(up: Up) -> None:
    """One naps under the key; the other waits for it, though nodes are free."""
    for name in ("k1", "k2"):
        assert up.mesh("task", "submit", "nap", '{"seconds": 60}', "--id", name, "--concurrency", "one:1").code == 0
    [finding] = findings(up, "'nap'")
    assert (finding["severity"], finding["what"]) == (
        "minor",
        "1 task waits for 'nap', held back though nodes are there.",
    )
    assert finding["why"] == "Of k2: 1 tasks run under concurrency key 'one', 1 may."
    full = up.mesh("task", "submit", "nap", "--concurrency", "one:1:reject", "--timeout", "1")
    assert (full.code, "concurrency key is full" in full.err) == (6, True), full.err
    assert up.mesh("task", "cancel", "type=nap,state=running,state=pending", "--yes").out == (
        "cancelled k1\ncancelled k2\n"
    )


def test_a_task_that_finds_no_node_in_time_is_exit_8(up: Up) -> None:
    ran = up.mesh("task", "submit", "fly", "--id", "s1", "--schedule-timeout", "100ms", "--wait", "--json")
    assert (ran.code, ran.document["state"]) == (8, "dead")
    assert ran.document["error"].startswith("unschedulable")
    assert up.mesh("dlq", "drop", "s1").code == 0


def test_s1_33_s1_35_cancelling_by_conditions_names_the_dependents_first(up: Up) -> None:
    """`child` was submitted by the code of `parent`: it is left, unless it is meant too."""
    with connect_sync(up.peer) as client:
        for round_number, (dependents, left) in enumerate((("leave", "running"), ("cancel", "cancelled"))):
            parent, child = f"parent{round_number}", f"child{round_number}"
            client.submit("nap", {"seconds": 60}, task_id=parent, priority=7)
            client.submit("nap", {"seconds": 60}, task_id=child, parent=parent)
            arguments = ("task", "cancel", "capability=nap,priority=7-9", "--dependents", dependents)
            dry = up.mesh(*arguments, "--dry-run", "--json").document
            meant = [parent] if dependents == "leave" else [child, parent]
            assert dry == {"would_cancel": meant, "count": len(meant), "dependents": [child]}
            done = up.mesh(*arguments, "--yes", "--reason", "enough", "--json").document
            assert done == {"cancelled": meant, "refused": [], "count": len(meant), "dependents": [child]}
            assert client.task(parent).state == "cancelled"
            assert client.task(child).state in (left, "dispatched" if left == "running" else left)
        assert up.mesh("task", "cancel", "child0", "--json").document["count"] == 1
        assert up.mesh("task", "cancel", "capability=nap", "--json").document["count"] == 0


def test_s4_03_a_priority_is_changed_and_a_whole_one_cleared(up: Up) -> None:
    for name in ("c1", "c2", "c3"):
        assert up.mesh("task", "submit", "fly", "--id", name).code == 0
    assert up.mesh("task", "reprioritize", "c1", "high", "--json").document == {"id": "c1", "priority": "high"}
    assert up.mesh("task", "show", "c1", "--json").document["priority"] == 3
    assert up.mesh("task", "reprioritize", "nope", "3").code == 3
    assert up.mesh("queue", "list", "--json").document["by_priority"] == {"3": 1, "5": 2}
    ran = up.mesh("queue", "clear", "--priority", "5")
    assert (ran.code, "2 tasks match; say --yes" in ran.err) == (2, True), ran.err
    cleared = up.mesh("queue", "clear", "--priority", "5", "--yes", "--reason", "old", "--json").document
    assert (cleared["cancelled"], cleared["count"]) == (["c2", "c3"], 2)
    assert up.mesh("queue", "clear", "--priority", "high").out == "cancelled c1\n"


def test_dead_letters_by_error_with_every_attempt_retried_and_dropped(up: Up) -> None:
    assert up.mesh("settings", "set", "breaker_failures", "0").out == "breaker_failures is 0\n"
    for name, why in (("d1", "no 1"), ("d2", "no 2"), ("d3", "never")):
        arguments = ("--id", name, "--max-attempts", "2", "--retry-base", "10ms", "--retry-jitter", "0", "--wait")
        assert up.mesh("task", "submit", "fail", f'{{"why": "{why}"}}', *arguments).code == 1
    groups = up.mesh("dlq", "list", "--group", "--json").document["groups"]
    assert [(group["capability"], group["error"], group["count"], group["example"]) for group in groups] == [
        ("fail", "ValueError: no #", 2, "d2"),
        ("fail", "ValueError: never", 1, "d3"),
    ]
    assert "2      fail" in up.mesh("dlq", "list", "--group").out
    text = up.mesh("dlq", "show", "d1").out
    for attempt in ("attempt 1 on n", "attempt 2 on n"):
        assert text.count(attempt) == 1, text
    assert text.count("\n    ValueError: no 1\n") == 2, text

    # Another payload for one; by error for some; and not all without being sure.
    assert up.mesh("dlq", "retry", "d3", "--payload", '{"why": "still"}').out == "retried d3\n"
    assert up.mesh("task", "watch", "d3").code == 1
    assert up.mesh("task", "show", "d3", "--json").document["error"] == "ValueError: still"
    assert up.mesh("dlq", "retry", "--all", "--error", "no 1").out == "retried d1\n"
    assert up.mesh("task", "watch", "d1").code == 1
    assert up.mesh("dlq", "drop", "--all", "--capability", "fail").code == 2
    dropped = up.mesh("dlq", "drop", "--all", "--yes", "--capability", "fail", "--reason", "known", "--json").document
    assert (sorted(dropped["dropped"]), dropped["count"]) == (["d1", "d2", "d3"], 3)
    assert up.mesh("task", "show", "d1", "--json").document["state"] == "failed"


def test_a_task_that_is_held_waits_until_somebody_retries_it(up: Up) -> None:
    """Its node is given up while it runs, and it is not to run twice unasked: `dlq retry --all` does not mean it."""
    with connect_sync(up.peer) as client:
        assert up.mesh("task", "submit", "nap", '{"seconds": 60}', "--id", "h1", "--on-loss", "hold").code == 0
        while (task := client.task("h1")).state != "running" or task.node is None:
            assert task.state in ("pending", "dispatched", "running")
        client.recover(task.node)
        assert client.task("h1").state == "paused"
    assert "held until somebody says" in up.mesh("task", "explain", "h1").out
    assert up.mesh("dlq", "retry", "--all", "--json").document["count"] == 0
    assert up.mesh("task", "retry", "h1", "--payload", '{"seconds": 0}', "--json").document == {
        "retried": ["h1"],
        "refused": [],
    }
    assert up.mesh("task", "watch", "h1").code == 0


def test_agents_their_breakers_and_how_they_are_chosen(up: Up) -> None:
    """S4-21, S4-22, S2-22: after one failure a node is not trusted with `fail` until somebody says so."""
    seen = up.mesh("agent", "list", "--json").document
    assert seen["strategy"] == "least_connections"
    assert [(one["id"], one["type"], one["slots"] > 0) for one in seen["agents"]] == [
        (name, "general", True) for name in ("n1", "n2", "n3")
    ]
    assert "echo,fail,nap" in up.mesh("agent", "list").out
    assert up.mesh("agent", "strategy", "round_robin", "--json").document == {"strategy": "round_robin"}
    assert up.mesh("agent", "strategy").out == "round_robin\n"
    assert up.mesh("settings", "set", "strategy", "least_connections").out == "strategy is 0 (least_connections)\n"

    assert up.mesh("settings", "set", "breaker_failures", "1", "--json").document == {
        "name": "breaker_failures",
        "value": 1,
    }
    ran = up.mesh("task", "submit", "fail", '{"why": "no"}', "--id", "b1", "--max-attempts", "1", "--wait", "--json")
    node = ran.document["node"]
    [breaker] = up.mesh("agent", "show", node, "--json").document["breakers"]
    assert (breaker["capability"], breaker["state"]) == ("fail", "open")
    assert f"fail     open   {breaker['failures']}  " in up.mesh("agent", "show", node).out
    assert "fail:open" in up.mesh("agent", "list").out
    [finding] = findings(up, "'fail'")
    assert finding["what"] == "Not every node is trusted with 'fail' just now."
    assert finding["why"].startswith(f"{node} failed ")
    assert up.mesh("agent", "close-breaker", node, "fail").out == f"{node} is trusted with fail again\n"
    assert findings(up, "'fail'") == []
    assert up.mesh("agent", "close-breaker", "n9", "fail").code == 3
    assert up.mesh("agent", "show", "n9").code == 3
    assert up.mesh("dlq", "drop", "b1").code == 0


def test_settings_are_listed_and_bounded(up: Up) -> None:
    assert up.mesh("settings", "set", "ageing_ms", "30000").code == 0
    settings = up.mesh("settings", "list", "--json").document["settings"]
    assert (settings["ageing_ms"], settings["dead_letters_max"]) == (30_000, 100_000)
    assert "ageing_ms            30000\n" in up.mesh("settings", "list").out
    ran = up.mesh("settings", "set", "ageing_ms", "-1000000000")
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    ran = up.mesh("settings", "set", "reserve_permille", "1001")
    assert (ran.code, ran.err) == (6, "mesh: reserve_permille lies between 0 and 1000, not at 1001\n")
    ran = up.mesh("settings", "set", "colour", "1")
    assert (ran.code, ran.err.startswith("mesh: no setting is called 'colour'")) == (6, True)


def test_a_schedule_is_set_rests_goes_on_and_is_dropped(up: Up) -> None:
    arguments = (
        "often",
        "@every 1s",
        "echo",
        '{"n": 1}',
        "--overlap",
        "allow",
        "--catch-up",
        "none",
        "--priority",
        "low",
    )
    seen = up.mesh("cron", "set", *arguments, "--jitter", "10ms", "--run-timeout", "1m", "--json").document
    assert (seen["name"], seen["expression"], seen["zone"], seen["overlap"]) == ("often", "@every 1s", "UTC", "allow")
    while not (cron := up.mesh("cron", "list", "--json").document["crons"][0])["last_task"]:
        assert not cron["paused"]
    assert up.mesh("task", "result", cron["last_task"]).out == '{"n":1}\n'
    assert up.mesh("cron", "pause", "often").out == "often is paused\n"
    assert "paused" in up.mesh("cron", "list").out
    resumed = up.mesh("cron", "resume", "often", "--json").document
    assert (resumed["paused"], resumed["next"] >= cron["next"], resumed["overlap"]) == (False, True, "allow")
    assert up.mesh("cron", "drop", "often", "--json").document == {"name": "often", "dropped": True}
    for order in ("pause", "resume", "drop"):
        assert up.mesh("cron", order, "often").code == 3
    ran = up.mesh("cron", "set", "often", "61 * * * *", "echo")
    assert (ran.code, ran.out, ran.err.count("\n")) == (6, "", 1), ran.err


def test_one_node_can_be_asked_alone(up: Up) -> None:
    for command in ("queue list", "agent list", "agent show n1", "cron list", "settings list", "dlq list --group"):
        ran = up.mesh(*command.split(), "--stale", "--json")
        assert (ran.code, ran.err) == (0, "this is what one node knows, and may be out of date\n"), command
        assert ran.document


def test_zz_without_a_quorum_the_doctor_says_so_first(up: Up) -> None:
    """Last, because two of the three nodes are killed: by the pids of the ready line."""
    leader = up.mesh("status", "--json").document["leader"]
    nodes = {node["id"]: node["pid"] for node in up.ready["nodes"]}
    kept = next(name for name in nodes if name != leader)
    for name, pid in nodes.items():
        if name != kept:
            os.kill(pid, signal.SIGKILL)
    up.peer = next(node["address"] for node in up.ready["nodes"] if node["id"] == kept)
    while not (ran := up.mesh("doctor", "--json")).document["findings"][0]["what"].startswith("There is no quorum"):
        assert ran.document["findings"][0]["severity"] == "critical", "it may not have noticed yet who is gone"
    assert (ran.code, ran.err) == (1, "this is what one node knows, and may be out of date\n")
    first, *others = ran.document["findings"]
    assert first["why"].startswith(f"Of 3 voters, 2 have failed, as {kept} sees it: ")
    assert sum("has failed" in finding["what"] for finding in others) == 2
