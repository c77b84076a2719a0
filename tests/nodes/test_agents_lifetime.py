"""How agent processes come up, what they refuse to load, how they are replaced and how they end."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.events import AgentsReady
from mesh.messages import AttemptOutcome, Failure
from nodes.agent_log import LOG_BYTES_MAX, shorten
from nodes.agents import Agents, AgentsRefused
from tests.nodes.cast import APP, Ana, ana, dies, play

ONE = """
from mesh import Mesh
import os
app = Mesh("one")

@app.task()
async def {name}() -> str:
    return "{name}"

@app.task()
async def dies() -> None:
    os._exit(1)
"""


def refusal(*apps: str) -> str:
    """The sentence with which these apps are refused."""

    async def story() -> None:
        node = Ana(apps, 1, None)
        try:
            await node.agents.start()
        finally:
            assert node.agents.pids() == []
            assert node.events.empty()

    with pytest.raises(AgentsRefused) as caught:
        play(story)
    return str(caught.value)


# --- coming up --------------------------------------------------------------------------------------------------------


def test_no_apps_no_process() -> None:
    """A node that only votes: it offers nothing, and what is ordered all the same fails."""

    async def story() -> None:
        node = Ana((), 4, None)
        assert await node.agents.start() == ()
        assert await node.hears(AgentsReady) == AgentsReady(())
        assert node.agents.pids() == []
        outcome = await node.run("code")
        assert (outcome.error, outcome.failure) == ("UnknownCapability: this node runs no apps", Failure.NOT_RUN)
        await node.agents.stop(1)

    play(story)


def test_versions_of_handlers_are_told() -> None:
    async def story() -> None:
        node = Ana((APP,), 1)
        capabilities = await node.agents.start()
        assert await node.hears(AgentsReady) == AgentsReady(capabilities, (("hopeless", "2.1"),))
        await node.agents.stop(1)

    play(story)


def test_apps_are_found_by_module_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One module in the current directory, named like one of ours; one file elsewhere, which imports what lies beside
    it and is named like a module of the standard library."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "here" / "nodes.py").write_text("")
    (tmp_path / "here" / "research.py").write_text(ONE.format(name="search").replace("dies", "dies_here"))
    (tmp_path / "there" / "beside.py").write_text(ONE.format(name="code"))
    (tmp_path / "there" / "graphlib.py").write_text("from beside import app")
    monkeypatch.chdir(tmp_path / "here")

    async def story() -> None:
        async with ana("research:app", f"{tmp_path}/there/graphlib.py:app") as node:
            assert await node.run("search") == "search"
            assert await node.run("code") == "code"

    play(story)


def test_apps_that_cannot_be_loaded_are_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("from mesh import Mesh\nmine = Mesh('a')\nother = 3\n")
    assert refusal("app") == "app 'app' is not of the form MODULE:ATTRIBUTE or path/to/file.py:ATTRIBUTE"
    assert refusal("no_such.module:app").startswith(
        "app 'no_such.module:app': there is no module 'no_such' on the path"
    )
    assert refusal(f"{tmp_path}/gone.py:app") == f"app file {tmp_path}/gone.py does not exist"
    assert refusal(f"{file}:app") == f"app '{file}:app': {file} has no such attribute (apps in it: mine)"
    assert refusal(f"{file}:other") == f"app '{file}:other': {file} has a int there, not a mesh.Mesh (apps in it: mine)"
    assert refusal(APP, APP).startswith("capability 'echo' is offered by ")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_apps_that_fail_when_imported_are_refused_with_their_traceback(
    tmp_path: Path, source: str, sentence: str
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(f"\n\n{source}\n")
    said = refusal(f"{file}:app").splitlines()
    assert said[0] == f"app '{file}:app' cannot be imported: {sentence}"
    assert f'  File "{file}", line 3, in <module>' in said


def test_an_app_that_ends_the_process_when_imported_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("import os\nos._exit(7)")
    assert refusal(f"{file}:app") == "agent process died (exit code 7) before its apps were loaded"


# --- being replaced ---------------------------------------------------------------------------------------------------


def test_a_replacement_loads_what_the_app_has_become(tmp_path: Path) -> None:
    """The file changes while the node runs: the next process offers other capabilities. Then it is broken: nothing is
    offered, and what was ordered meanwhile fails with the reason. Then it is mended."""
    file = tmp_path / "changing.py"
    file.write_text(ONE.format(name="first"))

    async def story() -> None:
        async with ana(f"{file}:app") as node:
            file.write_text(ONE.format(name="second"))
            assert (await node.run("dies")).error == "agent process died (exit code 1)"
            assert await node.hears(AgentsReady) == AgentsReady(("dies", "second"))
            file.write_text("1 / 0")
            assert (await node.run("dies")).error == "agent process died (exit code 1)"
            outcome = await node.run("second")
            assert outcome.error == f"app '{file}:app' cannot be imported: ZeroDivisionError: division by zero"
            assert outcome.failure == Failure.NOT_RUN
            assert await node.hears(AgentsReady) == AgentsReady(())
            file.write_text(ONE.format(name="second"))
            assert await node.hears(AgentsReady) == AgentsReady(("dies", "second"))
            assert await node.run("second") == "second"

    play(story)


def test_an_attempt_whose_process_cannot_be_started_is_not_run() -> None:
    """There are no more descriptors to be had; when there are again, so are processes."""

    async def story() -> None:
        async with ana() as node:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                lease = node.begin("pid_of_its_own")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            why = "an agent process cannot be started: [Errno 24] Too many open files"
            assert await node.outcome() == AttemptOutcome(*lease, b"", why, why, failure=Failure.NOT_RUN)
            assert await node.run("pid_of_its_own") in node.agents.pids()

    play(story)


# --- ending -----------------------------------------------------------------------------------------------------------


def test_stop_lets_handlers_clean_up(tmp_path: Path) -> None:
    """Cancelled, a coroutine has time to say so; nothing more is posted."""

    async def story() -> None:
        node = Ana((APP,), 4, None)
        await node.agents.start()
        await node.hears(AgentsReady)
        await node.began(node.begin("waits", {"path": str(tmp_path / "said")}))
        await node.agents.stop(10)
        assert (tmp_path / "said").read_text() == "cancelled"
        assert node.agents.pids() == []
        assert node.events.empty()

    play(story)


def test_stop_does_not_wait_for_those_who_do_not_listen() -> None:
    async def story() -> None:
        node = Ana((APP,), 4, None)
        await node.agents.start()
        await node.hears(AgentsReady)
        node.begin("holds_the_lock")
        await node.began(node.begin("spins"))
        doomed = [os.pidfd_open(pid) for pid in node.agents.pids()]
        await node.agents.stop(0.1)
        assert all(dies(pidfd) for pidfd in doomed)

    play(story)


PARENT = """
import asyncio, sys
from mesh.effects import StartAttempts
from mesh.events import AttemptsStarted
from mesh.messages import AttemptOrder
from nodes.agent_log import LOG_BYTES_MAX, shorten
from nodes.agents import Agents

