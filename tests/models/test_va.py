"""The valence-arousal systems: they learn, are saved completely, ignore missing streams, and have the known sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mien import checkpoint, config, models
from mien.errors import ConfigError
from mien.layers.temporal import PositionedLayer, sinusoidal_positions
from mien.layers.valence_arousal import ValenceArousalObjective, valence_arousal_loss
from mien.records import Batch, Clip, Labels, Recording, Stream
from mien.training.fit import fit
from tests.models.round_trip import assert_streams_round_trip, train

WIDTHS = {"face": 6, "behaviour": 5, "voice": 7}
SMALL: dict[str, dict[str, Any]] = {
    "face": {"name": "va_streams", "kind": "face", "dim": 16, "layers": 2, "heads": 2, "dropout": 0.0},
    "behaviour": {"name": "va_streams", "kind": "behaviour", "dim": 16, "mamba_layers": 2, "heads": 2, "dropout": 0.0},
    "voice": {"name": "va_streams", "kind": "voice", "dim": 16, "pooling_dim": 4, "heads": 2, "dropout": 0.0},
    "experts": {"name": "va_directed_experts", "dim": 16, "layers": 1, "heads": 2, "dropout": 0.0},
    "stack": {"name": "va_directed_experts", "dim": 16, "layers": 1, "heads": 2, "dropout": 0.0, "reading": "stack"},
    "reliability": {"name": "va_reliability", "dim": 16, "heads": 2, "dropout": 0.0},
}
FUSIONS = ("experts", "stack", "reliability")
SMALL |= {f"{kind}, residual": {**SMALL[kind], "residual": True} for kind in FUSIONS}
READS = {"face": ["face"], "behaviour": ["behaviour"], "voice": ["voice"]}
EACH = pytest.mark.parametrize("kind", SMALL)


def recipe(kind: str, *, shape: dict[str, int] | None = None) -> config.Recipe:
    widths = shape or WIDTHS
    return config.read(
        {
            "paper": {"title": "t", "arxiv": "1"},
            "corpus": {"name": "test"},
            "features": {n: {"encoder": n, "dim": widths[n]} for n in READS.get(kind, WIDTHS)},
            "windows": {"seconds": 4.0, "hop_seconds": 2.0, "rate_hz": 5.0},
            "model": SMALL[kind],
            "train": {"epochs": 12, "batch": 8, "lr": 1e-2, "threads": 1, "patience": 0},
            "vote": {"hop_seconds": 2.0, "smooth_seconds": 0.0},
        },
        origin=kind,
        check=models.problems,
    )


def build(kind: str) -> Any:
    torch.manual_seed(0)
    return models.build(recipe(kind))


def recording(seed: int) -> Recording:
    """Sinusoidal valence and arousal; each stream is a noisy linear map of them."""
    rng, times = np.random.default_rng(seed), np.arange(100) / 5 + 0.1
    truth = np.stack([0.7 * np.sin(times * rng.uniform(0.3, 1) + rng.uniform(0, 6)) for _ in range(2)], 1)
    streams = {}
    for n, (name, width) in enumerate(WIDTHS.items()):
        code = np.random.default_rng(n).normal(size=(2, width))
        values = truth @ code + 0.3 * rng.normal(size=(100, width))
        streams[name] = Stream(values.astype(np.float32), times, rng.random(100) > 0.1)
    labels = Labels(times, np.full(100, -1), truth)
    return Recording(Clip(str(seed), None, str(seed), labels=labels), streams)


def batch(size: int = 4, time: int = 20) -> Batch:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(size, time, 2, generator=generator) * 2 - 1
    values, valid = {}, {}
    for n, (name, width) in enumerate(WIDTHS.items()):
        code = torch.randn(2, width, generator=torch.Generator().manual_seed(n))
        there = torch.rand(size, time, generator=generator) > 0.2
        values[name], valid[name] = (truth @ code).masked_fill(~there[..., None], torch.nan), there
    return Batch(values, valid, torch.full((size, time), -1), truth)


def of(kind: str, given: Batch) -> Batch:
    names = READS.get(kind, list(WIDTHS))
    return Batch(
        {n: given.values[n] for n in names}, {n: given.valid[n] for n in names}, given.expression, given.valence_arousal
    )


@EACH
def test_saved_and_loaded_it_predicts_the_same(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = recipe(kind)
    system: Any = models.build(settings)
    widths = {name: len(system.norm_of(name).mean) for name in system.input_norm}
    system.prepare(
        {name: torch.full((width,), 0.3) for name, width in widths.items()},
        {name: torch.full((width,), 2.0) for name, width in widths.items()},
        torch.ones(8),
    )
    train(system, of(kind, batch()))
    streams = {name: recording(20).streams[name] for name in widths}
    assert_streams_round_trip(system, settings, streams, 20.0, tmp_path)


@EACH
def test_it_learns(kind: str, tmp_path: Path) -> None:
    training, val = [recording(s) for s in range(8)], [recording(s) for s in range(20, 23)]
    run = fit(recipe(kind), training, val, tmp_path / "run", device="cpu", progress=False)
    assert checkpoint.load(run).metrics["val_ccc"] > 0.7


@EACH
def test_values_at_missing_tokens_are_never_read_and_an_empty_window_is_finite(kind: str) -> None:
    system, given = build(kind).eval(), of(kind, batch())
    out = system(given.values, given.valid)
    assert torch.isfinite(out.valence_arousal).all()
    dirty = {n: torch.where(given.valid[n][..., None], v, 7e5) for n, v in given.values.items()}
    assert torch.equal(system(dirty, given.valid).valence_arousal, out.valence_arousal)
    nothing = {n: torch.zeros_like(v) for n, v in given.valid.items()}
    none = system(given.values, nothing)
    assert torch.isfinite(none.valence_arousal).all()
    assert not none.evidence.any()
    blank = Batch(given.values, nothing, given.expression, torch.full_like(given.valence_arousal, torch.nan))
    loss, _ = system.objective(blank)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in system.parameters())


@pytest.mark.parametrize("kind", FUSIONS)
def test_residual_fusion_starts_at_the_mean_of_the_streams_predictions(kind: str) -> None:
    """The last two values of each stream are its prediction: with one stream the fusion returns it, with several their
    mean by the weights in the output."""
    raw = recipe(f"{kind}, residual").model_dump()
    if kind == "reliability":
        raw["model"]["prior"] = {"face": 0.6, "behaviour": 0.1, "voice": 0.3}
    torch.manual_seed(0)
    system: Any = models.build(config.read(raw, origin="t", check=models.problems)).eval()
    with torch.no_grad():
        for norm in system.input_norm.values():
            norm.mean.uniform_(-0.3, 0.3)
            norm.deviation.uniform_(0.5, 2)
    given = batch()
    for name in WIDTHS:
        given.values[name][..., -2:] = torch.rand(4, 20, 2) * 1.6 - 0.8
        out = system({name: given.values[name]}, {name: given.valid[name]}).valence_arousal
        there = given.valid[name]
        torch.testing.assert_close(out[there], given.values[name][..., -2:][there])
        assert (out[~there] == 0).all()
    out = system(given.values, given.valid)
    if kind == "stack":
        trust = {n: torch.ones_like(there, dtype=torch.float32) for n in WIDTHS}
    elif kind == "reliability":
        trust = dict(zip(out.modalities, out.weights.unbind(-1), strict=True))
    else:
        asks = {n: [i for i, pair in enumerate(out.modalities) if pair.startswith(n)] for n in WIDTHS}
        trust = {n: out.weights[..., places].sum(-1) for n, places in asks.items()}
    share = torch.stack([trust[n] * given.valid[n] for n in WIDTHS], dim=-1)[..., None]
    own = torch.stack([given.values[n][..., -2:].nan_to_num() for n in WIDTHS], dim=-2)
    mean = (share * own).sum(dim=-2) / share.sum(dim=-2).clamp_min(1e-6)
    torch.testing.assert_close(out.valence_arousal, mean, rtol=1e-4, atol=1e-5)


def test_residual_fusion_refuses_streams_without_predictions() -> None:
    with pytest.raises(ConfigError, match=r"residual reads an embedding and two predictions.*too narrow: voice"):
        models.build(recipe("experts, residual", shape=WIDTHS | {"voice": 2}))


@pytest.mark.parametrize("kind", FUSIONS)
def test_any_set_of_streams_gives_a_prediction_and_a_missing_one_has_no_weight(kind: str) -> None:
    system, given = build(kind).eval(), batch()
    for kept in (["face"], ["voice"], ["behaviour", "voice"], ["face", "voice"]):
        out = system({n: given.values[n] for n in kept}, {n: given.valid[n] for n in kept})
        assert torch.isfinite(out.valence_arousal).all()
        assert out.evidence.all()
        for name, share in zip(out.modalities, out.weights.unbind(-1), strict=True):
            if kind != "stack" and name.removesuffix(" heard").split(" ")[0] not in kept:
                assert (share == 0).all(), name
    out = system(given.values, given.valid)
    frames = out.weights if kind != "reliability" else out.weights[..., :2]
    seen = given.valid["face"] | given.valid["behaviour"]
    total = frames.sum(-1)
    torch.testing.assert_close(total[seen], torch.ones_like(total[seen]))


def test_voice_with_a_prior_predicts_each_token_alone() -> None:
    torch.manual_seed(0)
    raw = recipe("reliability").model_dump()
    raw["model"] |= {"prior": {"face": 0.7, "behaviour": 0.1, "voice": 0.2}}
    system: Any = models.build(config.read(raw, origin="t", check=models.problems)).eval()
    given = batch()
    alone = system({"voice": given.values["voice"]}, {"voice": given.valid["voice"]})
    assert alone.modalities == ["face", "behaviour", "voice", "voice heard"]
    said = alone.weights[..., 2]
    assert torch.equal(said > 0.999, given.valid["voice"]), "all the weight where the voice is valid"
    with pytest.raises(ConfigError, match="'behaviour'\\] are features that neither prior nor latent_inputs names"):
        models.build(config.changed(recipe("reliability"), model={"prior": {"face": 1.0}}))


def test_derived_features_are_valid_near_valid_input(tmp_path: Path) -> None:
    made = recording(0)
    times = made.streams["face"].times
    gone = Stream(made.streams["face"].values, times, (times < 5) | (times > 15))
    kept = Recording(made.clip, {"face": gone})
    run = fit(recipe("face"), [kept], [], tmp_path / "run", device="cpu", progress=False)
    stream = checkpoint.load(run).embed_streams(kept.streams)
    assert not stream.valid[(stream.times > 6.2) & (stream.times < 13.8)].any()
    assert stream.valid[(stream.times < 5.8) | (stream.times > 14.2)].all()


def test_gate_weights_equal_the_priors_before_training() -> None:
    system, given = build("reliability").eval(), batch()
    with torch.no_grad():
        for gate in system.gate.values():
            gate[-1].weight.zero_()
            gate[-1].bias.zero_()
    weights = system(given.values, {n: torch.ones_like(v) for n, v in given.valid.items()}).weights[0, 0]
    torch.testing.assert_close(weights[:2], torch.tensor([0.85, 0.15]))


def test_valence_arousal_loss_closed_form() -> None:
    target = torch.tensor([[[0.5, -0.5], [-0.5, 0.5], [torch.nan, torch.nan]]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    weights = ValenceArousalObjective(valence=0.7, arousal=0.3, mse=0.5)
    equal = valence_arousal_loss(torch.nan_to_num(target, nan=9.0), target, mask, weights)
    assert float(equal) == pytest.approx(0.0, abs=1e-6)
    weights = ValenceArousalObjective(valence=0.7, arousal=0.3, mse=0.1)
    negated = valence_arousal_loss(-torch.nan_to_num(target), target, mask, weights)
    assert float(negated) == pytest.approx(0.7 * 2 + 0.3 * 2 + 0.1 * 1.0, abs=1e-5)


def test_derived_features_hold_the_predictions(tmp_path: Path) -> None:
    training = [recording(s) for s in range(4)]
    kept = [Recording(r.clip, {"face": r.streams["face"]}) for r in training]
    run = fit(recipe("face"), kept, [], tmp_path / "run", device="cpu", progress=False)
    trained = checkpoint.load(run)
    stream = trained.embed_streams(kept[0].streams)
    assert stream.values.shape == (len(stream.times), 18)
    assert stream.valid.all()
    _, _, affect = trained.predict_streams(kept[0].streams, 0.0, float(stream.times[-1]) + 0.1)
    n = min(len(affect), len(stream.values))
    np.testing.assert_allclose(stream.values[:n, -2:], affect[:n], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # linear 1280·256+256, missing 256, norm 512; 5 layers (attention 4 d² + 4 d, feedforward 2 d² + 2 d, two norms
        # 4 d); hidden d² + d, norm 2 d; head 514
        ("va_face", 1280 * 256 + 256 + 256 + 512 + 5 * (6 * 256**2 + 10 * 256) + 256**2 + 256 + 512 + 514),
        # attention 1024·128+128 + 128+1; norm 2·2048, linear 2048·256+256; head
        ("va_voice", 1024 * 128 + 128 + 129 + 2 * 2048 + 2048 * 256 + 256 + 514),
    ],
)
def test_number_of_parameters_at_the_published_sizes(name: str, parameters: int) -> None:
    with torch.device("meta"):
        system = models.build(config.load(name, check=models.problems))
    assert sum(p.numel() for p in system.parameters()) == parameters


def test_six_experts_for_three_modalities() -> None:
    with torch.device("meta"):
        system: Any = models.build(config.load("va_directed_experts", check=models.problems))
    assert list(system.experts) == [
        "face to behaviour", "face to voice", "behaviour to face", "behaviour to voice", "voice to face",
        "voice to behaviour",
    ]  # fmt: skip
    assert all(len(expert.layers) == 5 for expert in system.experts.values())


FUSION_RECIPES = ("va_directed_experts", "va_reliability")


def small_fusion(name: str, *overrides: str) -> Any:
    """A shipped fusion with the published windows, narrow, over the streams of `WIDTHS`, with random weights."""
    sizes = ["model.dim=16", "model.heads=2", *(["model.layers=2"] if "experts" in name else [])]
    dims = [f"features.{n}.dim={width}" for n, width in WIDTHS.items()]
    recipe = config.load(name, [*sizes, *dims, *overrides], check=models.problems)
    torch.manual_seed(0)
    return checkpoint.Checkpoint(models.build(recipe).eval(), recipe, list(recipe.corpus.labels))


def shuffle_seconds(stream: Stream, names: np.random.Generator) -> Stream:
    """The seconds of a stream in random order."""
    rate = round(1 / (stream.times[1] - stream.times[0]))
    order = names.permutation(len(stream.times) // rate)
    index = (order[:, None] * rate + np.arange(rate)).ravel()
    return Stream(stream.values[index], stream.times[: len(index)], stream.valid[index])


def random_streams(seconds: int, rate: int, seed: int = 0) -> dict[str, Stream]:
    """Streams whose values differ between seconds, all valid."""
    rng, times = np.random.default_rng(seed), (np.arange(seconds * rate) + 0.5) / rate
    return {
        n: Stream(np.repeat(rng.normal(size=(seconds, width)), rate, axis=0).astype(np.float32), times,
                  np.ones(len(times), bool))
        for n, width in WIDTHS.items()
    }  # fmt: skip


@pytest.mark.parametrize("name", FUSION_RECIPES)
def test_shuffling_the_voice_between_seconds_changes_the_answers(name: str) -> None:
    trained, streams = small_fusion(name), random_streams(40, 30)
    before = trained.predict_streams(streams, 0.0, 40.0).valence_arousal
    shuffled = streams | {"voice": shuffle_seconds(streams["voice"], np.random.default_rng(1))}
    after = trained.predict_streams(shuffled, 0.0, 40.0).valence_arousal
    assert np.abs(after - before).mean() > 0.02 * before.std()


@pytest.mark.parametrize("reading", ["gated", "stack"])
def test_permuting_the_time_of_the_inputs_does_not_permute_the_experts_answers(reading: str) -> None:
    trained = small_fusion("va_directed_experts", f"model.reading={reading}")
    torch.manual_seed(1)
    values = {n: torch.randn(1, 30, width) for n, width in WIDTHS.items()}
    valid = {n: torch.ones(1, 30, dtype=torch.bool) for n in WIDTHS}
    order = torch.randperm(30)
    with torch.no_grad():
        out = trained.model(values, valid).valence_arousal
        permuted = trained.model({n: v[:, order] for n, v in values.items()}, valid).valence_arousal
    assert (permuted - out[:, order]).abs().mean() > 0.05 * out.std()


def test_the_reliability_fusion_reads_one_voice_token_per_second() -> None:
    """Values change within a second without effect on the answers if their mean stays; between seconds they count."""
    trained = small_fusion("va_reliability")
    torch.manual_seed(1)
    values = {n: torch.randn(1, 120, width) for n, width in WIDTHS.items()}
    valid = {n: torch.ones(1, 120, dtype=torch.bool) for n in WIDTHS}
    with torch.no_grad():
        out = trained.model(values, valid).valence_arousal
        within = values["voice"].view(1, 4, 30, -1)[:, :, torch.randperm(30)].reshape(1, 120, -1)
        moved = values["voice"].view(1, 4, 30, -1)[:, :, :, :].roll(15, dims=2).reshape(1, 120, -1)
        torch.testing.assert_close(trained.model(values | {"voice": within}, valid).valence_arousal, out)
        torch.testing.assert_close(trained.model(values | {"voice": moved}, valid).valence_arousal, out)
        across = values["voice"].roll(15, dims=1)
        assert (trained.model(values | {"voice": across}, valid).valence_arousal - out).abs().max() > 1e-4


def test_the_stack_reads_the_modalities_that_are_named() -> None:
    stack = ("model.reading=stack", "model.query=face")
    with pytest.raises(ConfigError, match=r"\['voice'\] are features that neither query nor keys names"):
        small_fusion("va_directed_experts", *stack, "model.keys=behaviour")
    with pytest.raises(ConfigError, match="keys 'sound' is not a feature"):
        small_fusion("va_directed_experts", *stack, "model.keys=sound")
    out = small_fusion("va_directed_experts", *stack).model(
        {n: torch.randn(1, 5, width) for n, width in WIDTHS.items()},
        {n: torch.ones(1, 5, dtype=torch.bool) for n in WIDTHS},
    )
    assert out.modalities == ["face to mean"]
    assert (out.weights == 1).all()


def test_positioned_layer_equals_its_equations() -> None:
    """Post-norm with positions in query and keys, and a residual around the layer, against torch's own attention."""
    torch.manual_seed(0)
    layer = PositionedLayer(dim=8, heads=2).eval()
    query, keys = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    reference = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        own = layer.attention
        reference.in_proj_weight.copy_(torch.cat((own.query.weight, own.key_value.weight)))
        reference.in_proj_bias.copy_(torch.cat((own.query.bias, own.key_value.bias)))
        reference.out_proj.load_state_dict(own.output.state_dict())
        at = sinusoidal_positions(6, 8)
        attended, _ = reference(query + at, keys + at, keys + at)
        x = layer.norm_attention(attended + query + at)
        expected = query + layer.norm_feedforward(layer.feedforward(x) + x)
        torch.testing.assert_close(layer(query, keys, torch.ones(2, 6, dtype=torch.bool)), expected)
