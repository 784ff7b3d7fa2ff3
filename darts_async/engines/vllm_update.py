"""Replacing the weights of a running `AsyncLLM`: pause, load, label, confirm, resume.

Every phase has a deadline, and its error names the phase. The engine is resumed whatever happens, except when its
weights are in pieces: then it must not produce another token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from darts_async.errors import EngineDead
from darts_async.tracing import current

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

T = TypeVar("T")


class WeightSwap:
    """One update of one engine. `run` once."""

    def __init__(self, llm: AsyncLLM, version: int, path: Path, limit_s: float, base: Path | None = None) -> None:
        """`base`: the model folder that `path`, an adapter, is merged with; None: `path` is all of the weights."""
        self._llm = llm
        self._version = version
        self._info = {"path": str(path), "base": "" if base is None else str(base)}
        self._limit_s = limit_s
        self.phases_s: dict[str, float] = {}
        """Seconds each phase took, in order."""

    async def run(self) -> None:
        """Swap. Running requests freeze at a token and go on with the new weights; nothing of them is recomputed.

        Raises `EngineDead`; the engine has then to be given up.
        """
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest  # noqa: PLC0415 - loaded by now

        llm, label = self._llm, str(self._version)
        whole = True  # whether the engine's weights are one version, not a mixture
        try:
            await self._phase("pause", llm.pause_generation(mode="keep", clear_cache=False))
            whole = False
            await self._phase("start", llm.start_weight_update())
            update = WeightTransferUpdateRequest(update_info=self._info)
            await self._phase("load", llm.update_weights(update))
            await self._phase("finish", llm.finish_weight_update(label))
            confirmed = await self._phase("confirm", llm.get_weight_version())
            if confirmed != label:
                raise EngineDead(f"vLLM reports weight version {confirmed} after the update to {label}")
            whole = True
        finally:
            if whole:
                await asyncio.shield(self._phase("resume", llm.resume_generation()))

    async def _phase(self, phase: str, call: Awaitable[T]) -> T:
        what = f"weight update to version {self._version}"
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._limit_s):
                return await call
        except TimeoutError as error:
            limit = f"{self._limit_s:g} s (generator.update_timeout_s)"
            raise EngineDead(f"{what}: vLLM did not {phase} within {limit}") from error
        except Exception as error:
            raise EngineDead(f"{what}: {phase} failed in vLLM: {error}") from error
        finally:
            self.phases_s[phase] = time.monotonic() - started
            current().lane("swap phases").span("swap_phase", phase, started)
