"""What a recipe trains on: its corpus section, turned into recordings.

`theatre` needs no files: plans are drawn, simulated and encoded here. With `real_voices` above 0, that share of training
windows takes its voice from EMO-DB utterances of the same label (no corpus at hand has real faces and real voices
together, so they are paired by label: our choice).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError

from mien import config
from mien.config import Count, Recipe, Section, Share
from mien.corpora import emodb
from mien.corpora.theatre.recordings import recordings
from mien.data import Augment, LabelPool
from mien.encoders.voice import VoiceEncoder
from mien.errors import ConfigError
from mien.media.audio import blocks
from mien.records import VOICE, Clip, Recording


class TheatreOptions(Section):
    """`corpus.options` of the theatre. train, val: recordings of each split; seconds: of each; balance: 0 keeps
    Aff-Wild2's class shares, 1 makes classes equally frequent; real_voices: share of windows voiced by EMO-DB."""

    train: Count = 240
    val: Count = 60
    seconds: float = Field(default=20.0, gt=1)
    seed: int = 0
    balance: Share = 0.5
    real_voices: Share = 0.0


@dataclass(frozen=True, slots=True)
class Material:
    """Labelled recordings, and what to do to drawn batches (`mien.training.fit.fit`)."""

    train: list[Recording]
    val: list[Recording]
    augment: dict[str, Augment] = field(default_factory=dict)


def utterances(clips: Sequence[Clip]) -> list[Recording]:
    """Clips with sound alone, their voices encoded."""
    encoder = VoiceEncoder()
    return [Recording(clip, {VOICE: encoder(blocks(clip.media))}) for clip in clips if clip.media is not None]


def gather(recipe: Recipe, *, voices: Path | Sequence[Recording] | None = None, workers: int = 1) -> Material:
    """The recordings a recipe names.

    Args:
        voices: EMO-DB's folder, or its encoded utterances, for `real_voices`.
        workers: processes that simulate and encode.

    Raises ConfigError for a corpus that cannot be made here, wrong options, or real voices asked for and not given.
    """
    if recipe.corpus.name != "theatre":
        raise ConfigError(
            f"corpus.name: {recipe.corpus.name!r} cannot be made on the spot; only 'theatre' can",
            remedy="index and extract it first",
        )
    options = _options(recipe)
    augment: dict[str, Augment] = {}
    if options.real_voices and VOICE in recipe.features:
        augment[VOICE] = real_voices(recipe, _spoken(voices), options.real_voices)
    train, val = (
        recordings(
            split,
            count,
            seconds=options.seconds,
            seed=options.seed,
            balance=options.balance,
            voice=VOICE in recipe.features,
            workers=workers,
        )
        for split, count in (("train", options.train), ("val", options.val))
    )
    return Material(train, val, augment)


def real_voices(recipe: Recipe, pool: Sequence[Recording], probability: float) -> LabelPool:
    """The augmentation that lends windows a real voice of their label."""
    return LabelPool(
        pool, VOICE, recipe.windows.rate_hz, classes=len(recipe.corpus.labels), probability=probability
    )


def _options(recipe: Recipe) -> TheatreOptions:
    try:
        return TheatreOptions(**recipe.corpus.options)
    except ValidationError as error:
        raise config.refusal("corpus", config.explain(error, TheatreOptions, "corpus.options")) from None


def _spoken(voices: Path | Sequence[Recording] | None) -> Sequence[Recording]:
    if voices is None:
        raise ConfigError(
            "corpus.options.real_voices is above 0, and no folder of real voices was given",
            follows="nothing was started",
            remedy="give EMO-DB's folder with --emodb DIR, or set corpus.options.real_voices=0",
        )
    return utterances(emodb.read(voices)) if isinstance(voices, Path) else voices
