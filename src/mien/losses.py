"""Losses: pure functions of tensors and masks.

Every loss is finite with finite gradients for every mask, the empty one included, and never reads masked-out values.
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
    """Focal loss, mean over labelled positions: `(1 - p_y)^gamma * CE(q, p)`.

    Source: Lin et al. 2017, arXiv 1708.02002, eq. 4-5.

    Args:
        logits: `(..., classes)`; computed in float32 at least. Logits at ignored positions are not read.
        labels: `(...)` int, class index or `ignore`.
        gamma: focusing exponent, >= 0. Zero gives weighted cross-entropy with label smoothing, equal to
            `torch.nn.functional.cross_entropy`.
        weights: `(classes,)`, the paper's alpha; None for ones. The sum is divided by the sum of the labels' weights.
        smoothing: share of the target spread evenly over all classes, in [0, 1). The focusing factor uses the
            probability of the labelled class only (our choice, because the paper has hard labels).

    Returns a scalar; zero, with a zero gradient, if nothing is labelled.
    """
    labelled = labels != ignore
    target = torch.where(labelled, labels, 0)
    log_p = F.log_softmax(_at_least_float32(logits).masked_fill(~labelled[..., None], 0.0), dim=-1)
    weights = log_p.new_ones(log_p.shape[-1]) if weights is None else weights.to(log_p)
    target_log_p = log_p.gather(-1, target[..., None]).squeeze(-1)
    target_weight = weights[target] * labelled
    loss = -(1 - smoothing) * target_weight * target_log_p
    if smoothing:
        loss = loss - smoothing / log_p.shape[-1] * (log_p @ weights) * labelled
    if gamma:
        # clamp: at p = 1 the derivative of (1-p)^gamma is infinite for gamma < 1
        loss = loss * (-torch.expm1(target_log_p)).clamp_min(1e-12) ** gamma
    return loss.sum() / target_weight.sum().clamp_min(torch.finfo(log_p.dtype).tiny)


def soft_focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, weights: Tensor | None = None) -> Tensor:
    """Focal loss with soft labels: `sum_c q_c w_c (1 - p_c)^gamma (-log p_c)`, over all images, divided by the sum of
    `q_c w_c`.

    Each class is focused by its own probability p_c and counts by its share q_c of the label. This is our choice: it
    equals `focal` where q is 1 for one class, and with gamma 0 it is cross-entropy with soft labels. With gamma above 0
    its minimum is not p = q, but a flatter distribution.

    Args:
        logits: `(..., classes)`; computed in float32 at least. Logits at rows without a label are not read.
        targets: `(..., classes)` at least 0; rows sum to 1, or are 0 where there is no label.
        gamma: focusing exponent, >= 0.
        weights: `(classes,)`; None for ones.

    Returns a scalar; zero, with a zero gradient, if nothing is labelled.
    """
    is_labelled = targets.sum(dim=-1, keepdim=True) > 0
    log_p = F.log_softmax(_at_least_float32(logits).masked_fill(~is_labelled, 0.0), dim=-1)
    weighted = targets.to(log_p) if weights is None else targets.to(log_p) * weights.to(log_p)
    loss = -weighted * log_p
    if gamma:
        # clamp: at p = 1 the derivative of (1-p)^gamma is infinite for gamma < 1
        loss = loss * (-torch.expm1(log_p)).clamp_min(1e-12) ** gamma
    return loss.sum() / weighted.sum().clamp_min(torch.finfo(log_p.dtype).tiny)


def binary_focal(
    logits: Tensor, targets: Tensor, *, gamma: float = 0.0, positive_weight: Tensor | None = None
) -> Tensor:
    """Focal loss of independent binary labels: `w (1 - p_y)^gamma * -log(p_y)`, p = sigmoid(logit).

    Source: Lin et al. 2017, arXiv 1708.02002, eq. 4-5. The mean is taken over the labelled entries of each column, then
    over the columns with a label, because columns count equally in the mean F1 (our choice).

    Args:
        logits, targets: `(..., columns)`; targets 0 or 1, NaN ignored. Logits at ignored entries are not read.
        gamma: focusing exponent, >= 0. Zero gives binary cross-entropy.
        positive_weight: `(columns,)` weight of the entries labelled 1; None for ones.

    Returns a scalar; zero, with a zero gradient, if nothing is labelled.
    """
    columns = logits.shape[-1]
    labelled = torch.isfinite(targets).reshape(-1, columns)
    values = _at_least_float32(logits).reshape(-1, columns).masked_fill(~labelled, 0.0)
    is_positive = targets.reshape(-1, columns) > 0.5
    log_p = F.logsigmoid(torch.where(is_positive, values, -values))
    loss = -log_p
    if gamma:
        # clamp: at p = 1 the derivative of (1-p)^gamma is infinite for gamma < 1
        loss = loss * (-torch.expm1(log_p)).clamp_min(1e-12) ** gamma
    if positive_weight is not None:
        loss = torch.where(is_positive, loss * positive_weight.to(loss), loss)
    per_column = (loss * labelled).sum(0) / labelled.sum(0).clamp_min(1)
    return per_column.sum() / labelled.any(0).sum().clamp_min(1)


def window_mean_square(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error between the means of scores and of targets over each window.

    For labels of whole clips: a window is one sample, however many tokens it has.

    Args:
        scores, targets: `(window, time, columns)`; entries whose target is NaN are left out of both means.

    Returns a scalar; zero, with a zero gradient, if nothing is labelled.
    """
    labelled = torch.isfinite(targets)
    count = labelled.sum(dim=1)
    difference = (_at_least_float32(scores) - targets.to(torch.float32)).masked_fill(~labelled, 0.0).sum(dim=1)
    error = (difference / count.clamp_min(1)).square()
    return error.sum() / (count > 0).sum().clamp_min(1)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    smoothing: float = 0.0,
    ignore: int = UNLABELLED,
) -> Tensor:
    """Weighted cross-entropy with label smoothing: `focal` with gamma 0. Zero, not NaN, if nothing is labelled."""
    return focal(logits, labels, gamma=0.0, weights=weights, smoothing=smoothing, ignore=ignore)