async def main():
    started = asyncio.Event()
    def post(event):
        if isinstance(event, AttemptsStarted):
            started.set()
    agents = Agents([sys.argv[1]], node_id="ben", slots=4, post=post, turn_ended=lambda: None, peer_address="")
    await agents.start()
    agents.perform(StartAttempts([AttemptOrder("t1", 1, 1, "spins", b"\\xc0", b"")]))
    await started.wait()
    print(*agents.pids(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_agent_processes_die_with_their_node(how: signal.Signals) -> None:
    """Ben's node is killed outright: the idle process and the one that holds its interpreter's lock both go."""
    with subprocess.Popen([sys.executable, "-c", PARENT, APP], stdout=subprocess.PIPE, text=True) as ben:
        assert ben.stdout is not None
        try:
            pidfds = [os.pidfd_open(int(pid)) for pid in ben.stdout.readline().split()]
        finally:
            ben.send_signal(how)
        assert len(pidfds) == 2
        assert [dies(pidfd) for pidfd in pidfds] == [True, True]


# --- what user code prints --------------------------------------------------------------------------------------------


def test_what_handlers_print_is_in_the_log(tmp_path: Path) -> None:
    async def story() -> None:
        async with ana(log_dir=tmp_path / "logs") as node:
            await node.run("speaks")
            said = (tmp_path / "logs" / "agent.log").read_text()
            assert "said on stdout\n" in said
            assert "said on stderr\n" in said
            assert "WARNING mesh.task [t1 #1] said to the log\n" in said
            assert (await node.run("dies_of_memory")).error == "agent process died (signal 11)"
            assert "in dies_of_memory" in (tmp_path / "logs" / "agent.log").read_text()

    play(story)


def test_a_long_log_is_set_aside(tmp_path: Path) -> None:
    """Whoever has it open for appending goes on in the shortened one."""
    log = tmp_path / "agent.log"
    with log.open("ab", buffering=0) as handler:
        handler.write(b"short")
        shorten(log)
        assert [path.name for path in tmp_path.iterdir()] == ["agent.log"]
        handler.write(b"x" * LOG_BYTES_MAX)
        shorten(log)
        assert (tmp_path / "agent.log.1").stat().st_size == LOG_BYTES_MAX + 5
        handler.write(b"new")
    assert log.read_bytes() == b"new"
    shorten(tmp_path / "gone")


def test_agents_can_be_stopped_before_they_start() -> None:
    """The node fails on something else first."""

    async def story() -> None:
        agents = Agents([APP], node_id="eva", slots=1, post=print, turn_ended=lambda: None, peer_address="")
        await agents.stop(1)
        assert agents.pids() == []

    asyncio.run(story())


def test_a_process_that_is_killed_while_it_loads_is_replaced(tmp_path: Path) -> None:
    """For want of memory, say. The app is not to blame, so the node goes on; found by killing agents at random."""
    file = tmp_path / "slow.py"
    once = tmp_path / "once"
    file.write_text(
        "import os, pathlib, signal\n"
        f"once = pathlib.Path({str(once)!r})\n"
        "if not once.exists():\n"
        "    once.touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n" + ONE.format(name="code")
    )

    async def story() -> None:
        node = Ana((f"{file}:app",), 1, None)
        assert await node.agents.start() == ("code", "dies")
        assert await node.hears(AgentsReady) == AgentsReady(("code", "dies"))
        assert await node.run("code") == "code"
        await node.agents.stop(1)

    play(story)


def test_an_app_that_crashes_whenever_it_is_loaded_is_refused_in_the_end(tmp_path: Path) -> None:
    file = tmp_path / "crash.py"
    file.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    assert refusal(f"{file}:app") == "agent process died (signal 11) before its apps were loaded"
