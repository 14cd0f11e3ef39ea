"""Losses: pure functions of tensors and masks.

Each is finite with finite gradients for every mask, the empty one included, and never reads what a mask
hides.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mien.labels import UNLABELLED


def focal(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    ignore: int = UNLABELLED,
) -> Tensor:
    """Focal loss, mean over labelled positions: `(1 - p_y)^gamma * CE(q, p)` (Lin et al. 2017, arXiv
    1708.02002, eq. 4-5).

    Args:
        logits: `(..., classes)`; computed in float32 at least.
        labels: `(...)` int, class index or `ignore`. What stands in `logits` at ignored positions is not
            read.
        gamma: focusing, >= 0. Zero gives weighted, smoothed cross-entropy, equal to
            `torch.nn.functional.cross_entropy`.
        weights: `(classes,)` the paper's alpha, or None for ones. The mean is over the labels' weights.
        smoothing: share of the target spread evenly over all classes, in [0, 1). The focusing factor
            follows the labelled class only (our choice: the paper has hard labels).

    Returns a scalar; zero, with a zero gradient, if nothing is labelled.
    """
    labelled = labels != ignore
    kept = torch.where(labelled, labels, 0)
    wide = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    log_p = F.log_softmax(wide.masked_fill(~labelled[..., None], 0.0), dim=-1)
    weights = log_p.new_ones(log_p.shape[-1]) if weights is None else weights.to(log_p)
    true_log_p = log_p.gather(-1, kept[..., None]).squeeze(-1)
    true_weight = weights[kept] * labelled
    loss = -(1 - smoothing) * true_weight * true_log_p
    if smoothing:
        loss = loss - smoothing / log_p.shape[-1] * (log_p @ weights) * labelled
    if gamma:
        # clamp: at p = 1 the derivative of (1-p)^gamma is infinite for gamma < 1
        loss = loss * (-torch.expm1(true_log_p)).clamp_min(1e-12) ** gamma
    return loss.sum() / true_weight.sum().clamp_min(torch.finfo(log_p.dtype).tiny)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    ignore: int = UNLABELLED,
) -> Tensor:
    """Weighted, smoothed cross-entropy: `focal` with gamma 0. Zero, not NaN, if nothing is labelled."""
    return focal(logits, labels, gamma=0.0, weights=weights, smoothing=smoothing, ignore=ignore)


def class_weights(counts: Tensor, scheme: str = "balanced", beta: float = 0.9999) -> Tensor:
    """Weights `(classes,)` from label counts `(classes,)`, scaled to mean 1 over the classes that occur.

    `none`: ones. `balanced`: 1 / n. `sqrt`: 1 / sqrt(n), half-way between (our choice for long tails).
    `effective`: (1 - beta) / (1 - beta^n), the class-balanced loss of Cui et al. 2019 (arXiv 1901.05555,
    eq. 2). A class that never occurs weighs 0. Raises ValueError for another scheme.
    """
    n = counts.double()
    present = n > 0
    safe = n.clamp_min(1)
    if scheme == "none":
        raw = torch.ones_like(n)
    elif scheme == "balanced":
        raw = 1 / safe
    elif scheme == "sqrt":
        raw = safe.rsqrt()
    elif scheme == "effective":
        raw = (1 - beta) / (1 - beta**safe)
    else:
        raise ValueError(f"class weights {scheme!r}: choose none, balanced, sqrt or effective")
    raw = raw * present
    return (raw * present.sum().clamp_min(1) / raw.sum().clamp_min(1e-300)).float()


def ccc_loss(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - concordance correlation, mean over the columns that have anything (Lin 1989).

    `ccc = 2 cov / (var_p + var_t + (mean_p - mean_t)^2)` with population moments over all masked-in rows
    pooled.

    Args:
        prediction, target: `(..., k)`.
        mask: `(..., k)` or `(...)` bool, entries that count; entries whose target is not finite never do.

    Returns a scalar in [0, 2]. Where both sides are constant the correlation counts as 0 (loss 1, zero
    gradient); with no entry at all the loss is zero with a zero gradient.
    """
    columns = prediction.shape[-1]
    counts = torch.isfinite(target)
    if mask is not None:
        counts = counts & (mask if mask.ndim == target.ndim else mask[..., None])
    counts = counts.reshape(-1, columns)
    wide = prediction if prediction.dtype in (torch.float32, torch.float64) else prediction.float()
    p = wide.reshape(-1, columns).masked_fill(~counts, 0.0)
    t = target.to(wide.dtype).reshape(-1, columns).masked_fill(~counts, 0.0)
    n = counts.sum(0).clamp_min(1)
    mean_p, mean_t = p.sum(0) / n, t.sum(0) / n
    dp, dt = (p - mean_p).masked_fill(~counts, 0.0), (t - mean_t).masked_fill(~counts, 0.0)
    covariance, var_p, var_t = (dp * dt).sum(0) / n, dp.square().sum(0) / n, dt.square().sum(0) / n
    below = var_p + var_t + (mean_p - mean_t).square()
    ccc = 2 * covariance / below.clamp_min(1e-8)
    used = counts.any(0)
    return ((1 - ccc) * used).sum() / used.sum().clamp_min(1)


def prompt_contrastive(
    values: Tensor, prompts: Tensor, labels: Tensor, *, scale: float, same_label_negative: bool = True
) -> Tensor:
    """Symmetric InfoNCE between samples and the prompts of their labels (Radford et al. 2021, arXiv 2103.00020, fig.
    3).

    Sample i and the prompt of its label are a pair; in the batch every other sample's prompt is a negative, and every
    other sample is one for the prompt. Where two samples share a label their prompts are equal, and each counts as the
    other's negative: so in the code of arXiv 2603.11971. `same_label_negative=False` mends it: such entries are left
    out of the denominators.

    Args:
        values: `(batch, dim)`; prompts: `(classes, dim)`; both are normalised here. labels: `(batch,)` int, -1 ignored.
        scale: multiplies the cosines (CLIP's logit scale, about 100).

    Returns a scalar; zero, with a zero gradient, if nothing is labelled.
    """
    known = labels != UNLABELLED
    if not known.any():
        return values.sum() * 0.0
    picked = labels[known]
    a, b = F.normalize(values[known].float(), dim=1), F.normalize(prompts.float(), dim=1)[picked]
    scores = scale * a @ b.T
    if not same_label_negative:
        twin = (picked[:, None] == picked) & ~torch.eye(len(picked), dtype=torch.bool, device=picked.device)
        scores = scores.masked_fill(twin, -torch.inf)
    target = torch.arange(len(picked), device=picked.device)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
