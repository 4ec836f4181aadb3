"""Calls gathered into batches. Ray Serve's own (`serve.batch`) works inside its replicas alone, this one anywhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Gathered(Generic[Item, Answer]):
    """A function of single items, made of one of many; one batch is worked on at a time.

    Args:
        work: `(items) -> answers`, in order; what it raises is raised to each caller.
        most: items of a batch.
        wait: seconds that the first item of a batch waits for others.
    """

    def __init__(self, work: Callable[[list[Item]], Awaitable[list[Answer]]], most: int, wait: float) -> None:
        self._work, self._most, self._wait = work, most, wait
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Answer:
        """The answer for one item; who gives up waiting is left out of the batch."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._worker is None or self._worker.done():
            self._full = asyncio.Event()
            self._worker = asyncio.create_task(self._run())
        if len(self._waiting) >= self._most:
            self._full.set()
        return await answer

    async def _run(self) -> None:
        while self._waiting:
            self._full.clear()
            if len(self._waiting) < self._most:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._full.wait(), self._wait)
            batch: list[tuple[Item, asyncio.Future[Answer]]] = []
            while self._waiting and len(batch) < self._most:
                item, answer = self._waiting.popleft()
                if not answer.done():
                    batch.append((item, answer))
            if batch:
                await self._answer(batch)

    async def _answer(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._work([item for item, _ in batch])
        except Exception as error:  # each caller is told
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
