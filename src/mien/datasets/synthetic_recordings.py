"""What a recipe trains on: its corpus section, turned into recordings.

`synthetic` needs no files: plans are drawn, simulated and encoded here. Faces are cheap to simulate and voices are not,
so most recordings are faces alone (`faces`), and a share of all training windows (`lent_voices`) takes its voice by
label from a pool: synthesised utterances, and those of EMO-DB if `real_voices`. No corpus at hand has real faces and
real voices together; pairing them by label is our choice. Windows left without a voice learn to do without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from mien import config
from mien.config import Count, Recipe, Section, Share
from mien.data import Augment, LabelPool
from mien.datasets import emodb
from mien.encoders import face_geometry
from mien.encoders.voice_prosody import ProsodyExtractor
from mien.errors import ConfigError
from mien.labels import EXPRESSIONS
from mien.media.audio import blocks
from mien.records import FACE, VOICE, Clip, Labels, Recording
from mien.synthetic.recordings import spread_out, troupe
from mien.synthetic.scenario import entropy
from mien.synthetic.speech_synthesis import Speaker, synthesise

NotNegativeCount = Annotated[int, Field(ge=0)]


class SyntheticOptions(Section):
    """`corpus.options` of the synthetic corpus.

    train, val: recordings with face and voice. faces: training recordings more, without voice. seconds: of each.
    balance: 0 keeps Aff-Wild2's class shares, 1 makes classes equally frequent. utterances: synthesised ones in the
    pool, of each class. real_voices: EMO-DB's utterances in the pool too. lent_voices: share of training windows that
    take their voice from the pool. jitter, short: of `FaceJitter`.
    """

    train: Count = 200
    faces: NotNegativeCount = 0
    val: NotNegativeCount = 60
    seconds: float = Field(default=15.0, gt=1)
    seed: int = 0
    balance: Share = 0.5
    utterances: NotNegativeCount = 0
    real_voices: bool = False
    lent_voices: Share = 0.0
    jitter: Share = 0.0
    short: Share = 0.0


@dataclass(frozen=True, slots=True)
class Material:
    """Labelled recordings, and what to do to drawn batches (`mien.training.fit.fit`)."""

    train: list[Recording]
    val: list[Recording]
    augment: dict[str, Augment] = field(default_factory=dict)


def utterances(clips: Sequence[Clip]) -> list[Recording]:
    """Clips with sound alone, their voices encoded."""
    encoder = ProsodyExtractor()
    return [Recording(clip, {VOICE: encoder(blocks(clip.media))}) for clip in clips if clip.media is not None]


def gather(recipe: Recipe, *, voices: Path | Sequence[Recording] | None = None, workers: int = 1) -> Material:
    """The recordings a recipe names.

    Args:
        voices: EMO-DB's folder, or utterances of it already encoded, for `real_voices`.
        workers: processes that simulate and encode.

    Raises ConfigError for a corpus that cannot be made here, wrong options, or real voices asked for and not given.
    """
    if recipe.corpus.name != "synthetic":
        raise ConfigError(
            f"corpus.name: {recipe.corpus.name!r} cannot be made on the spot; only 'synthetic' can",
            remedy="index and extract it first",
        )
    options = _options(recipe)
    hears = VOICE in recipe.features

    def made(split: str, count: int, *, voice: bool = hears, first: int = 0) -> list[Recording]:
        return troupe(
            split,
            count,
            first=first,
            seconds=options.seconds,
            seed=options.seed,
            balance=options.balance,
            voice=voice,
            workers=workers,
        )

    train = made("train", options.train) + made("train", options.faces, voice=False, first=options.train)
    augment: dict[str, Augment] = {}
    if hears and options.lent_voices:
        pool = synthetic_utterances(options.utterances, options.seed, workers)
        if options.real_voices:
            pool += _spoken(voices)
        augment[VOICE] = LabelPool(
            pool, VOICE, recipe.windows.rate_hz, classes=len(recipe.corpus.labels), probability=options.lent_voices
        )
    if (options.jitter or options.short) and FACE in recipe.features:
        augment[FACE] = FaceJitter.fit(train, options.jitter, options.short, recipe.windows.rate_hz)
    return Material(train, made("val", options.val), augment)


class FaceJitter:
    """Augment for face geometry: another face at rest, and another baseline.

    A simulator's people are less various than people, and a network that learns where exactly their brows rest calls
    a stranger surprised. So a window gets one offset per feature, normal, of `share` of the feature's spread. And a
    recording of three seconds may be one smile: its baseline then leans to the smile, and the neutral half second
    before it looks like raised lids. So a share `short` of the windows is given the baseline of the window alone. Our
    choice; docs/BENCHMARKS.md says what it does to a real clip.

    Args:
        spread: `(dim,)` standard deviation of each feature over the training material.
        share: of it, 0 to 1.
        short: share of windows with a baseline of their own, 0 to 1.
        rate_hz: tokens a second of the windows.
    """

    def __init__(self, spread: Tensor, share: float, short: float = 0.0, rate_hz: float = 10.0) -> None:
        self.size, self.short, self.rate_hz = spread * share, short, rate_hz

    @classmethod
    def fit(cls, made: Sequence[Recording], share: float, short: float, rate_hz: float) -> FaceJitter:
        """With the spread of the valid face values of recordings."""
        values = np.concatenate([r.streams[FACE].values[r.streams[FACE].valid] for r in made if FACE in r.streams])
        return cls(torch.from_numpy(values.std(axis=0)), share, short, rate_hz)

    def __call__(
        self, values: Tensor, valid: Tensor, expression: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        offset = torch.randn(len(values), 1, values.shape[-1], generator=generator) * self.size
        if self.short:
            half, values = values.shape[-1] // 2, values.clone()
            times = np.arange(values.shape[1]) / self.rate_hz
            for i in torch.nonzero(torch.rand(len(values), generator=generator) < self.short).flatten().tolist():
                there = values[i, valid[i], :half]
                own = face_geometry.baseline(there.numpy(), times[valid[i].numpy()])
                values[i, valid[i], half:] = there - torch.from_numpy(own).float()
        return values + offset * valid[..., None], valid


def _utterance(number: int, expression: int, seed: int) -> Recording:
    rng = entropy(seed, "utterance", expression, number)
    speaker = Speaker.random(rng, ("female", "male")[number % 2])
    seconds = float(rng.uniform(1.5, 4.0))
    said = synthesise(
        [(0.0, seconds, EXPRESSIONS[expression], float(rng.uniform(0.4, 1.0)))], speaker, int(rng.integers(2**31))
    )
    times = (np.arange(max(1, round(seconds * 25))) + 0.5) / 25
    labels = Labels(times, np.full(len(times), expression), np.full((len(times), 2), np.nan))
    clip = Clip(f"synthetic_{expression}_{number:04d}", None, labels=labels)
    return Recording(clip, {VOICE: ProsodyExtractor()([(0.0, said.samples)])})


def synthetic_utterances(each: int, seed: int, workers: int = 1) -> list[Recording]:
    """`each` utterances of every class by as many synthetic speakers, encoded, 1.5 to 4 s long."""
    jobs = [(number, expression, seed) for expression in range(len(EXPRESSIONS)) for number in range(each)]
    return spread_out(_utterance, jobs, workers)


def _options(recipe: Recipe) -> SyntheticOptions:
    try:
        return SyntheticOptions(**recipe.corpus.options)
    except ValidationError as error:
        raise config.refusal("corpus", config.explain(error, SyntheticOptions, "corpus.options")) from None


def _spoken(voices: Path | Sequence[Recording] | None) -> list[Recording]:
    if voices is None:
        raise ConfigError(
            "corpus.options.real_voices is true, and no folder of real voices was given",
            follows="nothing was started",
            remedy="give EMO-DB's folder with --emodb DIR, or set corpus.options.real_voices=false",
        )
    return utterances(emodb.utterances(voices)) if isinstance(voices, Path) else list(voices)
