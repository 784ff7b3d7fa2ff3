"""Rules between settings, and the values that follow from others. Every breach is a `ConfigError` with its fix."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from darts_async.config.devices import check_devices
from darts_async.config.frozen import streams_tokens
from darts_async.config.learner_rules import check_learner, check_sampling, learner_warnings
from darts_async.config.metrics_rules import check_metrics, metrics_warnings
from darts_async.config.reward_rules import check_rewards
from darts_async.config.scale import check_processes
from darts_async.config.schema import MODE_ETA
from darts_async.config.shadows import check_shadows
from darts_async.errors import ConfigError

if TYPE_CHECKING:
    from darts_async.config.schema import Config

_TCP = re.compile(r"^tcp://([A-Za-z0-9._-]+):(\d{1,5})$")
NUM_TCP_PORTS = 9
JOIN_PORT = NUM_TCP_PORTS
"""Of the link on which generators join: so far above the first port."""
_WAITING_RULES = ("all", "dual_end")
"""Rules under which everything that was sampled finishes."""


def resolve(config: Config) -> Config:
    """Fill in the values that follow from others and check every rule that ties settings together."""
    config = _resolve_pipeline(_resolve_allocation(config))
    _check_group(config)
    _check_min_chunk(config)
    _check_allocation(config)
    check_learner(config)
    check_shadows(config)
    check_processes(config)
    check_sampling(config)
    _check_pipeline(config)
    _check_unfinished(config)
    _check_generator(config)
    parse_bind(config.launch.bind)
    _check_join(config)
    check_devices(config)
    check_metrics(config)
    check_rewards(config)
    return config


def warnings(config: Config) -> list[str]:
    """Return what is allowed but easily misread, one sentence each, for a resolved config."""
    found = []
    rule, selection = config.selection.rule, config.selection
    if rule not in _WAITING_RULES or config.allocation.prune_fraction > 0:
        pruned = " with allocation.prune_fraction" if rule in _WAITING_RULES else ""
        why = (
            f"depends on which candidates finish before they are cancelled under rule `{rule}`{pruned}: with other "
            "engine speeds it is another estimator (only `all` and `dual_end` wait for every candidate)"
        )
        if selection.baseline == "finished":
            found.append(f"selection.baseline = 'finished' {why}")
        if selection.zero_variance == "rescue":
            found.append(f"selection.zero_variance = 'rescue' {why}")
    found += learner_warnings(config)
    found += metrics_warnings(config)
    if config.queues.chunk_tokens and not streams_tokens(config):
        found.append(
            f"queues.chunk_tokens = {config.queues.chunk_tokens} has no effect: chunks are scored under frozen "
            "policies, and the loss needs none (learner.kl_weight = 0, learner.updates_per_step = 1)"
        )
    address = parse_bind(config.launch.bind)
    if address is not None and not encrypts(config) and not _is_loopback(address[0]):
        found.append(
            f"launch.curve = 'off': the links at {address[0]} are neither encrypted nor closed to anybody; whoever "
            "reaches them reads the run and takes part in it"
        )
    return found


def encrypts(config: Config) -> bool:
    """Whether the run's links are encrypted."""
    curve = config.launch.curve
    return curve == "on" or (curve == "auto" and parse_bind(config.launch.bind) is not None)


