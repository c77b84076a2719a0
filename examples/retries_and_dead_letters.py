"""What becomes of work that fails: tried again after a pause, then kept as a dead letter until somebody decides.

Run it: `python examples/retries_and_dead_letters.py`.
"""

import asyncio

from mesh import Context, Mesh
from mesh.errors import TaskFailed
from mesh.testing import LocalMesh

app = Mesh("fragile")
broken = {"printer": True}


@app.task(capability="print", max_attempts=2)
async def print_page(ctx: Context, page: int) -> str:
    if broken["printer"]:
        raise RuntimeError(f"out of paper (attempt {ctx.attempt})")
    return f"page {page} printed at attempt {ctx.attempt}"


async def main() -> None:
    async with LocalMesh(app, voters=3) as mesh:
        client = mesh.client
        handle = await client.submit("print", {"page": 1}, task_id="page-1", max_attempts=2)
        try:
            await handle.result(timeout=20)
        except TaskFailed as failure:
            print(f"gave up: {failure}")
        letters = (await client.dead_letters()).dead_letters
        print(f"dead letters: {[(letter.id, letter.attempts) for letter in letters]}")

        broken["printer"] = False
        await client.retry("page-1")
        print(await client.handle("page-1").result(timeout=20))


if __name__ == "__main__":
    asyncio.run(main())
