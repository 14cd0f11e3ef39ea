"""Train and score voice networks on sessions of encoded utterances (`voice_data`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from experiments.voice_data import RATE_HZ, Session, Utterance
from mien import config, models
from mien.config import Recipe
from mien.labels import EXPRESSIONS, NEUTRAL, OTHER, UNLABELLED
from mien.models.voice_expression import VoiceExpression
from mien.records import VOICE, Batch
from mien.training.ema import WeightAverage
from mien.training.loop import reproducible

#: Optimiser steps of a training, windows in a batch, and tokens to which training windows are cut.
STEPS, BATCH, LONGEST = 1000, 16, 150
#: Share of training windows from synthetic speech, and of those with one utterance alone.
SYNTHETIC_SHARE, LONE_SHARE = 0.5, 0.5
#: Share of Other beside the other classes: EMO-DB's is boredom, which the calm voice of other corpora resembles.
OTHER_SHARE = 0.8
#: Share of draws in which a real voice of Other (EMO-DB's boredom) counts as Neutral: a bored voice is hardly different
#: from a calm one, and neutral talkers of other corpora were called Other.
CALM_SHARE = 0.2


def train_network(
    recipe: Recipe, real: Sequence[Session], synthetic: Sequence[Session], *, seed: int, steps: int = STEPS
) -> VoiceExpression:
    """Train the network of a recipe; the same arguments and one thread give the same weights.

    Each window holds utterances of one session in random order with pauses, its classes drawn by random shares; a part
    of them holds one utterance. The weights are the moving average at the end.

    Args:
        recipe: `voice_expression` with its feature width known.
        real, synthetic: sessions; either may be empty.
    """
    settings = recipe.train
    with reproducible(settings.threads):
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        network = models.build(recipe)
        assert isinstance(network, VoiceExpression)
        _prepare(network, [*real, *synthetic])
        optimiser = torch.optim.AdamW(network.parameter_groups(settings.weight_decay), lr=settings.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, settings.lr, steps, pct_start=max(settings.warmup, 1.5 / steps)
        )
        average = WeightAverage(network, settings.ema)
        for _ in range(steps):
            batch, possible = _draw_batch(rng, real, synthetic)
            loss, _ = network.labelled_loss(batch, possible)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            optimiser.step()
            schedule.step()
            average.update()
        with average.applied():
            averaged = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(averaged)
    return network.eval()


def with_width(recipe: Recipe, width: int) -> Recipe:
    """The recipe with the width of its voice features, and every default written out."""
    features = recipe.model_dump()["features"]
    features[VOICE]["dim"] = width
    return models.complete(config.changed(recipe, features=features))


def _prepare(network: VoiceExpression, sessions: Sequence[Session]) -> None:
    spoken = np.concatenate([u.values[u.valid] for s in sessions for u in s.utterances]).astype(np.float32)
    mean, deviation = (torch.from_numpy(x) for x in (spoken.mean(axis=0), spoken.std(axis=0) + 1e-3))
    network.prepare({VOICE: mean}, {VOICE: deviation}, torch.ones(len(EXPRESSIONS)))


def _draw_batch(
    rng: np.random.Generator, real: Sequence[Session], synthetic: Sequence[Session]
) -> tuple[Batch, Tensor]:
    """A training batch, and the classes that the corpus of each window has: `(batch, classes)` bool."""
    windows, possible = [], []
    for _ in range(BATCH):
        sessions = synthetic if synthetic and (not real or rng.random() < SYNTHETIC_SHARE) else real
        session = sessions[int(rng.integers(len(sessions)))]
        windows.append(_draw_window(rng, session))
        possible.append(session.possible)
    return collate(windows), torch.from_numpy(np.stack(possible))


def _draw_window(rng: np.random.Generator, session: Session) -> list[Utterance | int]:
    """Utterances of a window, and between them the tokens of pauses."""
    utterances = session.utterances
    labels = np.array([u.expression for u in utterances])
    shares = rng.dirichlet(np.ones(len(EXPRESSIONS))) if rng.random() < 0.5 else np.ones(len(EXPRESSIONS))
    shares[OTHER] *= OTHER_SHARE
    chance = (shares / np.maximum(1, np.bincount(labels, minlength=len(shares))))[labels]
    count = 1 if rng.random() < LONE_SHARE else int(rng.integers(2, 12))
    window: list[Utterance | int] = []
    for number in rng.choice(len(labels), count, p=chance / chance.sum()):
        utterance = utterances[number]
        if session.is_real and utterance.expression == OTHER and rng.random() < CALM_SHARE:
            utterance = replace(utterance, expression=NEUTRAL)
        window += [utterance, int(rng.integers(1, 6))]
    return window


def collate(windows: Sequence[Sequence[Utterance | int]]) -> Batch:
    """Make a batch of windows, cut to `LONGEST` tokens. A window lists utterances, and pauses as numbers of tokens."""
    length = min(LONGEST, max(sum(_length(part) for part in window) for window in windows))
    width = next(u for window in windows for u in window if isinstance(u, Utterance)).values.shape[1]
    values = np.zeros((len(windows), length, width), np.float32)
    valid = np.zeros((len(windows), length), bool)
    expression = np.full((len(windows), length), UNLABELLED)
    affect = np.full((len(windows), length, 2), np.nan, np.float32)
    for row, window in enumerate(windows):
        place = 0
        for part in window:
            if isinstance(part, Utterance):
                here = slice(place, min(place + len(part.values), length))
                count = max(0, here.stop - here.start)
                values[row, here], valid[row, here] = part.values[:count], part.valid[:count]
                expression[row, here], affect[row, here] = part.expression, part.valence_arousal
            place += _length(part)
    return Batch(
        {VOICE: torch.from_numpy(values)},
        {VOICE: torch.from_numpy(valid)},
        torch.from_numpy(expression),
        torch.from_numpy(affect),
    )


def _length(part: Utterance | int) -> int:
    return part if isinstance(part, int) else len(part.values)


@torch.inference_mode()
def utterance_probabilities(
    network: VoiceExpression, sessions: Sequence[Session], *, window_s: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Classify every utterance by its mean probability over speech.

    Args:
        window_s: 0 gives the network each utterance alone; otherwise the utterances of a session follow each other in
            random order, in windows of about this many seconds.

    Returns:
        truth `(utterance,)`, and probabilities `(utterance, classes)`; uniform without speech.
    """
    truth, found, rng = [], [], np.random.default_rng(seed)
    for session in sessions:
        for group in _groups([session.utterances[i] for i in rng.permutation(len(session.utterances))], window_s):
            values, valid = (np.concatenate([getattr(u, name) for u in group]) for name in ("values", "valid"))
            inputs = torch.from_numpy(values.astype(np.float32))[None], torch.from_numpy(valid)[None]
            p = network({VOICE: inputs[0]}, {VOICE: inputs[1]}).logits[0].softmax(dim=-1).numpy()
            stops = np.cumsum([len(u.values) for u in group])
            for utterance, part in zip(group, np.split(p, stops[:-1]), strict=True):
                truth.append(utterance.expression)
                spoken = part[utterance.valid]
                found.append(spoken.mean(axis=0) if len(spoken) else np.full(p.shape[1], 1 / p.shape[1]))
    return np.array(truth), np.stack(found)


def _groups(utterances: Sequence[Utterance], window_s: float) -> list[list[Utterance]]:
    groups: list[list[Utterance]] = [[]]
    for utterance in utterances:
        if groups[-1] and sum(len(u.values) for u in groups[-1]) + len(utterance.values) > window_s * RATE_HZ:
            groups.append([])
        groups[-1].append(utterance)
    return groups
