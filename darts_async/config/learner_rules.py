"""Rules and warnings about the objective: losses, advantages, corrections, and what they need of the other sections."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from darts_async.config.choices import (
    ADVANTAGES,
    CORRECTIONS,
    LOSSES,
    TWO_SIDED_MASKS,
    WEIGHT_CORRECTIONS,
    correction_names,
)
from darts_async.config.import_path import check_import_path, is_import_path
from darts_async.errors import ConfigError

if TYPE_CHECKING:
    from darts_async.config.schema import Config, LearnerSection, SamplingSection

__all__ = ["check_learner", "check_sampling", "learner_warnings"]

_MODULE: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_LOW_ADAPTER_LR: Final = 5e-6


def check_learner(config: Config) -> None:
    """Raise `ConfigError` for the first setting of [learner] that cannot work."""
    settings = config.learner
    _check_function("learner.loss", settings.loss, LOSSES)
    _check_function("learner.advantage", settings.advantage, ADVANTAGES)
    _check_correction("learner.correction", settings.correction)
    for index, shadow in enumerate(settings.shadow):
        _check_function(f"learner.shadow.{index}.loss", shadow.loss, LOSSES)
        _check_correction(f"learner.shadow.{index}.correction", shadow.correction)
    cap, buffer = config.model.max_response_tokens, settings.overlong_buffer_tokens
    if buffer >= cap:
        raise ConfigError(
            "learner.overlong_buffer_tokens",
            buffer,
            f"must be below model.max_response_tokens = {cap}: every response would be overlong",
            f"Set it to {cap // 4} or so, or to 0 (off).",
        )
    groups, updates = config.group.groups_per_step, settings.updates_per_step
    if groups % updates:
        divisors = ", ".join(str(number) for number in range(1, groups + 1) if groups % number == 0)
        raise ConfigError(
            "learner.updates_per_step",
            updates,
            f"must divide group.groups_per_step = {groups}: each update is over an equal share of the groups",
            f"Choose one of {divisors}.",
        )
    _check_adapter(settings)


def _check_adapter(settings: LearnerSection) -> None:
    targets = [settings.lora_targets] if isinstance(settings.lora_targets, str) else settings.lora_targets
    if not targets or not all(_MODULE.fullmatch(target) for target in targets):
        raise ConfigError(
            "learner.lora_targets",
            settings.lora_targets,
            "must name layers, by the last part or parts of their names",
            'Write "all-linear", or a list such as ["q_proj", "v_proj"].',
        )
    if "all-linear" in targets and isinstance(settings.lora_targets, list):
        raise ConfigError(
            "learner.lora_targets", targets, "`all-linear` stands alone", 'Write lora_targets = "all-linear".'
        )
    if settings.lora_rank and settings.init_optimiser:
        raise ConfigError(
            "learner.init_optimiser",
            True,
            f"needs learner.lora_rank = 0 (it is {settings.lora_rank}): an adapter begins anew, on the weights of "
            "model.path, and so does its optimiser",
            "Set it to false; to go on with an adapter and its optimiser, go on with its run: --resume RUN.",
        )


def check_sampling(config: Config) -> None:
    """Raise `ConfigError` for truncated sampling that no correction handles."""
    names = correction_names(config.learner.correction)
    if TWO_SIDED_MASKS.intersection(names):
        return
    sampling = config.sampling
    for key, value, full in (("top_p", sampling.top_p, "1"), ("top_k", sampling.top_k, "-1 (off)")):
        if f"sampling.{key}" in _truncations(sampling):
            raise ConfigError(
                f"sampling.{key}",
                value,
                f"must be {full} with learner.correction = {', '.join(names)}: log-probs of truncated sampling are "
                "renormalised and bias the importance ratios",
                f"Remove it and sharpen with sampling.temperature, or use one of {', '.join(sorted(TWO_SIDED_MASKS))}.",
            )


def learner_warnings(config: Config) -> Iterator[str]:
    """Yield what is allowed but easily misread, one sentence each."""
    settings, eta = config.learner, config.pipeline.max_staleness
    names = correction_names(settings.correction)
    if eta is not None and eta > 1 and settings.loss != "cispo" and set(names) <= {"none", "outlier_veto"}:
        yield (
            f"learner.correction = '{names[0]}' with pipeline.max_staleness = {eta}: responses that are several "
            "versions old are trained on as if the present policy had sampled them, which is known to collapse; "
            "choose `tis`, a mask, or loss `cispo`, whose weights are truncated"
        )
    for key in _truncations(config.sampling):
        masks = " and ".join(f"`{name}`" for name in names if name in TWO_SIDED_MASKS)
        yield (
            f"{key} = {getattr(config.sampling, key.partition('.')[2])} truncates sampling: the engine's log-probs are "
            "renormalised over the tokens that were left, so every ratio is too small by the probability of those. "
            f"{masks} leaves the worst out; what stays is biased by that factor, mismatch_kl holds it as well, and "
            "tokens outside of the truncated support are never learned from"
        )
    if settings.loss == "gspo" and settings.aggregation != "sequence":
        yield (
            f"learner.aggregation = '{settings.aggregation}' with loss `gspo`: long responses weigh more than in the "
            "paper, which is `sequence`"
        )
    if settings.lora_rank == 0 and settings.lora_alpha is not None:
        yield f"learner.lora_alpha = {settings.lora_alpha:g} has no effect with learner.lora_rank = 0: no adapter"
    if settings.lora_rank and 0 < settings.lr < _LOW_ADAPTER_LR:
        yield (
            f"learner.lr = {settings.lr:g} with learner.lora_rank = {settings.lora_rank}: an adapter, which begins at "
            "zero, hardly moves at such a rate; 1e-5 to 1e-3 are in use"
        )
    if settings.reference and settings.kl_weight == 0:
        yield (
            f"learner.reference = '{settings.reference}' has no effect with learner.kl_weight = 0: the reference "
            "policy is not loaded"
        )


def _truncations(sampling: SamplingSection) -> list[str]:
    """Keys of [sampling] that keep some tokens from being drawn."""
    found = ["sampling.top_p"] if sampling.top_p < 1.0 else []
    return [*found, "sampling.top_k"] if sampling.top_k > 0 else found


def _check_function(key: str, value: str, known: Sequence[str]) -> None:
    if is_import_path(value):
        check_import_path(key, value)
    elif value not in known:
        raise _unknown(key, value, value, known, ", or a function of yours as `package.module:function`")


def _check_correction(key: str, value: str | Sequence[str]) -> None:
    names = correction_names(value)
    if not names:
        raise ConfigError(key, value, "names no correction", "Write `none`, or name one.")
    for name in names:
        if name not in CORRECTIONS:
            raise _unknown(key, value, name, CORRECTIONS)
    if len(set(names)) < len(names):
        raise ConfigError(key, value, "names a correction twice", "Name each once.")
    if "none" in names and len(names) > 1:
        raise ConfigError(key, value, "`none` stands alone", "Remove it, or the others.")
    weights = [name for name in names if name in WEIGHT_CORRECTIONS]
    if len(weights) > 1:
        raise ConfigError(
            key,
            value,
            f"{' and '.join(weights)} each weigh tokens by pi_prox / mu, which would count twice",
            "Keep one of them; the masks combine with any.",
        )


def _unknown(key: str, value: object, name: str, known: Sequence[str], other: str = "") -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean `{near[0]}`? " if near else ""
    return ConfigError(key, value, f"`{name}` is not known", f"{hint}Known: {', '.join(known)}{other}.")
