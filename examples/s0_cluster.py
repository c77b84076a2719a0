"""S0's first example, as it was written: one node, one task, one result. Run it: `python examples/s0_cluster.py`."""

import asyncio

from mesh.facades.cluster import AgentNode, DistributedAgentCluster, DistributedTask


async def main() -> None:
    cluster = DistributedAgentCluster()
    await cluster.register_node(AgentNode("n1", "host1", 8000, ["code", "search"]))
    task_id = await cluster.submit_task(DistributedTask("t1", {"prompt": "write sort"}, "code"))
    print(task_id)

    await cluster.result(task_id, timeout=5)
    print(cluster.completed_tasks)
    await cluster.close()


if __name__ == "__main__":
    asyncio.run(main())
