"""The cross-modal filter at work: in the choice of training windows, in training, in prediction, and in ONNX."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mien import checkpoint, config, models, onnx_model
from mien.data import WindowDataset, speaking_windows
from mien.errors import ConfigError
from mien.mouth_filter import VoiceMask, mask_streams
from mien.records import Clip, Labels, Recording, Stream
from mien.training import fit as fit_module
from mien.training.fit import fit


def mouth(*spans: tuple[float, float], seconds: float = 20.0, rate: float = 25.0) -> Stream:
    """An opening of .1 in some spans of seconds, 0 elsewhere."""
    times = (np.arange(round(seconds * rate)) + 0.5) / rate
    is_open = np.any([(times >= a) & (times < b) for a, b in [(0, 0), *spans]], axis=0)
    return Stream(np.where(is_open, 0.1, 0.0)[:, None].astype(np.float32), times, np.ones(len(times), bool))


def recording(clip: str = "a", *, seconds: float = 20.0, **streams: Stream) -> Recording:
    """A voice of valence and arousal themselves, labelled throughout, with further streams."""
    times = (np.arange(round(10 * seconds)) + 0.5) / 10
    truth = np.stack([np.sin(times), np.cos(times)], axis=1) * 0.8
    voice = Stream(truth.astype(np.float32), times, np.ones(len(times), bool))
    labels = Labels(times, np.full(len(times), -1), truth)
    return Recording(Clip(clip, None, clip, labels=labels), {"voice": voice, **streams})


def recipe(name: str = "va_voice", *overrides: str) -> config.Recipe:
    """A shipped recipe, tiny."""
    sizes = [
        "model.dim=8", "model.heads=2", "train.epochs=1", "train.threads=1", "features.voice.dim=null",
        "features.mouth.dim=null",
    ]  # fmt: skip
    return config.load(name, [*sizes, *overrides], check=models.problems)


def test_training_windows_are_those_in_which_the_mouth_is_open_and_visible() -> None:
    """By hand: windows of 4 s every 2 s; a quarter open is 1 s, four fifths visible are 3.2 s."""
    seen = mouth((4.0, 5.5), (12.0, 18.0))
    hidden = replace(seen, valid=(seen.times < 14) | (seen.times > 16))
    clips = [recording("a", mouth=seen), recording("b", mouth=hidden), recording("c"), recording("d", mouth=mouth())]
    windows = recipe().windows.model_copy(update={"rate_hz": 10.0})
    data = WindowDataset(clips, windows, modalities=["voice"])
    chosen = speaking_windows(data, clips, 10.0, mouth="mouth", opening=0.04).view(4, -1)
    starts = torch.arange(0, 18, 2)
    assert starts[chosen[0]].tolist() == [2, 4, 10, 12, 14, 16]
    assert starts[chosen[1]].tolist() == [2, 4, 10, 16], "windows that contain 14 to 16 s are visible for half"
    assert chosen[2].all(), "a recording without the stream is not filtered"
    assert not chosen[3].any()


def test_the_voice_stream_trains_on_these_windows_and_reads_the_voice_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run_training = fit_module.run_training

    def counted(system: Any, data: Any, *args: Any, **options: Any) -> Any:
        sizes.append(data.size)
        return run_training(system, data, *args, **options)

    monkeypatch.setattr(fit_module, "run_training", counted)
    clips = [recording("a", mouth=mouth((4.0, 5.5), (12.0, 18.0)))]
    run = fit(recipe(), clips, [], tmp_path / "run", device="cpu", progress=False)
    fit(recipe("va_voice", "mouth_filter.opening=1e-3"), clips, [], tmp_path / "low", device="cpu", progress=False)
    fit(recipe(), [recording("a")], [], tmp_path / "without", device="cpu", progress=False)
    fit(recipe("va_voice", "mouth_filter.use=none"), clips, [], tmp_path / "all", device="cpu", progress=False)
    assert sizes == [6, 6, 9, 9]
    trained = checkpoint.load(run)
    assert list(trained.features) == ["voice"]
    assert checkpoint.load(tmp_path / "without").recipe.mouth_filter is None
    with pytest.raises(ConfigError, match=r"in none of the 9 labelled training windows is the mouth open above 0\.5"):
        fit(recipe("va_voice", "mouth_filter.opening=0.5"), clips, [], tmp_path / "none", device="cpu", progress=False)


def fusion(*overrides: str) -> checkpoint.Checkpoint:
    """An untrained reliability fusion over three streams of 10 values and the mouth."""
    dims = [f"features.{n}.dim=10" for n in ("face", "behaviour", "voice")]
    settings = recipe("va_reliability", *dims, "features.mouth.dim=1", *overrides)
    torch.manual_seed(0)
    return checkpoint.Checkpoint(models.build(settings).eval(), settings, list(settings.corpus.labels))


def inputs(opening: Stream | None) -> dict[str, Stream]:
    rng, times = np.random.default_rng(0), (np.arange(600) + 0.5) / 30
    streams = {
        n: Stream(rng.normal(size=(600, 10)).astype(np.float32), times, np.ones(600, bool))
        for n in ("face", "behaviour", "voice")
    }
    return streams if opening is None else {**streams, "mouth": opening}


def test_prediction_masks_the_voice_by_the_mouth() -> None:
    """A voice behind a closed mouth has no effect, one behind an open mouth has; without the stream it counts."""
    trained = fusion()

    def effect(opening: Stream | None) -> np.ndarray:
        streams = inputs(opening)
        other = replace(streams["voice"], values=-streams["voice"].values)
        found, changed = (
            trained.predict_streams(s, 0.0, 20.0).valence_arousal for s in (streams, streams | {"voice": other})
        )
        difference: np.ndarray = np.abs(found - changed).max(axis=1)
        return difference

    assert not effect(mouth()).any()
    assert effect(None).all()
    half = effect(mouth((12.0, 20.0)))
    assert not half[:232].any(), "voice counts from 10 s, in windows of the network from 8 s, smoothed over .43 s"
    assert half[300:].all()


def test_a_hidden_mouth_masks_the_voice_or_keeps_it() -> None:
    hidden = replace(mouth(), valid=np.zeros(500, bool))
    alone = {n: s for n, s in inputs(hidden).items() if n in ("voice", "mouth")}
    assert np.isnan(fusion("mouth_filter.unseen=mask").predict_streams(alone, 0.0, 20.0).valence_arousal).all()
    kept = fusion().predict_streams(alone, 0.0, 20.0).valence_arousal
    assert np.isfinite(kept).all()
    silent = fusion().predict_streams(alone | {"mouth": mouth()}, 0.0, 20.0)
    assert np.isnan(silent.valence_arousal).all(), "a mouth that is seen to be closed masks the voice in either case"


def test_training_masks_as_prediction_does() -> None:
    """The windows that training reads have the voice's validity of `mask_streams`."""
    clip = recording("a", mouth=mouth((12.0, 18.0)))
    settings = recipe("va_voice", "mouth_filter.use=mask", "windows.rate_hz=10.0")
    data = fit_module._training_windows(settings, [clip], None)
    voice = mask_streams(clip.streams, VoiceMask("voice", "mouth", 0.04))["voice"]
    assert set(data.table.sources) == {"voice"}
    assert 0 < voice.valid.sum() < 200
    assert torch.equal(data.table.sources["voice"].read(0, 200)[1], torch.from_numpy(voice.valid))


