"""Exported encoders in ONNX Runtime: the features of the torch encoders, without torch, and no damaged file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import transformers

from mien import onnx_graph
from mien.encoders import export_encoder as exporter
from mien.encoders import int8, registry
from mien.encoders.export_encoder import export_encoder
from mien.encoders.exported import ABOUT, NETWORK, ExportedImageEncoder, ExportedSpeechEncoder, open_exported
from mien.encoders.images import ImageEncoder
from mien.encoders.pretrained import WeightSource
from mien.encoders.protocol import AudioEncoder, CropEncoder
from mien.encoders.speech import SpeechEncoder
from mien.errors import ArtefactError, ConfigError
from mien.faces.align import similarity_transform
from mien.faces.crops import extract_crop
from mien.media.video import frames
from mien.records import Stream
from tests.encoders import test_images, test_speech

Sources = Callable[[str], WeightSource]
#: Eyes, nose tip and corners of the mouth of the man in single_face.mp4 at 0 s, in pixels, read off the picture.
POINTS = [[260, 170], [331, 167], [298, 209], [274, 251], [329, 248]]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Family -> a tiny network of it with random weights."""
    made: dict[str, WeightSource] = {}

    def source(kind: str) -> WeightSource:
        if kind not in made:
            folder = tmp_path_factory.mktemp("weights") / kind
            (test_images if kind in test_images.KINDS else test_speech).tiny(kind, folder)
            made[kind] = WeightSource(str(folder), licence="Apache-2.0")
        return made[kind]

    return source


