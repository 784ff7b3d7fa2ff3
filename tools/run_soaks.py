"""Run the soaks: `python tools/run_soaks.py cancels --cancels 100000`."""

from __future__ import annotations

import argparse
import asyncio
import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def cancels(arguments: argparse.Namespace) -> int:
    """Take back requests of the real engine; print what is left of them and how memory went. Judges nothing yet."""
    from soaks.cancels import soak_cancels  # noqa: PLC0415 - seconds of imports, after the arguments are known

    from darts_async.config import load_config  # noqa: PLC0415
    from darts_async.engines.vllm_engine import VllmEngine  # noqa: PLC0415
    from darts_async.tasks.prompt_set import load_prompts  # noqa: PLC0415

    # The pages of a large KV pool are touched little by little, which would look like a leak: a small one.
    config = load_config(None, [("generator.engine_args.num_gpu_blocks_override", "256")])

    async def work():
        engine = VllmEngine(config, 0)
        await engine.start()
        try:
            with Progress(
                TextColumn("cancels"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
            ) as bar:
                task = bar.add_task("", total=arguments.cancels)
                return await soak_cancels(
                    engine,
                    [prompt.tokens for prompt in load_prompts(config).train],
                    cancels=arguments.cancels,
                    in_flight=arguments.in_flight,
                    progressed=lambda done: bar.update(task, completed=done),
                )
        finally:
            await engine.close()

    soak = asyncio.run(work())
    print(soak.cancels, soak.completed, soak.refused, f"{soak.seconds:.1f} s, {soak.rate:.0f}/s", dict(soak.by_kind))
    print(soak.left)
    print("\n".join(soak.memory.rows(20)))
    print({name: f"{soak.memory.growth(name):+.2%}" for name in soak.memory.pids})
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", default="cancels")
    parser.add_argument("--cancels", type=int, default=100_000)
    parser.add_argument("--in-flight", type=int, default=96)
    sys.exit(cancels(parser.parse_args()))
