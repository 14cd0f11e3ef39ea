"""Token clock, windows, sampling, padding and same-class augmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mien import data
from mien.config import Windows
from mien.records import Batch, Clip, Labels, Recording, Stream


def recording(
    seconds: float = 6.0,
    *,
    name: str = "a",
    labels: Sequence[int] | None = None,
    face: bool = True,
    seed: int = 0,
    va: bool = True,
) -> Recording:
    """Face at 30 Hz (value 0 is its time), voice at 20 Hz; labels each second."""
    r = np.random.default_rng(seed)
    ft, vt = np.arange(0, seconds, 1 / 30), np.arange(0, seconds, 1 / 20) + 0.025
    streams = {"voice": Stream(r.normal(size=(len(vt), 2)).astype(np.float32), vt, np.ones(len(vt), bool))}
    if face:
        values = r.normal(size=(len(ft), 3)).astype(np.float32)
        values[:, 0] = ft
        streams["face"] = Stream(values, ft, (ft < 2) | (ft >= 3))
    classes = np.asarray(labels if labels is not None else np.arange(int(np.ceil(seconds))) % 8)
    expression = classes[ft.astype(int)]
    affect = np.stack((ft / 10, -ft / 10), 1) if va else np.full((len(ft), 2), np.nan)
    return Recording(Clip(name, None, labels=Labels(ft, expression, affect)), streams)


WINDOWS = Windows(seconds=2.0, hop_seconds=1.0, rate_hz=10.0, jitter=False)


def test_tokens_carry_streams_and_labels_on_one_clock() -> None:
    t = data.make_tokens(recording(), 10.0)
    assert len(t.times) == 60
    assert np.array_equal(t.expression, np.repeat(np.arange(6), 10))
    assert np.array_equal(t.valid["face"], (t.times < 2) | (t.times > 3))
    assert t.valid["voice"].all()
    np.testing.assert_allclose(t.values["face"][t.valid["face"], 0], t.times[t.valid["face"]] - 1 / 60, atol=1e-5)
    np.testing.assert_allclose(t.valence_arousal[:, 0], (t.times - 1 / 60) / 10, atol=1e-6)


def test_tokens_beyond_the_labels_are_unlabelled() -> None:
    r = recording(6.0)
    short = Labels(r.clip.labels.times[:60], r.clip.labels.expression[:60], r.clip.labels.valence_arousal[:60])
    t = data.make_tokens(Recording(Clip("a", None, labels=short), r.streams), 10.0)
    assert (t.expression[:20] >= 0).all()
    assert (t.expression[22:] == -1).all()
    assert np.isnan(t.valence_arousal[22:]).all()
    bare = data.make_tokens(Recording(Clip("a", None), r.streams), 10.0)
    assert (bare.expression == -1).all()


def test_a_missing_modality_is_invalid_in_the_table() -> None:
    table = data.build_table([recording(4.0), recording(3.0, name="b", face=False)], 10.0)
    assert table.bounds.tolist() == [0, 40, 70]
    _, face = table.sources["face"].read(40, 70)
    assert not face.any()
    assert table.sources["voice"].read(40, 70)[1].all()


def test_streams_of_different_dims_are_refused_with_the_clip() -> None:
    other = recording(name="b")
    wide = Stream(np.zeros((5, 7), np.float32), np.arange(5.0), np.ones(5, bool))
    with pytest.raises(ValueError, match="clip 'b' has 7 face values per token, but 'a' has 3"):
        data.build_table([recording(), Recording(other.clip, {**other.streams, "face": wide})], 10.0)
    with pytest.raises(ValueError, match="no recordings"):
        data.build_table([], 10.0)


class ReadOnlySource(data.TokenSource):
    """A source that implements `read` only."""

    def __init__(self, inner: data.InMemoryTokens) -> None:
        self.inner, self.dim = inner, inner.dim

    def read(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inner.read(start, stop)


def same(a: Batch, b: Batch) -> bool:
    pairs = [(a.expression, b.expression), *((a.values[n], b.values[n]) for n in a.values)]
    pairs += [(a.valid[n], b.valid[n]) for n in a.valid]
    affect = torch.equal(torch.nan_to_num(a.valence_arousal, 9.0), torch.nan_to_num(b.valence_arousal, 9.0))
    return affect and all(torch.equal(x, y) for x, y in pairs)


def test_a_batch_equals_its_collated_windows_for_any_source() -> None:
    recordings = [recording(5.0), recording(1.2, name="short", face=False), recording(3.3, name="c", seed=2)]
    table = data.build_table(recordings, 10.0)
    read_only = data.TokenTable(
        {n: ReadOnlySource(s) for n, s in table.sources.items()}, table.expression, table.valence_arousal, table.bounds
    )
    quick, slow = data.WindowDataset(table, WINDOWS), data.WindowDataset(read_only, WINDOWS)
    picks = list(range(len(quick)))
    one_by_one = data.collate([quick[i] for i in picks])
    assert same(quick.__getitems__(picks), one_by_one)
    assert same(slow.__getitems__(picks), one_by_one)
    assert same(data.collate(one_by_one), one_by_one)
    short = int((quick.lengths < 20).nonzero()[0])
    assert one_by_one.valid["voice"][short].sum() == 12
    assert (one_by_one.expression[short, 12:] == -1).all()
    assert torch.isnan(one_by_one.valence_arousal[short, 12:]).all()
    assert not one_by_one.values["voice"][short, 12:].any()
    with pytest.raises(IndexError):
        quick[len(quick)]


def test_stream_tokens_equal_in_memory_tokens() -> None:
    made = [recording(5.3, name="a"), recording(3.1, name="b", face=False, seed=1), recording(4.0, name="c", seed=2)]
    made[2].streams["face"].values[10:40] = np.nan
    for rate in (7.0, 10.0, 45.0):
        loaded, stored = (data.build_table(made, rate, memory_limit_bytes=limit) for limit in (1 << 30, 0))
        assert isinstance(loaded.sources["face"], data.InMemoryTokens)
        assert isinstance(stored.sources["face"], data.StreamTokens)
        assert torch.equal(loaded.bounds, stored.bounds)
        windows = WINDOWS.model_copy(update={"rate_hz": rate})
        a, b = (data.WindowDataset(t, windows) for t in (loaded, stored))
        one, other = (d.__getitems__(list(range(len(a)))) for d in (a, b))
        for name in ("face", "voice"):
            assert torch.equal(one.values[name], other.values[name])
            assert torch.equal(one.valid[name], other.valid[name])


def test_windows_stay_inside_their_recording() -> None:
    dataset = data.WindowDataset([recording(5.0), recording(3.3, name="b")], WINDOWS)
    seen = torch.zeros(83, dtype=torch.long)
    for start, length in zip(dataset.starts.tolist(), dataset.lengths.tolist(), strict=True):
        assert length == 20
        assert (start < 50) == (start + length <= 50)
        seen[start : start + length] += 1
    assert (seen > 0).all()


def test_jitter_stays_within_the_recording_and_follows_the_seed() -> None:
    moving = Windows(seconds=2.0, hop_seconds=1.0, rate_hz=10.0, jitter=True)
    dataset = data.WindowDataset([recording(5.0), recording(5.0, name="b")], moving)
    draws = [dataset.__getitems__(data.WindowBatch(seed, list(range(len(dataset))))) for seed in (1, 1, 2)]
    assert same(draws[0], draws[1])
    assert not same(draws[0], draws[2])
    still = dataset.__getitems__(list(range(len(dataset))))
    first = [b.valence_arousal[:, 0, 0] for b in (still, *draws)]
    for moved in first[1:]:
        assert (moved - first[0]).abs().max() <= 0.5 / 10 + 1e-6
    assert dataset.shift == 5


def test_labelled_keeps_windows_with_a_label() -> None:
    labels = [-1, -1, -1, -1, 2, 2]
    assert len(data.WindowDataset([recording(labels=labels, va=False)], WINDOWS)) == 5
    kept = data.WindowDataset([recording(labels=labels, va=False)], WINDOWS, labelled=True)
    assert kept.starts.tolist() == [30, 40]
    assert len(data.WindowDataset([recording(labels=labels)], WINDOWS, labelled=True)) == 5


def test_class_counts_equal_a_loop() -> None:
    dataset = data.WindowDataset([recording(5.0), recording(1.2, name="b", labels=[-1, 3])], WINDOWS)
    counts = dataset.class_counts(8)
    for i in range(len(dataset)):
        expression = dataset[i].expression[0]
        assert counts[i].tolist() == [int((expression == c).sum()) for c in range(8)]


def test_a_window_counts_once_with_its_last_label_where_it_has_one_prediction() -> None:
    clips = [recording(5.0, labels=[-1, -1, 4, -1, -1]), recording(1.2, name="b", labels=[-1, 3]), recording(3.0)]
    dataset = data.WindowDataset(clips, WINDOWS, last_label=True)
    counts = dataset.class_counts(8)
    for i in range(len(dataset)):
        known = [label for label in dataset[i].expression[0].tolist() if label >= 0]
        assert counts[i].tolist() == [int(known[-1:] == [c]) for c in range(8)]
    assert counts.sum(0).tolist() == [0, 1, 1, 1, 2, 0, 0, 0]


def test_window_weights_balance_the_classes() -> None:
    common = [recording(10.0, name=str(i), labels=[0] * 10, seed=i) for i in range(9)]
    rare = [recording(10.0, name="r", labels=[5] * 10)]
    dataset = data.WindowDataset(common + rare, WINDOWS)
    counts = dataset.class_counts(8)
    for balance, expected in ((0.0, 0.1), (0.5, 0.25), (1.0, 0.5)):
        weights = data.window_weights(counts, balance)
        assert weights.sum().item() == pytest.approx(1.0)
        assert weights[counts[:, 5] > 0].sum().item() == pytest.approx(expected, abs=1e-9)
    sampler = data.WindowSampler(data.window_weights(counts, 1.0), batch=16, seed=3, epoch=0, balance=1.0)
    drawn = [i for draw in sampler for i in draw.windows]
    assert len(drawn) == len(dataset)
    assert 0.3 < np.mean([counts[i, 5] > 0 for i in drawn]) < 0.7


def test_an_epoch_depends_only_on_seed_and_epoch() -> None:
    weights = torch.ones(50) / 50
    epochs = [list(data.WindowSampler(weights, batch=16, seed=s, epoch=e)) for s, e in ((1, 0), (1, 0), (1, 1), (2, 0))]
    assert epochs[0] == epochs[1]
    assert epochs[0] != epochs[2]
    assert epochs[0] != epochs[3]
    for epoch in epochs:
        assert sorted(i for draw in epoch for i in draw.windows) == list(range(50))
        assert [len(d.windows) for d in epoch] == [16, 16, 16, 2]
        assert len({d.seed for d in epoch}) == 4


def test_input_statistics_use_valid_tokens() -> None:
    recordings = [recording(5.0, seed=1), recording(7.0, seed=2, name="b")]
    tiled = Windows(seconds=1.0, hop_seconds=1.0, rate_hz=10.0, jitter=False)  # each token once
    statistics = data.input_statistics(data.WindowDataset(recordings, tiled), 8)
    cut = [data.make_tokens(r, 10.0) for r in recordings]
    for name in ("face", "voice"):
        known = np.concatenate([t.values[name][t.valid[name]] for t in cut]).astype(float)
        np.testing.assert_allclose(statistics.mean[name], known.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(statistics.deviation[name], known.std(0), rtol=1e-5)
    labels = np.concatenate([t.expression for t in cut])
    np.testing.assert_allclose(statistics.counts, np.bincount(labels, minlength=8))


def test_a_constant_feature_gets_deviation_one() -> None:
    r = recording()
    flat = Stream(np.full((60, 2), 1234.5, np.float32), np.arange(60) / 10, np.ones(60, bool))
    statistics = data.input_statistics(data.WindowDataset([Recording(r.clip, {"voice": flat})], WINDOWS), 8)
    assert statistics.deviation["voice"].tolist() == [1.0, 1.0]
    assert statistics.mean["voice"].tolist() == [1234.5, 1234.5]


def test_augmentation_applies_to_training_batches_only_and_follows_the_seed() -> None:
    def noise(
        values: torch.Tensor, valid: torch.Tensor, expression: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return values + torch.rand(values.shape, generator=generator), valid

    dataset = data.WindowDataset([recording()], WINDOWS, augment={"voice": noise})
    plain = data.WindowDataset([recording()], WINDOWS)
    a, b, c = (dataset.__getitems__(data.WindowBatch(seed, [0, 2])) for seed in (5, 5, 6))
    assert same(a, b)
    assert not same(a, c)
    assert torch.equal(a.values["face"], plain.__getitems__([0, 2]).values["face"])
    assert same(dataset[1], plain[1])


def utterance(label: int, seconds: float, value: float) -> Recording:
    times = np.arange(0, seconds, 0.1) + 0.05
    ramp = np.stack((np.full(len(times), value), np.arange(len(times))), 1).astype(np.float32)
    labels = Labels(times, np.full(len(times), label), np.full((len(times), 2), np.nan))
    return Recording(Clip(f"u{value}", None, labels=labels), {"voice": Stream(ramp, times, np.ones(len(times), bool))})


@given(seed=st.integers(0, 10**6))
def test_same_class_augmentation_keeps_label_and_order(seed: int) -> None:
    pool = [utterance(1, 0.7, 10.0), utterance(2, 1.5, 20.0), utterance(1, 2.5, 11.0), utterance(2, 0.4, 21.0)]
    lengths = {10.0: 7, 11.0: 25, 20.0: 15, 21.0: 4}
    augment = data.SameClassAugment(pool, "voice", 10.0, classes=8, probability=1.0)
    expression = torch.tensor([[1, 1, 1, 2, 2, 2, 2, -1, 5, 1], [2] * 10])
    values, valid = torch.full((2, 10, 2), -5.0), torch.zeros(2, 10, dtype=torch.bool)
    out, ok = augment(values, valid, expression, torch.Generator().manual_seed(seed))
    kept = torch.tensor([[c in (-1, 5) for c in row] for row in expression.tolist()])
    assert torch.equal(out[kept], values[kept])
    assert not ok[kept].any()
    assert ok[~kept].all()
    for row in range(2):
        for label, names in ((1, {10.0, 11.0}), (2, {20.0, 21.0})):
            mine = out[row][expression[row] == label]
            if len(mine):
                assert len(mine[:, 0].unique()) == 1
                assert float(mine[0, 0]) in names
                time = torch.arange(10)[expression[row] == label]
                steps = (mine[:, 1] - mine[0, 1] - (time - time[0])) % lengths[float(mine[0, 0])]
                assert not steps.any()


def test_same_class_augmentation_changes_the_given_share() -> None:
    augment = data.SameClassAugment([utterance(1, 1.0, 10.0)], "voice", 10.0, classes=8, probability=0.3)
    expression = torch.ones(2000, 4, dtype=torch.long)
    out, _ = augment(torch.zeros(2000, 4, 2), torch.ones(2000, 4) > 0, expression, torch.Generator().manual_seed(0))
    taken = (out[..., 0] == 10).float()
    assert taken.mean().item() == pytest.approx(0.3, abs=0.04)
    assert torch.equal(taken[:, 0], taken[:, 3])
