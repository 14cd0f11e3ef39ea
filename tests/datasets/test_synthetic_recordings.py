"""Training data of the synthetic corpus: seeded recordings, voices paired by label, and face jitter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien import config, models
from mien.data import SameClassAugment
from mien.datasets.synthetic_recordings import FaceJitter, prepare_training_data, synthesise_utterances
from mien.encoders import face_geometry
from mien.errors import ConfigError
from mien.records import FACE, VOICE, Clip, Labels, Recording, Stream

SMALL = ("train=2", "faces=3", "val=1", "seconds=3.0", "utterances=1", "voice_pool_share=0.5", "real_voices=false")


def recipe(*more: str) -> config.Recipe:
    changes = [f"corpus.options.{o}" for o in (*SMALL, *more)]
    return config.load("synthetic", changes, check=models.problems)


def test_training_data_follows_the_recipe_and_its_seed() -> None:
    made, again = prepare_training_data(recipe()), prepare_training_data(recipe())
    assert [set(r.streams) for r in made.train] == [{FACE, VOICE}] * 2 + [{FACE}] * 3
    assert len(made.val) == 1
    assert not {r.clip.subject for r in made.train} & {r.clip.subject for r in made.val}
    assert len({r.clip.id for r in made.train}) == 5
    for a, b in zip(made.train, again.train, strict=True):
        for name in a.streams:
            assert np.array_equal(a.streams[name].values, b.streams[name].values)
    assert set(made.augment) == {FACE, VOICE}
    assert (
        set(
            prepare_training_data(
                recipe("voice_pool_share=0.0", "identity_jitter=0.0", "short_baseline_share=0.0")
            ).augment
        )
        == set()
    )


def test_real_voices_without_a_folder_are_an_error() -> None:
    few = ("real_voices=true", "train=1", "faces=0", "utterances=0", "seconds=1.5")
    with pytest.raises(ConfigError, match=r"real_voices is true, and no folder(.|\n)*--emodb DIR"):
        prepare_training_data(recipe(*few))


def test_another_corpus_than_the_synthetic_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'aff-wild2' cannot be generated"):
        prepare_training_data(config.changed(recipe(), corpus={"name": "aff-wild2", "options": {}}))


def test_the_error_for_a_wrong_option_names_it() -> None:
    with pytest.raises(ConfigError, match=r"voice_pool_share"):
        prepare_training_data(recipe("voice_pool_share=1.5"))


def test_pooled_voices_have_the_class_that_the_face_shows() -> None:
    """Every utterance of the pool carries its class as its value, so that the window shows whom it lent from."""
    times = np.arange(75) / 25
    pool = [
        Recording(
            Clip(f"u{c}", None, labels=Labels(times, np.full(75, c), np.full((75, 2), np.nan))),
            {VOICE: Stream(np.full((75, 2), float(c), np.float32), times, np.ones(75, bool))},
        )
        for c in range(8)
    ]
    lend = SameClassAugment(pool, VOICE, 15.0, classes=8, probability=1.0)
    expression = torch.arange(8)[:, None].repeat(1, 30)
    values, valid = lend(
        torch.full((8, 30, 2), -1.0), torch.zeros(8, 30, dtype=torch.bool), expression, torch.Generator().manual_seed(0)
    )
    assert valid.any(dim=1).all()
    assert torch.equal(values[valid][:, 0], expression[valid].float())


def test_synthetic_utterances_cover_all_classes_and_contain_speech() -> None:
    made = synthesise_utterances(1, 0)
    assert sorted(int(r.clip.labels.expression[0]) for r in made if r.clip.labels) == list(range(8))
    heard = [float(r.streams[VOICE].valid.mean()) for r in made]
    assert np.mean(heard) > 0.6, "silero-vad takes most of them for speech, breathy ones not always"


def windows(count: int = 40, tokens: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(count, tokens, face_geometry.DIM, generator=generator)
    valid = torch.rand(count, tokens, generator=generator) < 0.8
    return torch.where(valid[..., None], values, 0), valid


def test_jitter_adds_one_offset_per_window_of_the_given_scale() -> None:
    values, valid = windows(400)
    spread = torch.linspace(0.1, 2, face_geometry.DIM)
    out, kept = FaceJitter(spread, 0.5)(values, valid, valid.long(), torch.Generator().manual_seed(0))
    change = out - values
    assert torch.equal(kept, valid)
    assert (change[~valid] == 0).all()
    first = torch.stack([c[v][0] for c, v in zip(change, valid, strict=True)])
    for row, (c, v) in enumerate(zip(change, valid, strict=True)):
        assert torch.allclose(c[v], first[row].expand(int(v.sum()), -1), atol=1e-5)
    assert torch.allclose(first.std(dim=0), 0.5 * spread, rtol=0.2)


def test_jitter_depends_on_the_generator_only() -> None:
    values, valid = windows()
    jitter = FaceJitter(torch.ones(face_geometry.DIM), 0.3, 0.5)
    first, again, other = (
        jitter(values, valid, valid.long(), torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(values, windows()[0]), "the batch itself is not changed"


def test_the_offset_scale_is_fitted_to_valid_values() -> None:
    rng = np.random.default_rng(0)
    values, valid = rng.normal(size=(200, 3)).astype(np.float32) * (1, 2, 3), rng.random(200) < 0.5
    values[~valid] = 1e6
    stream = Stream(values.astype(np.float32), np.arange(200) / 25, valid)
    made = [Recording(Clip("a", None), {FACE: stream}), Recording(Clip("b", None), {})]
    scale = FaceJitter.fit(made, 0.5, 0.0, 15.0).offset_scale.numpy()
    np.testing.assert_allclose(scale, 0.5 * values[valid].std(axis=0), rtol=1e-4)


def test_a_short_baseline_is_computed_from_the_window_alone() -> None:
    values, valid = windows()
    out, _ = FaceJitter(torch.zeros(face_geometry.DIM), 0.0, 1.0, 10.0)(values, valid, valid.long(), torch.Generator())
    half = face_geometry.DIM // 2
    assert torch.equal(out[..., :half], values[..., :half])
    assert (out[~valid] == 0).all()
    times = np.arange(valid.shape[1]) / 10.0
    for row in (0, 17):
        seen = valid[row].numpy()
        alone = face_geometry.encode(values[row, seen, :half].numpy(), times[seen])
        np.testing.assert_allclose(out[row, seen].numpy(), alone.values, atol=1e-5)
    some, _ = FaceJitter(torch.zeros(face_geometry.DIM), 0.0, 0.3, 10.0)(
        *windows(400), torch.zeros(1), torch.Generator().manual_seed(0)
    )
    share = (some != windows(400)[0]).any(dim=(1, 2)).float().mean()
    assert float(share) == pytest.approx(0.3, abs=0.08)
