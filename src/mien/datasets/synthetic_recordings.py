"""Training and validation recordings of the synthetic corpus, simulated and encoded in memory.

Simulating faces is cheap and synthesising voices is not. So most recordings have a face alone (`faces`), and a share of
the training windows (`voice_pool_share`) takes a voice of the same class from a pool: synthesised utterances, and those
of EMO-DB with `real_voices`. Pairing real voices with faces by label is our choice, because no corpus at hand has both.
The other windows of these recordings have no voice and train the network for a missing modality.
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
from mien.data import Augment, SameClassAugment
from mien.datasets import emodb
from mien.encoders import face_geometry
from mien.encoders.voice_prosody import ProsodyExtractor
from mien.errors import ConfigError
from mien.labels import EXPRESSIONS
from mien.media.audio import blocks
from mien.records import FACE, VOICE, Clip, Recording
from mien.synthetic.recordings import map_in_processes, simulate_recordings
from mien.synthetic.scenario import seeded_rng
from mien.synthetic.speech_synthesis import Speaker, synthesise

NotNegativeCount = Annotated[int, Field(ge=0)]


class SyntheticOptions(Section):
    """`corpus.options` of the synthetic corpus.

    train, val: number of recordings with face and voice. faces: number of further training recordings, face only.
    seconds: length of each recording. balance: 0 keeps Aff-Wild2's class shares, 1 makes classes equally frequent.
    utterances: synthesised utterances of each class in the voice pool. real_voices: add EMO-DB's utterances to the
    pool. voice_pool_share: share of training windows whose voice comes from the pool. identity_jitter,
    short_baseline_share: of `FaceJitter`.
    """

    train: Count = 200
    faces: NotNegativeCount = 0
    val: NotNegativeCount = 60
    seconds: float = Field(default=15.0, gt=1)
    seed: int = 0
    balance: Share = 0.5
    utterances: NotNegativeCount = 0
    real_voices: bool = False
    voice_pool_share: Share = 0.0
    identity_jitter: Share = 0.0
    short_baseline_share: Share = 0.0


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Labelled recordings for `mien.training.fit.fit`. augment: modality -> augmentation of training batches."""

    train: list[Recording]
    val: list[Recording]
    augment: dict[str, Augment] = field(default_factory=dict)


def encode_utterances(clips: Sequence[Clip]) -> list[Recording]:
    """Encode the voices of clips as recordings with a voice stream only. Clips without media are left out."""
    encoder = ProsodyExtractor()
    return [Recording(clip, {VOICE: encoder(blocks(clip.media))}) for clip in clips if clip.media is not None]


def prepare_training_data(
    recipe: Recipe, *, voices: Path | Sequence[Recording] | None = None, workers: int = 1
) -> TrainingData:
    """Simulate and encode the recordings of a recipe.

    Args:
        voices: EMO-DB's folder, or its encoded utterances, for `real_voices`.
        workers: processes that simulate and encode.

    Raises:
        ConfigError: the recipe's corpus is not synthetic, its options are wrong, or `real_voices` is set and `voices`
            is not given.
        CorpusError: the folder `voices` is not EMO-DB.
    """
    if recipe.corpus.name != "synthetic":
        raise ConfigError(
            f"corpus.name: {recipe.corpus.name!r} cannot be generated; only 'synthetic' can",
            follows="Nothing was started.",
            remedy="Run `mien index` and `mien extract` first, and train with --index and --store.",
        )
    options = _options(recipe)
    uses_voice = VOICE in recipe.features

    def simulate(split: str, count: int, *, voice: bool = uses_voice, first: int = 0) -> list[Recording]:
        return simulate_recordings(
            split,
            count,
            first=first,
            seconds=options.seconds,
            seed=options.seed,
            balance=options.balance,
            voice=voice,
            workers=workers,
        )

    train = simulate("train", options.train) + simulate("train", options.faces, voice=False, first=options.train)
    augment: dict[str, Augment] = {}
    if uses_voice and options.voice_pool_share:
        pool = synthesise_utterances(options.utterances, options.seed, workers)
        if options.real_voices:
            pool += _real_utterances(voices)
        augment[VOICE] = SameClassAugment(
            pool, VOICE, recipe.windows.rate_hz, classes=len(recipe.corpus.labels), probability=options.voice_pool_share
        )
    if (options.identity_jitter or options.short_baseline_share) and FACE in recipe.features:
        augment[FACE] = FaceJitter.fit(
            train, options.identity_jitter, options.short_baseline_share, recipe.windows.rate_hz
        )
    return TrainingData(train, simulate("val", options.val), augment)