@pytest.fixture(scope="module")
def vit(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported image encoder, which stays as it is."""
    folder = tmp_path_factory.mktemp("exported") / "vit"
    export_encoder(ImageEncoder("vit", sources("vit"), precision="float32"), folder)  # before the fixture of the folder
    return folder


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def real_crops(shared: Path, size: int) -> np.ndarray:
    target = np.array([[0.34, 0.46], [0.66, 0.46], [0.5, 0.64], [0.37, 0.82], [0.63, 0.82]]) * size
    transform = similarity_transform(target, np.array(POINTS, float))
    pictures = [frame.image for frame, _ in zip(frames(shared / "clips" / "single_face.mp4"), range(11), strict=False)]
    return np.stack([extract_crop(picture, transform, size) for picture in pictures])


def real_speech(shared: Path) -> np.ndarray:
    samples, rate = soundfile.read(shared / "emodb" / "03a01Fa.wav", dtype="float32")
    resampled: np.ndarray = soxr.resample(samples, rate, 16_000)
    return resampled


def encoded(encoder: Any, samples: np.ndarray) -> Stream:
    pieces = list(encoder.encode_audio(test_speech.blocks(samples, 0.25)))
    values, times, valid = (np.concatenate([getattr(p, k) for p in pieces]) for k in ("values", "times", "valid"))
    return Stream(values, times, valid, pieces[0].provenance)


def assert_same_attributes(exported: Any, encoder: Any) -> None:
    for name in ("name", "modality", "dim", "rate_hz", "receptive_field_s", "licence", "batch_size"):
        assert getattr(exported, name) == getattr(encoder, name), name
    assert dict(exported.provenance) == dict(encoder.provenance)
    assert exported.provenance["precision"] == "float32"


@pytest.mark.parametrize("options", [{}, {"layer": -1, "last": 2, "margin": 0.25}], ids=["embedding", "layers"])
@pytest.mark.parametrize("family", test_images.KINDS)
def test_image_features_equal_those_of_torch(
    family: str, options: dict[str, Any], sources: Sources, shared: Path, tmp_path: Path
) -> None:
    if options and family in ("resnet", "efficientnet"):
        options = {"margin": 0.25}
    encoder = ImageEncoder("mine", sources(family), batch_size=4, precision="float32", **options)
    export_encoder(encoder, tmp_path / "mine")
    exported = open_exported(tmp_path / "mine")
    assert isinstance(exported, CropEncoder)
    assert_same_attributes(exported, encoder)
    assert exported.crop == encoder.crop
    crops = real_crops(shared, encoder.crop.size)
    expected = encoder.encode_crops(crops)
    assert relative_error(exported.encode_crops(crops), expected) < 1e-4
    assert np.ptp(expected, axis=0).max() > 1e-3, "all pictures give equal outputs, so the test proves nothing"
    assert exported.encode_crops(crops[:0]).shape == (0, encoder.dim)
    with pytest.raises(ValueError, match=rf"mine takes crops of {encoder.crop.size} px, got \(50, 50, 3\)"):
        exported.encode_crops(np.zeros((1, 50, 50, 3), np.uint8))


@pytest.mark.parametrize("options", [{}, {"layer": 1}], ids=["last", "layer"])
@pytest.mark.parametrize("kind", test_speech.KINDS)
def test_speech_features_equal_those_of_torch(
    kind: str, options: dict[str, Any], sources: Sources, shared: Path, tmp_path: Path
) -> None:
    """One chunk of its own length, several chunks and a batch of them, silence included."""
    encoder = SpeechEncoder("w", sources(kind), chunk_s=2.0, context_s=0.5, batch_size=2, **options)
    export_encoder(encoder, tmp_path / "w")
    exported = open_exported(tmp_path / "w")
    assert isinstance(exported, AudioEncoder)
    assert_same_attributes(exported, encoder)
    speech = real_speech(shared)
    for samples in (
        speech[:12_345],
        speech[:400],
        np.concatenate((speech, np.zeros(16_000, np.float32), speech[:9_999])),
    ):
        ours, theirs = encoded(exported, samples), encoded(encoder, samples)
        np.testing.assert_array_equal(ours.times, theirs.times)
        np.testing.assert_array_equal(ours.valid, theirs.valid)
        assert relative_error(ours.values, theirs.values) < 1e-3
        assert ours.provenance == theirs.provenance
    assert not theirs.valid.all()
    assert list(exported.encode_audio([(0.0, speech[:399])])) == []


@pytest.fixture(scope="module")
def pdem(tmp_path_factory: pytest.TempPathFactory) -> WeightSource:
    folder = tmp_path_factory.mktemp("pdem")
    config = transformers.Wav2Vec2Config(**test_speech.TINY, **test_speech.LAYER_NORM, conv_bias=True, num_labels=3)
    test_speech.EmotionNetwork(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return WeightSource(str(folder), licence="CC-BY-NC-SA-4.0")


@pytest.mark.parametrize("head", [False, True])
def test_pdem_with_and_without_its_head(head: bool, pdem: WeightSource, shared: Path, tmp_path: Path) -> None:
    encoder = SpeechEncoder("pdem", pdem, head=head, head_s=1.0)
    export_encoder(encoder, tmp_path / "pdem")
    exported = open_exported(tmp_path / "pdem")
    assert_same_attributes(exported, encoder)
    ours, theirs = encoded(exported, real_speech(shared)), encoded(encoder, real_speech(shared))
    assert ours.dim == (3 if head else 32)
    assert relative_error(ours.values, theirs.values) < 1e-3


def test_int8_is_smaller_close_and_in_provenance(
    sources: Sources, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ImageEncoder("beit", sources("beit"))
    whole = export_encoder(encoder, tmp_path / "whole")
    small = export_encoder(encoder, tmp_path / "small", int8=True)
    assert small.stat().st_size < 0.75 * whole.stat().st_size
    assert sorted(p.name for p in small.parent.iterdir()) == [ABOUT, NETWORK]
    exported, crops = open_exported(tmp_path / "small"), real_crops(shared, 32)
    assert isinstance(exported, ExportedImageEncoder)
    assert 0 < relative_error(exported.encode_crops(crops), encoder.encode_crops(crops)) < 2e-2
    assert {k for k, v in exported.provenance.items() if encoder.provenance[k] != v} == {"precision"}
    monkeypatch.setattr(int8, "TOLERANCE", 1e-9)
    with pytest.raises(ConfigError, match=r"in ONNX \(int8, dynamic\) it differs from the torch encoder by \d\.\d%"):
        export_encoder(encoder, tmp_path / "refused", int8=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small", "whole"], "a refused encoder leaves nothing behind"


def test_int8_of_a_network_without_matrix_products_is_refused(sources: Sources, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"resnet cannot be exported: it has no matrix products to keep in 8 bits"):
        export_encoder(ImageEncoder("resnet", sources("resnet")), tmp_path / "r", int8=True)


def test_what_is_not_exported_is_refused(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"vit cannot be exported: it runs in bfloat16"):
        export_encoder(ImageEncoder("vit", sources("vit"), precision="bfloat16"), tmp_path / "v")
    with pytest.raises(ConfigError, match=r"only image and speech encoders can be exported"):
        export_encoder(registry.create("face-geometry"), tmp_path / "v")
    encoder = ImageEncoder("vit", sources("vit"))
    encoder.preprocessing.crops_only = False
    with pytest.raises(ConfigError, match=r"its processor resizes crops of 32 px too"):
        export_encoder(encoder, tmp_path / "v")
    monkeypatch.setattr(exporter, "TOLERANCE", 0.0)
    with pytest.raises(ConfigError, match=r"in ONNX \(float32\) it differs from the torch encoder"):
        export_encoder(ImageEncoder("vit", sources("vit")), tmp_path / "v")
    assert list(tmp_path.iterdir()) == []


def test_large_weights_have_a_file_of_their_own(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "EXTERNAL_FROM", 1_000)
    encoder = ImageEncoder("vit", sources("vit"))
    for _ in range(2):  # the second export replaces the first
        network = export_encoder(encoder, tmp_path / "vit")
        weights = network.with_name(f"{NETWORK}.data")
        assert network.stat().st_size < weights.stat().st_size < 100_000
    crops = test_images.crops_of(32)
    exported = open_exported(tmp_path / "vit")
    assert isinstance(exported, ExportedImageEncoder)
    assert relative_error(exported.encode_crops(crops), encoder.encode_crops(crops)) < 1e-4
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtefactError, match=rf"{NETWORK}\.data is not the file that {ABOUT} describes"):
        open_exported(tmp_path / "vit")


def test_damaged_folders_are_refused(vit: Path, tmp_path: Path) -> None:
    def refused(change: Callable[[Path], object]) -> str:
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(vit, folder)
        change(folder)
        with pytest.raises(ArtefactError) as caught:
            open_exported(folder)
        return str(caught.value)

    about = json.loads((vit / ABOUT).read_text())
    newer = json.dumps(about | {"format": 9})
    assert f"{NETWORK} is missing" in refused(lambda f: (f / NETWORK).unlink())
    assert "sha256 differs" in refused(lambda f: (f / NETWORK).write_bytes(b"onnx"))
    assert f"{ABOUT} cannot be read" in refused(lambda f: (f / ABOUT).unlink())
    assert f"{ABOUT} cannot be read" in refused(lambda f: (f / ABOUT).write_text("{"))
    assert "format 9, this mien reads format 1" in refused(lambda f: (f / ABOUT).write_text(newer))
    assert "mien export RUN --encoders" in refused(lambda f: (f / ABOUT).write_text("{}"))


def test_opening_and_encoding_imports_no_torch(sources: Sources, vit: Path, tmp_path: Path) -> None:
    export_encoder(SpeechEncoder("w", sources("wav2vec2-base")), tmp_path / "w")
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\n"
        "from mien.encoders.exported import open_exported\n"
        f"image, speech = (open_exported(Path(folder)) for folder in {[str(vit), str(tmp_path / 'w')]!r})\n"
        "image.encode_crops(np.zeros((2, 32, 32, 3), np.uint8))\n"
        "list(speech.encode_audio([(0.0, np.ones(16000, np.float32))]))\n"
        "print([m for m in ('torch', 'scipy', 'pydantic', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert isinstance(open_exported(tmp_path / "w"), ExportedSpeechEncoder)