def class_weights(counts: Tensor, scheme: str = "balanced", beta: float = 0.9999) -> Tensor:
    """Class weights `(classes,)` from label counts `(classes,)`, scaled to mean 1 over the classes that occur.

    A class that never occurs has weight 0.

    Args:
        scheme: `none`: ones. `balanced`: 1 / n. `sqrt`: 1 / sqrt(n), a compromise for long tails (our choice).
            `effective`: (1 - beta) / (1 - beta^n), class-balanced loss (Cui et al. 2019, arXiv 1901.05555, eq. 2).

    Raises ValueError for another scheme.
    """
    n = counts.double()
    occurs = n > 0
    safe_n = n.clamp_min(1)
    if scheme == "none":
        raw = torch.ones_like(n)
    elif scheme == "balanced":
        raw = 1 / safe_n
    elif scheme == "sqrt":
        raw = safe_n.rsqrt()
    elif scheme == "effective":
        raw = (1 - beta) / (1 - beta**safe_n)
    else:
        raise ValueError(f"class weights {scheme!r}: choose none, balanced, sqrt or effective")
    raw = raw * occurs
    return (raw * occurs.sum().clamp_min(1) / raw.sum().clamp_min(1e-300)).float()


def logit_adjustment(counts: Tensor, tau: float = 1.0) -> Tensor:
    """Offsets of the logits for a long tail: `tau * log(n_c / sum n)`, `(classes,)`; a loss takes `logits + offsets`.

    Source: Menon et al. 2021, arXiv 2007.07314, eq. 10. Training on the sum leaves logits without the class priors, so
    that their argmax minimises the balanced error; prediction uses the logits alone. Probabilities are then those of
    classes that are equally frequent.

    Args:
        counts: labels of each class in the training set, `(classes,)`. A class that never occurs has the prior of the
            rarest one that does (our choice, because its logarithm would be infinite).
        tau: strength, 0 for none; 1 is the paper's.
    """
    n = counts.double()
    if not (n > 0).any():
        return torch.zeros_like(counts, dtype=torch.float32)
    n = torch.where(n > 0, n, n[n > 0].min())
    return (tau * (n / n.sum()).log()).float()


