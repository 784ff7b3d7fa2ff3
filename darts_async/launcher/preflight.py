"""Everything that can be known to fail before a process starts. Each breach is a `ConfigError` (exit status 2)."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.util
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darts_async.config import Config, to_toml
from darts_async.config.import_path import find_module, is_import_path
from darts_async.config.metrics_rules import parse_prometheus
from darts_async.config.paths import RunPaths
from darts_async.config.rules import NUM_TCP_PORTS, encrypts, parse_bind
from darts_async.engines.sim_response import SimParams
from darts_async.errors import ConfigError
from darts_async.launcher import shared_weights
from darts_async.launcher.gpus import check_gpus, visible_gpus
from darts_async.launcher.model_checks import (
    check_adapter_targets,
    check_init_optimiser,
    check_model,
    check_positions,
    check_reference,
    policy_text,
    published_bytes,
)
from darts_async.tasks import load_task
from darts_async.tasks.prompt_set import PromptSet, load_prompts
from darts_async.transport.curve import curve_is_available

if TYPE_CHECKING:
    from darts_async.launcher.run_lock import RunLock
    from darts_async.runtime.run_history import RunHistory

_MIN_FREE_BYTES = 64 << 20
"""Logs, ledger and metrics of a short run; checkpoints are counted on top."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that passed all checks."""

    config: Config
    """With `run.name` set."""
    paths: RunPaths
    prompts: PromptSet
    weight_bytes: int
    history: RunHistory | None = None
    """Of a run that goes on."""
    lock: RunLock | None = None
    """Of the run folder, where it is taken already. The launcher lets go of it."""


def check(config: Config, source: str | None) -> Plan:
    """Check a config against this machine; nothing is written. Raises `ConfigError`."""
    config = with_name(config, source)
    paths = RunPaths.of(config)
    check_run_folder(config, paths)
    return check_machine(config)


def check_machine(config: Config) -> Plan:
    """Check everything but the run folder's name, for a config with `run.name`. Raises `ConfigError`."""
    paths = RunPaths.of(config)
    weight_bytes = check_model(config)
    check_positions(config)
    check_space(config, paths, weight_bytes)
    check_ports(config)
    check_curve(config)
    check_engine(config)
    check_engine_args(config)
    check_gpus(config, visible_gpus())
    check_own_functions(config)
    check_reference(config)
    check_adapter_targets(config)
    check_init_optimiser(config)
    check_metrics_out(config)
    task = load_task(config.task.name, config.task.params)
    prompts = load_prompts(config, task)
    if config.reward.functions or is_import_path(config.task.name):
        from darts_async.launcher.reward_checks import check_rewards  # noqa: PLC0415 - most runs have none

        check_rewards(config, task)
    return Plan(config, paths, prompts, weight_bytes)


def create_run_folder(plan: Plan) -> None:
    """Make the run folder with its resolved config. Raises `ConfigError` when the file system refuses."""
    make_run_folder(plan.config)


def make_run_folder(config: Config) -> None:
    """`create_run_folder` for a config that is not checked against this machine: it runs on a twin."""
    paths = RunPaths.of(config)
    try:
        paths.root.mkdir(parents=True)
        for folder in (paths.logs, paths.ledger, paths.checkpoints):
            folder.mkdir()
        paths.resolved_config.write_text(to_toml(config), "utf-8")
        shared_weights.create(paths.weights)
    except FileExistsError:
        raise _name_taken(config, paths) from None
    except OSError as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(paths.root)
        raise ConfigError(
            "run.dir",
            config.run.dir,
            f"the run folder cannot be written ({error.strerror or error})",
            "Free some space, or choose another folder with --run.dir.",
        ) from None


def with_name(config: Config, source: str | None) -> Config:
    """Return the config with `run.name` set: its own, or its file's name and the time."""
    if config.run.name:
        return config
    stem = Path(source).stem if source else "quickstart"
    stamp = dt.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    run = config.run.model_copy(update={"name": f"{stem}-{stamp}"})
    return config.model_copy(update={"run": run})


def _name_taken(config: Config, paths: RunPaths) -> ConfigError:
    return ConfigError(
        "run.name",
        config.run.name,
        f"a run of that name exists ({paths.root})",
        f"Choose another name with --run.name, or go on with it: --resume {paths.root}",
    )


def check_run_folder(config: Config, paths: RunPaths) -> None:
    """The run's name is free and its folder can be made. Raises `ConfigError`."""
    if config.run.name in {".", ".."}:
        raise ConfigError("run.name", config.run.name, "must name a folder", "Choose another name.")
    if paths.root.exists():
        raise _name_taken(config, paths)
    existing = next(parent for parent in paths.root.parents if parent.exists())
    # os.access tells root that everything is writable; a read-only file system it does report.
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(
            "run.dir",
            config.run.dir,
            f"{existing} is not a folder that can be written",
            "Choose another folder with --run.dir, or mend its rights.",
        )


