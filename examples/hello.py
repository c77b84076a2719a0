"""The shortest whole story: say what can be done, ask for it, get the answer. Run it: `python examples/hello.py`.

The mesh here is `mesh.testing.LocalMesh`, three real nodes in this one process. Against processes, only the way to the
mesh differs: `mesh up --app examples/hello.py:app` in one terminal, `connect("127.0.0.1:21000")` in another.
"""

import asyncio

from mesh import Mesh
from mesh.testing import LocalMesh

app = Mesh("hello")


@app.task()
async def greet(name: str) -> str:
    return f"hello, {name}"


async def main() -> None:
    async with LocalMesh(app, voters=3) as mesh:
        handle = await mesh.submit("greet", {"name": "Ada"})  # returns once a quorum has the task
        print(await handle.result(timeout=10))


if __name__ == "__main__":
    asyncio.run(main())
