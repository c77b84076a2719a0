"""What can be ordered of the mesh. An order is done once its method returns: a quorum holds what it changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Unpack

from mesh.client.courier import Courier
from mesh.client.options import standing_options
from mesh.client.payload import encode_payload
from mesh.client.questions import state_numbers
from mesh.documents import Touched
from mesh.errors import InvalidPayload
from mesh.ids import TaskId
from mesh.ledger.settings import Strategy
from mesh.messages import Action
from mesh.options import CronSpec, Selection
from mesh.treatment import (
    ATTEMPTS_DEFAULT,
    CATCH_UP,
    DEPENDENTS,
    OVERLAP,
    PRIORITY_DEFAULT,
    Duration,
    Moment,
    Treatment,
    brief,
    check_attempts,
    check_name,
    chosen,
    duration_ms,
    has_surrogates,
    is_number,
    limit_ms,
    moment_ms,
    priority_number,
)
from mesh.wire.codec import encode

STRATEGIES: Final = {strategy.name.lower(): int(strategy) for strategy in Strategy}
TOUCHED_MAX: Final = Selection().limit
"""Tasks that one order touches at most."""

SETTING_MAX: Final = (1 << 63) - 1


class Unchanged:
    """Stands for the payload a task has already."""

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged()


class Orders:
    """The orders of a client.

    All raise MeshUnavailable where nobody could take the order, or nobody said that it was done; InvalidPayload, before
    anything is sent, for what cannot be; and what the mesh refuses it with.
    """

    _courier: Courier

    # --- tasks --------------------------------------------------------------------------------------------------------

    async def cancel(
        self, task_id: str, reason: str = "", *, dependents: str = "leave", timeout: float | None = None
    ) -> None:
        """Cancel a task; once this returns, it will not complete any more. Raises NotFound, Refused if it has ended.

        With dependents="cancel" the live tasks that its code submitted are cancelled too, and theirs.
        """
        await self._courier.cancel(task_id, reason, timeout, chosen("dependents", dependents, DEPENDENTS))

    async def cancel_many(
        self,
        *,
        task_ids: Iterable[str] = (),
        node: str = "",
        capability: str = "",
        priority: int | str | tuple[int, int] | None = None,
        state: str | Iterable[str] = (),
        reason: str = "",
        dependents: str = "leave",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> Touched:
        """Cancel the live tasks that all of this is true of; says which they are (S1-33). What is empty does not count.

        Args:
            task_ids: one of these.
            node: holds the lease.
            capability: what they ask for.
            priority: a number or name, or the lowest and the highest number.
            state: one of these, by name.
            reason: kept with each of them.
            dependents: `leave` or `cancel` the live tasks that their code submitted; they are named in either case.
            dry_run: only say which they would be.

        Raises InvalidPayload if nothing is said, which would mean every task there is.
        """
        lowest, highest = _priorities(priority)
        selection = Selection(
            task_ids=_task_ids(task_ids),
            node=node,
            capability=capability,
            priority_min=lowest,
            priority_max=highest,
            states=state_numbers(state),
            is_dry=dry_run,
            dependents=chosen("dependents", dependents, DEPENDENTS),
        )
        if selection == Selection(is_dry=dry_run, dependents=selection.dependents):
            raise InvalidPayload("say which tasks: task_ids, node, capability, priority or state")
        return await self._courier.order_many(Action.CANCEL_MANY, "", reason, _selected(selection), timeout)

    async def clear(self, priority: int | str, reason: str = "", *, timeout: float | None = None) -> Touched:
        """Cancel whatever waits under a priority (S4-03); says what that was."""
        target = str(priority_number(priority))
        return await self._courier.order_many(Action.CLEAR, target, reason, timeout_s=timeout)

    async def reprioritize(self, task_id: str, priority: int | str, *, timeout: float | None = None) -> None:
        """Give a waiting task another priority. Raises NotFound, Refused if it does not wait."""
        value = encode(priority_number(priority))
        await self._courier.order(Action.REPRIORITIZE, task_id, value=value, timeout_s=timeout)

    async def retry(self, task_id: str, payload: Any = UNCHANGED, *, timeout: float | None = None) -> None:
        """Put a dead letter, or a task that is held, back in the queue, its attempts forgotten; with another payload if
        one is given. Raises NotFound, Refused.
        """
        value = b"" if payload is UNCHANGED else encode_payload(payload)
        await self._courier.order(Action.RETRY, task_id, value=value, timeout_s=timeout)

    async def retry_many(
        self,
        *,
        task_ids: Iterable[str] = (),
        capability: str = "",
        error: str = "",
        limit: int | None = None,
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> Touched:
        """Put the dead letters that all of this is true of back in the queue. What is empty does not count: all there
        are, if nothing is said.

        Args:
            task_ids: one of these.
            capability: what they ask for.
            error: a part of the last error.
            limit: no more than so many (100,000).
            dry_run: only say which they would be.
        """
        selection = _dead_letters(task_ids, capability, error, limit, dry_run)
        return await self._courier.order_many(Action.RETRY_MANY, "", "", _selected(selection), timeout)

    async def drop_many(
        self,
        *,
        task_ids: Iterable[str] = (),
        capability: str = "",
        error: str = "",
        limit: int | None = None,
        reason: str = "",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> Touched:
        """Give up the dead letters that all of this is true of; see `retry_many`. Raises InvalidPayload if nothing is
        said: a limit says enough.
        """
        selection = _dead_letters(task_ids, capability, error, limit, dry_run)
        if limit is None and selection == Selection(is_dry=dry_run):
            raise InvalidPayload("say which dead letters: task_ids, capability, error or limit")
        return await self._courier.order_many(Action.DROP_MANY, "", reason, _selected(selection), timeout)

    async def drop(self, task_id: str, reason: str = "", *, timeout: float | None = None) -> None:
        """Give a dead letter up for good: it ends as failed. Raises NotFound, Refused."""
        await self._courier.order(Action.DROP, task_id, reason, timeout_s=timeout)

    async def save_checkpoint(self, task_id: str, state: Any, *, timeout: float | None = None) -> None:
        """Save the checkpoint of a running task from outside its handler. Raises NotFound, Refused."""
        await self._courier.order(Action.CHECKPOINT, task_id, value=encode_payload(state), timeout_s=timeout)

    # --- the mesh -----------------------------------------------------------------------------------------------------

    async def set(self, name: str, value: int, *, timeout: float | None = None) -> None:
        """Change a number the mesh is run by; `settings` shows them. Raises InvalidPayload if there is no such."""
        if not is_number(value) or not -SETTING_MAX <= value <= SETTING_MAX:
            raise InvalidPayload(f"a setting is a whole number, not {brief(value)}")
        await self._courier.order(Action.SET, name, value=encode(value), timeout_s=timeout)

    async def strategy(self, name: str, *, timeout: float | None = None) -> None:
        """How nodes are chosen from now on (S4-22): least_connections, round_robin, weighted_round_robin,
        resource_based, geographic or random.
        """
        await self.set("strategy", chosen("a strategy", name, STRATEGIES), timeout=timeout)

    async def pause(
        self,
        capability: str,
        reason: str = "",
        until: Moment | float | str | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Grant nothing of a capability any more; what runs goes on, and submits are taken.

        `until`: when it ends of itself: a datetime with a time zone, seconds since the epoch, or for how long, as text
        ("10m").
        """
        check_name("capability", capability)
        value = b"" if until is None else encode(_until_ms(until, self._courier.wall_s()))
        await self._courier.order(Action.PAUSE, capability, reason, value, timeout)

    async def resume(self, capability: str, *, timeout: float | None = None) -> None:
        """Grant of it again."""
        check_name("capability", capability)
        await self._courier.order(Action.RESUME, capability, timeout_s=timeout)

    async def close_breaker(self, node_id: str, capability: str, *, timeout: float | None = None) -> None:
        """Trust a node with a capability again. Raises NotFound, Refused."""
        await self._courier.order(Action.CLOSE_BREAKER, f"{node_id}/{capability}", timeout_s=timeout)

    async def set_cron(
        self,
        name: str,
        expression: str,
        capability: str,
        payload: Any = None,
        *,
        zone: str = "UTC",
        priority: int | str = PRIORITY_DEFAULT,
        max_attempts: int | None = None,
        overlap: str = "skip",
        catch_up: str = "one",
        jitter: Duration = 0,
        paused: bool = False,
        timeout: float | None = None,
        **options: Unpack[Treatment],
    ) -> None:
        """Submit a task again and again, at set times; change the schedule of this name, if there is one.

        Args:
            name: of the schedule. Its tasks have the id `NAME@TIME`, TIME being when they were due, in ms since the
                epoch.
            expression: minute, hour, day, month, weekday ("*/5 9-17 * * 1-5"), or "@every 30s" and the like.
            capability, payload, priority, max_attempts: of each task.
            zone: whose clock is meant, an IANA name.
            overlap: if the last task has not ended: `skip` the firing, `allow` both, `queue_one`, or `cancel_old`.
            catch_up: of firings missed while nobody led: `none`, `one` for all of them, or `all`.
            jitter: each firing is put off by a random time below this.
            paused: it does not fire.
            options: of each task, as for MeshClient.submit; but not key, at, expires, which are for one task.
        """
        check_name("name of a schedule", name)
        check_name("capability", capability)
        check_name("schedule's expression", expression)
        check_name("time zone", zone)
        standing = standing_options(capability, payload, options)
        if max_attempts is None:
            retry = options.get("retry")
            max_attempts = ATTEMPTS_DEFAULT if retry is None else retry.max_attempts
        check_attempts(max_attempts)
        spec = CronSpec(
            name,
            expression,
            capability,
            encode_payload(payload),
            zone,
            priority_number(priority),
            max_attempts,
            chosen("overlap", overlap, OVERLAP),
            chosen("catch_up", catch_up, CATCH_UP),
            duration_ms("jitter", jitter),
            standing,
            bool(paused),
        )
        await self._courier.order(Action.SET_CRON, name, value=encode(spec), timeout_s=timeout)

    async def drop_cron(self, name: str, *, timeout: float | None = None) -> None:
        """End a schedule; tasks it has submitted go on. Raises NotFound."""
        check_name("name of a schedule", name)
        await self._courier.order(Action.DROP_CRON, name, timeout_s=timeout)

    async def pause_cron(self, name: str, *, timeout: float | None = None) -> None:
        """Let a schedule rest; nothing else about it changes. Raises NotFound."""
        check_name("name of a schedule", name)
        await self._courier.order(Action.PAUSE_CRON, name, timeout_s=timeout)

    async def resume_cron(self, name: str, *, timeout: float | None = None) -> None:
        """Let it fire again, from now on. Raises NotFound."""
        check_name("name of a schedule", name)
        await self._courier.order(Action.RESUME_CRON, name, timeout_s=timeout)

    # --- nodes --------------------------------------------------------------------------------------------------------

    async def transfer(self, node_id: str, *, timeout: float | None = None) -> None:
        """Make this node the leader. Raises NotFound, Refused."""
        await self._courier.order(Action.TRANSFER, node_id, timeout_s=timeout)

    async def add_voter(self, node_id: str, *, timeout: float | None = None) -> None:
        """Give a node a vote; returns once it has caught up and has it. Raises NotFound, Refused."""
        await self._courier.order(Action.ADD_VOTER, node_id, timeout_s=timeout)

    async def remove_voter(self, node_id: str, *, timeout: float | None = None) -> None:
        """Take a node's vote; it goes on as a learner, until it is given one again. Raises NotFound, Refused."""
        await self._courier.order(Action.REMOVE_VOTER, node_id, timeout_s=timeout)

    async def forget(self, node_id: str, *, timeout: float | None = None) -> None:
        """Remove a node for good: its process ends, its data is never let in again. Raises NotFound, Refused."""
        await self._courier.order(Action.FORGET, node_id, timeout_s=timeout)

    async def drain(self, node_id: str, reason: str = "", *, timeout: float | None = None) -> None:
        """Give a node no more work. Raises NotFound."""
        await self._courier.order(Action.DRAIN, node_id, reason, timeout_s=timeout)

    async def undrain(self, node_id: str, *, timeout: float | None = None) -> None:
        """Give it work again. Raises NotFound."""
        await self._courier.order(Action.UNDRAIN, node_id, timeout_s=timeout)

    async def recover(self, node_id: str, reason: str = "", *, timeout: float | None = None) -> None:
        """End all leases of a node and run their tasks elsewhere. Raises NotFound."""
        await self._courier.order(Action.RECOVER, node_id, reason, timeout_s=timeout)

    async def rebalance(self, *, timeout: float | None = None) -> None:
        """Move tasks off overloaded, draining and failed nodes."""
        await self._courier.order(Action.REBALANCE, "", timeout_s=timeout)


