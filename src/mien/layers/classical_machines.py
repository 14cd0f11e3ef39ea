"""Classical machines whose result is stored as tensors: a kernel extreme learning machine and a support vector machine.

Both are fitted with numpy, scipy and scikit-learn, and run as torch modules without them: no pickles, and they can be
exported to ONNX. Vectors are `(n, width)` float32, unscaled; labels are `(n,)` int.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

#: Largest logit of one class against another, as in libsvm, which cuts their probability to 1e-7 from 0 and 1.
_MAX_LOGIT = 16.1
#: Diagonal of a class that was not fitted, in the coupling of pairs: its probability is then next to zero.
_UNSEEN = 1e6
#: Folds of the cross-validation that calibrates a pair of classes, as in libsvm.
_FOLDS = 5
#: Added to the diagonal in the coupling of pairs, which is singular where all pairs agree.
_RIDGE = 1e-5


class KernelELM(nn.Module):
    """Kernel extreme learning machine: kernel ridge regression of one-hot targets (Huang et al. 2012).

    The scores of x are `k(x, X) B` with `B = (W K + I / c)^-1 W Y`: Gaussian kernel `k = exp(-gamma |x - x'|^2)`,
    stored vectors X, one-hot labels Y, and weights W that make every class count the same (their mean is 1). The
    formula, the weighting and `gamma = 1 / width` are those of the class in the authors' public code of arXiv
    2403.12609.

    Args:
        support: stored vectors, at most (ours: the kernel matrix grows with their square).
        c: inverse of the ridge penalty.
    """

    vectors: Tensor
    coefficients: Tensor

    def __init__(self, *, width: int, classes: int, support: int = 1000, c: float = 1.0) -> None:
        super().__init__()
        self.c, self.gamma = c, 1 / width
        self.register_buffer("vectors", torch.zeros(support, width))
        self.register_buffer("coefficients", torch.zeros(support, classes))

    def scores(self, vectors: Tensor) -> Tensor:
        """Regression of the one-hot labels, `(n, classes)`; zeros before `fit`."""
        return self._kernel(vectors, self.vectors) @ self.coefficients

    def forward(self, vectors: Tensor) -> Tensor:
        """Probabilities `(n, classes)`: the scores, cut at 0 and divided by their sum; uniform where none is positive.

        Ours: the regression of a one-hot label estimates the probability of its class, so no softmax is needed.
        """
        scores = self.scores(vectors).clamp_min(0)
        total = scores.sum(dim=1, keepdim=True)
        return torch.where(total > 1e-6, scores / total.clamp_min(1e-6), 1 / scores.shape[1])

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        # The default mode chooses by the number of rows, which an exported network does not know.
        distance = torch.cdist(a, b, compute_mode="use_mm_for_euclid_dist")
        return torch.exp(-self.gamma * distance.square())

    @torch.no_grad()
    def fit(self, vectors: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> None:
        """Fit to at most `support` of the vectors, drawn so that each class gives the same number, as far as it can."""
        classes = self.coefficients.shape[1]
        chosen = _balanced_sample(labels, len(self.vectors), seed)
        x, y = torch.from_numpy(vectors[chosen]).double(), torch.from_numpy(labels[chosen])
        counts = torch.bincount(y, minlength=classes)
        weight = (len(y) / ((counts > 0).sum() * counts[y])).double()
        kernel = torch.exp(-self.gamma * torch.cdist(x, x).square())
        system = weight[:, None] * kernel + torch.eye(len(y)).double() / self.c
        targets = weight[:, None] * nn.functional.one_hot(y, classes).double()
        self.vectors.zero_()
        self.coefficients.zero_()
        self.vectors[: len(y)] = x.float()
        self.coefficients[: len(y)] = torch.linalg.solve(system, targets).float()


def _balanced_sample(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """At most `most` indices of labels: one of each class in turn, at random within a class, until classes run out."""
    order = np.random.default_rng(seed).permutation(len(labels))
    turn = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        turn[members] = np.arange(len(members))
    return np.argsort(turn, kind="stable")[:most]


class PairwiseSVM(nn.Module):
    """Linear support vector machine with probabilities, one machine per pair of classes.

    The same as scikit-learn's `SVC(kernel="linear", C=c)`, whose polynomial kernel of degree 1 with `gamma` is a linear
    one with `C * gamma`. Each pair's margin becomes a probability by Platt's sigmoid, fitted on the margins of held-out
    folds, and the pairs are coupled to class probabilities by the second method of Wu, Lin and Weng 2004 (JMLR 5,
    975-1005). This is what `probability=True` of `SVC` computes; here in closed form instead of by iteration.
    """

    weight: Tensor
    bias: Tensor
    seen: Tensor

    def __init__(self, *, width: int, classes: int) -> None:
        super().__init__()
        self.pairs = list(combinations(range(classes), 2))
        self.classes = classes
        self.register_buffer("weight", torch.zeros(len(self.pairs), width))
        self.register_buffer("bias", torch.zeros(len(self.pairs)))
        self.register_buffer("seen", torch.ones(classes))

    def forward(self, vectors: Tensor) -> Tensor:
        """Probabilities `(n, classes)`; uniform before `fit`."""
        # In double precision: features are not scaled, so large terms cancel, and coupling is ill-conditioned.
        margins = vectors.double() @ self.weight.double().T + self.bias.double()
        logits = margins.clamp(-_MAX_LOGIT, _MAX_LOGIT)
        columns = [torch.zeros_like(margins[:, 0]) for _ in range(self.classes**2)]
        for (first, second), logit in zip(self.pairs, logits.unbind(dim=1), strict=True):
            columns[first * self.classes + second] = logit.sigmoid()
            columns[second * self.classes + first] = (-logit).sigmoid()
        pairs = torch.stack(columns, dim=1).unflatten(1, (self.classes, self.classes))
        return couple(pairs, self.seen.double()).to(vectors.dtype)

    @torch.no_grad()
    def fit(self, vectors: np.ndarray, labels: np.ndarray, *, c: float, weights: np.ndarray | None = None) -> None:
        """Fit every pair of classes. With fewer than two classes nothing is fitted.

        Args:
            c: of a linear kernel. weights: `(classes,)` factors on `c`, or None.

        A class without a vector gets a probability next to zero.
        """
        counts = np.bincount(labels, minlength=self.classes)
        if (counts > 0).sum() < 2:
            return
        self.seen.copy_(torch.from_numpy(counts > 0))
        for number, (first, second) in enumerate(self.pairs):
            if not counts[first] or not counts[second]:
                continue
            chosen = np.isin(labels, (first, second))
            x, is_first = vectors[chosen], labels[chosen] == first
            factors = None if weights is None else {True: float(weights[first]), False: float(weights[second])}
            coefficients, intercept = linear_svm(x, is_first, c, factors)
            slope, offset = platt(_held_out_margins(x, is_first, c, factors), is_first)
            self.weight[number] = torch.from_numpy(slope * coefficients).float()
            self.bias[number] = slope * intercept + offset


def linear_svm(
    vectors: np.ndarray, is_first: np.ndarray, c: float, factors: dict[bool, float] | None = None
) -> tuple[np.ndarray, float]:
    """Weights `(width,)` and intercept of a linear machine whose margin is positive for the first class.

    Args:
        is_first: `(n,)` bool, both values present. factors: factor on `c` of the first class (True) and the second.
    """
    from sklearn.svm import SVC

    machine = SVC(kernel="linear", C=c, class_weight=factors).fit(vectors, is_first)
    return machine.coef_[0], float(machine.intercept_[0])


def _held_out_margins(
    vectors: np.ndarray, is_first: np.ndarray, c: float, factors: dict[bool, float] | None
) -> np.ndarray:
    """Margin of each vector by a machine that was fitted without its fold, `(n,)`.

    A fold whose complement has one class gives that class's margin, 1 or -1, as libsvm does.
    """
    fold = np.zeros(len(is_first), int)
    for value in (True, False):
        members = np.flatnonzero(is_first == value)
        fold[members] = np.random.default_rng(0).permutation(len(members)) % _FOLDS
    margins = np.zeros(len(is_first))
    for number in np.unique(fold):
        inside = fold == number
        if len(np.unique(is_first[~inside])) == 2:
            weight, intercept = linear_svm(vectors[~inside], is_first[~inside], c, factors)
            margins[inside] = vectors[inside] @ weight + intercept
        else:
            margins[inside] = 1.0 if is_first[~inside].any() else -1.0
    return margins


def platt(margins: np.ndarray, is_first: np.ndarray) -> tuple[float, float]:
    """Slope and offset of `sigmoid(slope * margin + offset)`, by maximum likelihood with Platt's targets.

    Source: Platt 1999, Probabilistic outputs for support vector machines: the targets are `(n1 + 1) / (n1 + 2)` and
    `1 / (n2 + 2)` in place of 1 and 0.
    """
    from scipy.optimize import minimize

    first, second = int(is_first.sum()), int((~is_first).sum())
    targets = np.where(is_first, (first + 1) / (first + 2), 1 / (second + 2))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logits = parameters[0] * margins + parameters[1]
        error = 1 / (1 + np.exp(-np.clip(logits, -500, 500))) - targets
        return float((np.logaddexp(0, logits) - targets * logits).sum()), np.array([error @ margins, error.sum()])

    start = np.array([0.0, np.log((first + 1) / (second + 1))])
    slope, offset = minimize(loss, start, jac=True, method="BFGS").x
    return float(slope), float(offset)


def couple(pairs: Tensor, seen: Tensor) -> Tensor:
    """Class probabilities from those of pairs: `(n, classes, classes)` -> `(n, classes)`.

    Args:
        seen: `(classes,)`, 1 for a class that takes part and 0 for one that does not.

    `pairs[:, i, j]` is the probability of class i where only i and j are possible. The result p minimises
    `sum_ij (pairs_ji p_i - pairs_ij p_j)^2` with sum 1 (Wu et al. 2004, equation 21), so it is `Q^-1 1`, normalised.
    The system is solved by elimination without pivots, because Q is positive definite and ONNX has no solver.
    """
    classes = pairs.shape[-1]
    eye = torch.eye(classes, device=pairs.device, dtype=pairs.dtype)
    off_diagonal = pairs * (1 - eye) * seen[:, None] * seen
    system = -off_diagonal * off_diagonal.transpose(-1, -2)
    diagonal = off_diagonal.square().sum(dim=-2) + _RIDGE + _UNSEEN * (1 - seen)
    system = system + diagonal[:, :, None] * eye
    solution = torch.ones_like(diagonal)
    for i in range(classes):
        factor = system[:, :, i] / system[:, i : i + 1, i] * (1 - eye[i])
        system = system - factor[:, :, None] * system[:, i : i + 1, :]
        solution = solution - factor * solution[:, i : i + 1]
    p = (solution / torch.diagonal(system, dim1=1, dim2=2)).clamp_min(0)
    return p / p.sum(dim=1, keepdim=True)
