"""Each example of docs/testing.md is run as it stands."""

import asyncio
import re
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest

import mesh.testing
from mesh import Mesh
from mesh.testing import Stuck
from mesh.testing.blocking_mesh import Meshes

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
APP, *EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def names_of(example: str) -> dict[str, Any]:
    """What an example defines, after the app."""
    names: dict[str, Any] = {"__name__": "docs"}
    exec(APP, names)
    exec(example, names)
    return names


@pytest.mark.parametrize("example", EXAMPLES, ids=[re.findall(r"def (test_\w+)", example)[0] for example in EXAMPLES])
def test_an_example_passes(example: str) -> None:
    names = names_of(example)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 1
    for test in tests:
        if iscoroutinefunction(test):
            asyncio.run(test())
        elif test.__code__.co_argcount:
            meshes = Meshes()
            test(meshes)
            meshes.close()
        else:
            test()


def test_there_are_examples() -> None:
    """Or the test above would try nothing."""
    assert len(EXAMPLES) == 4


def test_the_sentence_of_a_test_that_waits_in_vain_is_what_it_says() -> None:
    told = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)[0].replace("\n", " ").strip()
    pattern = re.escape(told).replace(re.escape("2.1 s"), r"\d+\.\d s")

    async def story() -> None:
        async with mesh.testing.local(Mesh("nothing"), nodes=1) as m:
            handle = await m.submit("sort", task_id="t1")
            with pytest.raises(Stuck, match=pattern):
                await handle

    asyncio.run(story())