def _task_ids(task_ids: Iterable[str]) -> tuple[TaskId, ...]:
    """One id given by itself is one id."""
    return tuple(TaskId(task_id) for task_id in ((task_ids,) if isinstance(task_ids, str) else task_ids))


def _priorities(priority: int | str | tuple[int, int] | None) -> tuple[int | None, int | None]:
    if priority is None:
        return None, None
    if isinstance(priority, tuple | list):
        if len(priority) != 2:
            raise InvalidPayload(f"priority is one, or the lowest and the highest, not {brief(priority)}")
        return priority_number(priority[0]), priority_number(priority[1])
    number = priority_number(priority)
    return number, number


def _dead_letters(task_ids: Iterable[str], capability: str, error: str, limit: int | None, dry_run: bool) -> Selection:
    if limit is None:
        limit = TOUCHED_MAX
    elif not is_number(limit) or not 1 <= limit <= TOUCHED_MAX:
        raise InvalidPayload(f"a limit is a number from 1 to {TOUCHED_MAX:,}, not {brief(limit)}")
    return Selection(task_ids=_task_ids(task_ids), capability=capability, error=error, is_dry=dry_run, limit=limit)


def _selected(selection: Selection) -> bytes:
    """Raises InvalidPayload: what is selected by may be any text, but must be text."""
    texts: tuple[object, ...] = (selection.node, selection.capability, selection.error, *selection.task_ids)
    for text in texts:
        if not isinstance(text, str) or has_surrogates(text):
            raise InvalidPayload(f"tasks are selected by text, not by {brief(text)}")
    return encode(selection)


def _until_ms(until: object, now_s: float) -> int:
    """Text is a duration from now."""
    if isinstance(until, str):
        return int(now_s * 1_000) + limit_ms("until", until)
    return moment_ms("until", until)
