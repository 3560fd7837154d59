"""The parts of a training loop: batches, learning rate, optimizer, checkpoints."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from demo.training.packing import Batch


def log(*words: object) -> None:
    """Prints progress to stderr at once."""
    print(*words, file=sys.stderr, flush=True)


def learning_rate_share(step: int, steps: int, warmup: int) -> float:
    """Returns the share of the peak learning rate: linear warmup, then cosine decay."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def stream(data: Dataset[Batch], start: int, steps: int) -> DataLoader[Batch]:
    """Yields batches ``start`` to ``steps``, prepared by a second process."""
    rest = Subset(data, range(start, steps))
    return DataLoader(rest, batch_size=None, num_workers=1, prefetch_factor=6)


def make_optimizer(groups: list[tuple[list[nn.Parameter], float]]) -> torch.optim.AdamW:
    """Returns AdamW with weight decay on matrices, not on gates, norms and biases."""
    settings = []
    for parameters, peak in groups:
        for decay, chosen in (
            (0.02, [p for p in parameters if p.ndim > 1]),
            (0.0, [p for p in parameters if p.ndim <= 1]),
        ):
            settings.append(
                {"params": chosen, "lr": 0.0, "peak": peak, "weight_decay": decay}
            )
    return torch.optim.AdamW(settings, betas=(0.9, 0.98))


def optimizer_step(
    optimizer: torch.optim.AdamW, loss: torch.Tensor, share: float
) -> None:
    """Takes one optimizer step at ``share`` of the peak learning rates."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(everything, 1.0)
    optimizer.step()


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint; an interruption leaves the old one whole."""
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)