def check_space(config: Config, paths: RunPaths, weight_bytes: int) -> None:
    """Checkpoints fit on the disk, published weights into shared memory. Raises `ConfigError`."""
    existing = next(parent for parent in (paths.root, *paths.root.parents) if parent.exists())
    checkpoints = 1 + (config.checkpoint.keep + 1 if config.checkpoint.every_steps else 0)
    needs = {existing: (_MIN_FREE_BYTES + checkpoints * weight_bytes, "run.dir", config.run.dir)}
    shared = paths.weights.parent
    if shared != paths.root:
        # The published version, the one being written, and one still being read.
        needs[shared] = (3 * published_bytes(config, weight_bytes), "model.path", config.model.path)
    for folder, (needed, key, value) in needs.items():
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise ConfigError(
                key,
                value,
                f"{folder} has {free >> 20} MiB free, the run needs at least {(needed >> 20) + 1} MiB there",
                "Free some space, or choose another folder with --run.dir.",
            )


def check_ports(config: Config) -> None:
    """The sockets of `launch.bind` can be bound. Raises `ConfigError`."""
    address = parse_bind(config.launch.bind)
    if address is None:
        return
    host, first = address
    for port in range(first, first + NUM_TCP_PORTS + (config.launch.join > 0)):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                "launch.bind",
                config.launch.bind,
                f"port {port} on {host} cannot be bound ({error.strerror or error})",
                f"Choose a port with {NUM_TCP_PORTS} free ports from it on, or `ipc`.",
            ) from None


def check_curve(config: Config) -> None:
    """The installed libzmq can encrypt, where links are encrypted. Raises `ConfigError`."""
    if encrypts(config) and not curve_is_available():
        raise ConfigError(
            "launch.curve",
            config.launch.curve,
            "the installed libzmq was built without CURVE",
            "Install pyzmq from its wheel, which has it; or set launch.bind to `ipc` and launch.curve to `auto`.",
        )


def check_engine(config: Config) -> None:
    """The packages that the roles need are installed. Raises `ConfigError`."""
    needed = {"torch": "learner", "transformers": "learner", "accelerate": "learner", "safetensors": "learner"}
    if config.generator.engine == "vllm":
        needed["vllm"] = "generator.engine"
    if config.learner.lora_rank and importlib.util.find_spec("peft") is None:
        raise ConfigError(
            "learner.lora_rank",
            config.learner.lora_rank,
            "the package `peft` is not installed",
            'Install it: pip install "darts-async[lora]". Or set learner.lora_rank to 0.',
        )
    for module, who in needed.items():
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                who,
                config.generator.engine if module == "vllm" else config.learner.loss,
                f"the package `{module}` is not installed",
                "Install `darts-async[cpu]` or `darts-async[gpu]`.",
            )


def check_engine_args(config: Config) -> None:
    """The simulated engine is known here; vLLM checks its own arguments, which takes loading it."""
    if config.generator.engine == "sim":
        SimParams.parse(config.generator.engine_args)


def check_own_functions(config: Config) -> None:
    """Losses and advantages that are named by import path are there; they are not imported. Raises `ConfigError`."""
    settings = config.learner
    shadows = [(f"learner.shadow.{index}.loss", shadow.loss) for index, shadow in enumerate(settings.shadow)]
    for key, value in [("learner.loss", settings.loss), ("learner.advantage", settings.advantage), *shadows]:
        if is_import_path(value):
            find_module(key, value)


def check_metrics_out(config: Config) -> None:
    """What the sinks need is installed; Prometheus' address can be listened on. Raises `ConfigError`."""
    if config.metrics.sinks:
        from darts_async.sinks.registry import check_sinks  # noqa: PLC0415 - most runs have none

        check_sinks(config.metrics)
    address = parse_prometheus(config.metrics.prometheus)
    if address is not None:
        from darts_async.sinks.prometheus_server import check_address  # noqa: PLC0415 - as above

        check_address(address)


def describe(plan: Plan) -> dict[str, Any]:
    """What `--dry-run` shows beside the resolved config."""
    config, prompts = plan.config, plan.prompts
    groups = config.run.steps * config.group.groups_per_step
    budget = config.allocation.budget or 0.0
    return {
        "run folder": str(plan.paths.root),
        "policy": policy_text(config, plan.weight_bytes),
        "prompts": f"{len(prompts.train)} to train on, {len(prompts.held_out)} held out, "
        f"{prompts.num_skipped} too long",
        "work": f"{config.run.steps} steps x {config.group.groups_per_step} groups = {groups} groups, "
        f"{groups / len(prompts.train):.1f} visits per prompt",
        "candidates": f"{budget:g} sampled per prompt, {config.group.size} trained on ({config.selection.rule})",
        "pipeline": f"{config.pipeline.mode}, staleness at most {config.pipeline.max_staleness}",
        "processes": f"{config.generator.replicas} generator, 1 selector, 1 allocator, 1 learner",
    }
