"""Peak memory of log-probs at a large vocabulary, forward and backward: naive logits beside chunks.

    python tools/bench_logprob_memory.py WAY TOKENS VOCAB CHUNK

prints the peak in bytes, of this one process and WAY (`naive` or `fused`) alone; `bench_learner.py` starts a fresh one
for each. On a CPU (Linux) how far resident memory rises above what it was with the model there, on a GPU what torch
allocates beyond that.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from darts_async.engines.fused_logprobs import fused_logprobs

HIDDEN = {"cpu": 64, "cuda": 2048}
"""On a CPU small: what is measured is the vocabulary's share."""


def measure(way: str, tokens: int, vocab: int, chunk: int) -> int:
    """Run one way in a fresh process; return its peak in bytes. Raises `RuntimeError` with what it said."""
    result = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), way, str(tokens), str(vocab), str(chunk)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(result.stderr)
    return int(result.stdout)


def main() -> int:
    """Score one row of tokens and differentiate, one way."""
    way, (tokens, vocab, chunk) = sys.argv[1], map(int, sys.argv[2:])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    head = torch.nn.Linear(HIDDEN[device], vocab, bias=False, device=device, dtype=dtype)
    hidden = torch.randn(tokens, HIDDEN[device], device=device, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocab, (tokens,), device=device)

    def step(rows: slice) -> None:
        if way == "fused":
            logprobs, _ = fused_logprobs(hidden[rows], head.weight, None, targets[rows], chunk_tokens=chunk)
        else:
            logs = torch.log_softmax(head(hidden[rows]).float(), dim=-1)
            logprobs = logs.gather(-1, targets[rows].unsqueeze(-1)).squeeze(-1)
        (logprobs * 0.5).sum().backward()

    step(slice(0, 2))  # gradients and the libraries' buffers are there before the measurement
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(slice(None))
        print(torch.cuda.max_memory_allocated() - before)
        return 0
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from what is resident now
    before = _resident("VmRSS")
    step(slice(None))
    print(_resident("VmHWM") - before)
    return 0


def _resident(field: str) -> int:
    """A line of the process's status, in bytes. (getrusage's mark is inherited from the parent and cannot be reset.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    sys.exit(main())