def ccc_loss(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 - concordance correlation coefficient (CCC), mean over the columns that have an entry (Lin 1989).

    `ccc = 2 cov / (var_p + var_t + (mean_p - mean_t)^2)` with population moments over all unmasked rows pooled.

    Args:
        prediction, target: `(..., k)`.
        mask: `(..., k)` or `(...)` bool, true for entries to use. Entries whose target is not finite are never used.

    Returns a scalar in [0, 2]. Where both sides are constant the CCC is taken as 0 (loss 1, zero gradient); without any
    entry the loss is zero with a zero gradient.
    """
    columns = prediction.shape[-1]
    is_used = torch.isfinite(target)
    if mask is not None:
        is_used = is_used & (mask if mask.ndim == target.ndim else mask[..., None])
    is_used = is_used.reshape(-1, columns)
    prediction = _at_least_float32(prediction)
    p = prediction.reshape(-1, columns).masked_fill(~is_used, 0.0)
    t = target.to(prediction.dtype).reshape(-1, columns).masked_fill(~is_used, 0.0)
    n = is_used.sum(0).clamp_min(1)
    mean_p, mean_t = p.sum(0) / n, t.sum(0) / n
    dp, dt = (p - mean_p).masked_fill(~is_used, 0.0), (t - mean_t).masked_fill(~is_used, 0.0)
    covariance, var_p, var_t = (dp * dt).sum(0) / n, dp.square().sum(0) / n, dt.square().sum(0) / n
    denominator = var_p + var_t + (mean_p - mean_t).square()
    ccc = 2 * covariance / denominator.clamp_min(1e-8)
    has_entries = is_used.any(0)
    return ((1 - ccc) * has_entries).sum() / has_entries.sum().clamp_min(1)


def prompt_contrastive(
    values: Tensor, prompts: Tensor, labels: Tensor, *, scale: float, same_label_negative: bool = True
) -> Tensor:
    """Symmetric InfoNCE loss between samples and the prompts of their labels.

    Source: Radford et al. 2021, arXiv 2103.00020, fig. 3. A sample and the prompt of its label are a positive pair; the
    prompts of the other samples in the batch are its negatives, and the other samples are negatives of the prompt.

    Args:
        values: `(batch, dim)`; prompts: `(classes, dim)`; both are normalised here. labels: `(batch,)` int, -1 ignored.
        scale: multiplies the cosines (CLIP's logit scale, about 100).
        same_label_negative: whether two samples of one label, whose prompts are equal, are negatives of each other, as
            in the authors' code of arXiv 2603.11971. False leaves such entries out of the denominators.

    Returns a scalar; zero, with a zero gradient, if nothing is labelled.
    """
    labelled = labels != UNLABELLED
    if not labelled.any():
        return values.sum() * 0.0
    classes = labels[labelled]
    samples, positives = F.normalize(values[labelled].float(), dim=1), F.normalize(prompts.float(), dim=1)[classes]
    logits = scale * samples @ positives.T
    if not same_label_negative:
        same_label = (classes[:, None] == classes) & ~torch.eye(len(classes), dtype=torch.bool, device=classes.device)
        logits = logits.masked_fill(same_label, -torch.inf)
    target = torch.arange(len(classes), device=classes.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype in (torch.float32, torch.float64) else values.float()