def _check_join(config: Config) -> None:
    join, address = config.launch.join, parse_bind(config.launch.bind)
    if not join:
        return
    if address is None:
        raise ConfigError(
            "launch.join",
            join,
            "who joins comes over TCP, and launch.bind is `ipc`",
            "Set launch.bind, to tcp://HOST:PORT with an address that others reach.",
        )
    if not encrypts(config):
        raise ConfigError(
            "launch.join", join, "who joins is known by a key, and launch.curve is `off`", "Remove launch.curve."
        )
    if address[1] + JOIN_PORT > 65_535:
        raise ConfigError(
            "launch.bind", config.launch.bind, f"launch.join needs port {address[1] + JOIN_PORT}", "Choose a lower one."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_bind(bind: str) -> tuple[str, int] | None:
    """Return (host, first port) of a `tcp://` address, or None for `ipc`."""
    if bind == "ipc":
        return None
    match = _TCP.match(bind)
    if match is None:
        raise ConfigError(
            "launch.bind", bind, "must be `ipc` or `tcp://HOST:PORT`", "Try `ipc`, or `tcp://127.0.0.1:5600`."
        )
    host, port = match[1], int(match[2])
    if not 1024 <= port <= 65_536 - NUM_TCP_PORTS:
        raise ConfigError(
            "launch.bind",
            bind,
            f"the port must be in 1024..{65_536 - NUM_TCP_PORTS} ({NUM_TCP_PORTS} ports are used from it on)",
            "Choose another port.",
        )
    return host, port


def _resolve_allocation(config: Config) -> Config:
    size, given = config.group.size, config.allocation
    low = size if given.min is None else given.min
    high = 2 * size if given.max is None else given.max
    budget = given.budget
    if budget is None:
        budget = float(size if config.selection.rule == "all" else min(max(1.5 * size, low), high))
    allocation = given.model_copy(update={"min": low, "max": high, "budget": budget})
    return config.model_copy(update={"allocation": allocation})


def _resolve_pipeline(config: Config) -> Config:
    if config.pipeline.max_staleness is not None:
        return config
    pipeline = config.pipeline.model_copy(update={"max_staleness": MODE_ETA[config.pipeline.mode]})
    return config.model_copy(update={"pipeline": pipeline})


def _check_group(config: Config) -> None:
    size, longest = config.group.size, config.group.keep_longest
    if longest >= size:
        raise ConfigError(
            "group.keep_longest",
            longest,
            f"must be below group.size = {size}: at least one candidate comes from the short end",
            f"Set it to at most {size - 1}.",
        )


def _check_min_chunk(config: Config) -> None:
    chunk, step = config.queues.min_chunk, config.group.groups_per_step
    if chunk > step:
        raise ConfigError(
            "queues.min_chunk",
            chunk,
            f"must not exceed group.groups_per_step = {step}: no step has more groups to wait for",
            f"Set it to {step} or less ({step} waits for whole steps).",
        )


def _check_allocation(config: Config) -> None:
    size, allocation = config.group.size, config.allocation
    low, high, budget = allocation.min, allocation.max, allocation.budget
    assert low is not None and high is not None and budget is not None
    if low < size:
        raise ConfigError(
            "allocation.min",
            low,
            f"must be at least group.size = {size}: a group is trained on that many candidates",
            f"Set it to {size} or more.",
        )
    if low > high:
        raise ConfigError(
            "allocation.min",
            low,
            f"must not exceed allocation.max = {high}",
            "Lower allocation.min or raise allocation.max.",
        )
    if budget != "auto" and not low <= budget <= high:
        raise ConfigError(
            "allocation.budget",
            budget,
            f"must lie between allocation.min = {low} and allocation.max = {high}",
            "Move the budget inside the bounds, or the bounds around it.",
        )
    if allocation.prune_fraction > 0 and config.selection.rule != "dual_end":
        raise ConfigError(
            "allocation.prune_fraction",
            allocation.prune_fraction,
            f"prunes the tails that rule `dual_end` waits for; rule `{config.selection.rule}` has none",
            "Set it to 0, or choose rule `dual_end`.",
        )
    if config.selection.rule == "all" and budget != size:  # also refuses `auto`: there is nothing to choose
        raise ConfigError(
            "allocation.budget",
            budget,
            f"rule `all` trains on every candidate, so it must equal group.size = {size}",
            f"Set it to {size}, or choose rule `shortest` or `survivor`.",
        )


def _check_pipeline(config: Config) -> None:
    mode, eta = config.pipeline.mode, config.pipeline.max_staleness
    assert eta is not None
    if mode == "async" and eta < 1:
        raise ConfigError(
            "pipeline.max_staleness",
            eta,
            "mode `async` swaps weights in flight and needs a bound of 1 or more",
            "Set it to 1, or choose mode `stream`.",
        )
    if mode != "async" and eta != MODE_ETA[mode]:
        raise ConfigError(
            "pipeline.max_staleness",
            eta,
            f"mode `{mode}` implies {MODE_ETA[mode]}",
            "Remove pipeline.max_staleness, or choose mode `async`.",
        )


def _check_unfinished(config: Config) -> None:
    unfinished, eta = config.pipeline.unfinished, config.pipeline.max_staleness
    extra = config.queues.oversample_groups
    assert eta is not None
    if unfinished == "keep":
        return
    if extra < 1:
        raise ConfigError(
            "queues.oversample_groups",
            extra,
            f"pipeline.unfinished = '{unfinished}' is about groups beyond what a step needs, so it must be 1 or more",
            "Set it to a quarter of group.groups_per_step or so, or set pipeline.unfinished to 'keep'.",
        )
    if unfinished == "defer" and eta != 0:
        raise ConfigError(
            "pipeline.unfinished",
            unfinished,
            f"tail batching ends a round with its step, which mode `{config.pipeline.mode}` does not wait for",
            "Choose mode `sync` or `stream`, or 'resume'.",
        )
    if unfinished == "resume" and eta < 1:
        raise ConfigError(
            "pipeline.unfinished",
            unfinished,
            f"a response that goes on under the next version is one version old, and mode `{config.pipeline.mode}` "
            "allows no staleness",
            "Choose mode `one_step_off` or `async`, or 'defer'.",
        )
    most = eta * config.group.groups_per_step
    if unfinished == "resume" and extra > most:
        raise ConfigError(
            "queues.oversample_groups",
            extra,
            f"must not exceed max_staleness * groups_per_step = {most}: more could not all be trained in time",
            f"Set it to {most} or less, or raise pipeline.max_staleness.",
        )


def _check_generator(config: Config) -> None:
    high, slots = config.allocation.max, config.generator.max_num_seqs
    assert high is not None
    if high > slots:
        raise ConfigError(
            "generator.max_num_seqs",
            slots,
            f"all candidates of a group decode on one replica, so it must be at least allocation.max = {high}",
            f"Set it to {high} or more, or lower allocation.max.",
        )
    if config.eval.prompts and config.eval.samples > slots:
        raise ConfigError(
            "eval.samples",
            config.eval.samples,
            f"must not exceed generator.max_num_seqs = {slots}",
            "Lower it.",
        )