class FaceJitter:
    """Augmentation of face geometry: a random resting face, and baselines of short recordings.

    Our choice, for two reasons; docs/BENCHMARKS.md gives its effect on a real clip:

    * Simulated faces vary less than real ones, so a network may learn their exact resting position. Each window
      therefore gets one normal offset per feature, of `identity_jitter` times the feature's standard deviation.
    * A short recording may be one smile, which then shifts its baseline. A share `short_baseline_share` of the windows
      therefore gets the baseline of the window alone, instead of the recording's.

    Args:
        spread: `(dim,)` standard deviation of each feature over the training recordings.
        identity_jitter: in [0, 1].
        short_baseline_share: in [0, 1].
        rate_hz: tokens a second of the windows.
    """

    def __init__(
        self, spread: Tensor, identity_jitter: float, short_baseline_share: float = 0.0, rate_hz: float = 10.0
    ) -> None:
        self.offset_scale = spread * identity_jitter
        self.short_baseline_share, self.rate_hz = short_baseline_share, rate_hz

    @classmethod
    def fit(
        cls, recordings: Sequence[Recording], identity_jitter: float, short_baseline_share: float, rate_hz: float
    ) -> FaceJitter:
        """Make the augmentation with the spread of the valid face features of recordings."""
        streams = [r.streams[FACE] for r in recordings if FACE in r.streams]
        values = np.concatenate([stream.values[stream.valid] for stream in streams])
        return cls(torch.from_numpy(values.std(axis=0)), identity_jitter, short_baseline_share, rate_hz)

    def __call__(
        self, values: Tensor, valid: Tensor, expression: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Augment a batch: values `(batch, time, dim)`, valid `(batch, time)` bool. Returns new values, and `valid`."""
        offset = torch.randn(len(values), 1, values.shape[-1], generator=generator) * self.offset_scale
        if self.short_baseline_share:
            half, values = values.shape[-1] // 2, values.clone()
            times = np.arange(values.shape[1]) / self.rate_hz
            chosen = torch.rand(len(values), generator=generator) < self.short_baseline_share
            for i in torch.nonzero(chosen).flatten().tolist():
                measures = values[i, valid[i], :half]
                baseline = face_geometry.resting_baseline(measures.numpy(), times[valid[i].numpy()])
                values[i, valid[i], half:] = measures - torch.from_numpy(baseline).float()
        return values + offset * valid[..., None], valid


def _synthesise_utterance(number: int, expression: int, seed: int) -> Recording:
    rng = seeded_rng(seed, "utterance", expression, number)
    speaker = Speaker.random(rng, ("female", "male")[number % 2])
    seconds = float(rng.uniform(1.5, 4.0))
    speech = synthesise(
        [(0.0, seconds, EXPRESSIONS[expression], float(rng.uniform(0.4, 1.0)))], speaker, int(rng.integers(2**31))
    )
    labels = emodb.utterance_labels(seconds, expression)
    clip = Clip(f"synthetic_{expression}_{number:04d}", None, labels=labels)
    return Recording(clip, {VOICE: ProsodyExtractor()([(0.0, speech.samples)])})


def synthesise_utterances(per_class: int, seed: int, workers: int = 1) -> list[Recording]:
    """Synthesise and encode `per_class` utterances of every class, 1.5 to 4 s long, each by another speaker."""
    jobs = [(number, expression, seed) for expression in range(len(EXPRESSIONS)) for number in range(per_class)]
    return map_in_processes(_synthesise_utterance, jobs, workers)


def _options(recipe: Recipe) -> SyntheticOptions:
    try:
        return SyntheticOptions(**recipe.corpus.options)
    except ValidationError as error:
        raise config.refusal("corpus", config.explain(error, SyntheticOptions, "corpus.options")) from None


def _real_utterances(voices: Path | Sequence[Recording] | None) -> list[Recording]:
    if voices is None:
        raise ConfigError(
            "corpus.options.real_voices is true, and no folder of real voices was given",
            follows="Nothing was started.",
            remedy="Name EMO-DB's folder with --emodb DIR, or set corpus.options.real_voices=false.",
        )
    return encode_utterances(emodb.read_utterances(voices)) if isinstance(voices, Path) else list(voices)