def test_the_onnx_settings_keep_the_mask(tmp_path: Path) -> None:
    trained = fusion()
    text = onnx_model.describe(trained.settings, "weights", b"network")
    facts = json.loads(text)
    assert facts["voice_mask"] == {"voice": "voice", "mouth": "mouth", "opening": 0.04, "keep_unseen": True}
    assert facts["smooth_s"] == pytest.approx({"valence": 7 / 30, "arousal": 13 / 30})
    assert list(trained.settings.network_features) == ["face", "behaviour", "voice"]
    assert list(trained.settings.features)[-1] == "mouth"


def test_the_filter_needs_its_features_and_a_stream_of_one_value() -> None:
    with pytest.raises(ConfigError, match=r"mouth_filter names \['lips'\], which are not under features"):
        recipe("va_voice", "mouth_filter.mouth=lips")
    with pytest.raises(ConfigError, match="filters 'voice' by itself"):
        recipe("va_voice", "mouth_filter.mouth=voice")
    wide = Stream(np.zeros((5, 2), np.float32), np.arange(5.0), np.ones(5, bool))
    with pytest.raises(ValueError, match="has 2 values a sample; the filter needs one"):
        mask_streams({"voice": wide, "mouth": wide}, VoiceMask("voice", "mouth", 0.04))
