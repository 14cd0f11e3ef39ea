"""ONNX face networks: small networks written in this file, and a real one on a real face."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import yaml

from mien.encoders import cards
from mien.encoders.onnx_face import OnnxFace
from mien.encoders.protocol import CropEncoder
from mien.errors import ArtefactError, ConfigError
from mien.faces.align import TEMPLATE, similarity_transform
from mien.faces.crops import extract_crop
from mien.labels import EXPRESSIONS, HAPPINESS, NEUTRAL, OTHER


def _varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def _message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A protobuf message of integer and length-delimited fields."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def _value(name: str, shape: list[int | str]) -> bytes:
    dims = [(1, _message((1, d) if isinstance(d, int) else (2, d))) for d in shape]
    return _message((1, name), (2, _message((1, _message((1, 1), (2, _message(*dims)))))))


def write_network(
    path: Path, weights: np.ndarray, *, size: int = 8, nhwc: bool = False, batch: int | str = "n"
) -> Path:
    """An ONNX network: the mean of each channel over the picture, times `weights` `(channels, k)`."""
    channels, outputs = weights.shape
    spatial = [1, 2] if nhwc else [2, 3]
    axes = (5, _message((1, "axes"), *((8, axis) for axis in spatial), (20, 7)))
    flat = (5, _message((1, "keepdims"), (3, 0), (20, 2)))
    data = b"".join(struct.pack("<f", w) for w in weights.flatten())
    tensor = _message((1, channels), (1, outputs), (2, 1), (8, "w"), (9, data))
    shape: list[int | str] = [batch, size, size, channels] if nhwc else [batch, channels, size, size]
    graph = _message(
        (1, _message((1, "x"), (2, "m"), (4, "ReduceMean"), axes, flat)),
        (1, _message((1, "m"), (1, "w"), (2, "y"), (4, "MatMul"))),
        (2, "g"),
        (5, tensor),
        (11, _value("x", shape)),
        (12, _value("y", [batch, outputs])),
    )
    path.write_bytes(_message((1, 8), (8, _message((1, ""), (2, 13))), (7, graph)))
    return path


def write_card(path: Path, **changes: Any) -> Path:
    card: dict[str, Any] = {"name": "tiny", "file": "tiny.onnx", "licence": "MIT", "size": 8} | changes
    path.write_text(yaml.safe_dump({k: v for k, v in card.items() if v is not None}))
    return path


def crops_of(size: int = 8, count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.mark.parametrize("nhwc", [False, True])
def test_input_follows_the_card(tmp_path: Path, nhwc: bool) -> None:
    weights = np.eye(3, dtype=np.float32)
    write_network(tmp_path / "tiny.onnx", weights, nhwc=nhwc)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    crops = crops_of()
    for colour, order in (("rgb", [0, 1, 2]), ("bgr", [2, 1, 0])):
        layout = "nhwc" if nhwc else "nchw"
        card = write_card(tmp_path / "tiny.yaml", colour=colour, layout=layout, mean=mean, std=std)
        encoder = OnnxFace(str(card), batch_size=2)
        assert isinstance(encoder, CropEncoder)
        wanted = (crops.mean(axis=(1, 2))[:, order] / 255 - mean) / std
        np.testing.assert_allclose(encoder.encode_crops(crops), wanted, atol=1e-5)
    assert encoder.encode_crops(crops[:0]).shape == (0, 3)


def test_grey_input_of_another_size(tmp_path: Path) -> None:
    write_network(tmp_path / "tiny.onnx", np.ones((1, 1), np.float32))
    encoder = OnnxFace(str(write_card(tmp_path / "tiny.yaml", colour="grey")))
    crops = crops_of(16)
    wanted = [cv2.resize(c, (8, 8), interpolation=cv2.INTER_AREA) @ [0.299, 0.587, 0.114] / 255 for c in crops]
    np.testing.assert_allclose(encoder.encode_crops(crops)[:, 0], [w.mean() for w in wanted], atol=2e-3)


def test_a_network_with_batch_size_one_runs_one_by_one(tmp_path: Path) -> None:
    write_network(tmp_path / "tiny.onnx", np.eye(3, dtype=np.float32), batch=1)
    write_card(tmp_path / "tiny.yaml")
    values = OnnxFace(str(tmp_path / "tiny.onnx")).encode_crops(crops_of())
    np.testing.assert_allclose(values, crops_of().mean(axis=(1, 2)) / 255, atol=1e-5)


def test_interpret_maps_classes_valence_and_arousal(tmp_path: Path) -> None:
    """Probabilities of labels with the same expression add up."""
    write_network(tmp_path / "tiny.onnx", np.zeros((3, 6), np.float32))
    labels, means = ["Happiness", "Contempt", "Neutral", "Boredom"], {"Contempt": "Other", "Boredom": "Other"}
    card = write_card(tmp_path / "tiny.yaml", labels=labels, means=means, scores="logits", valence=4, arousal=5)
    values = np.array([[2.0, 0.0, 1.0, -1.0, 0.5, -3.0], [500.0, 0, 0, 0, -0.25, 0.75]], np.float32)
    probabilities, va = OnnxFace(str(card)).interpret(values)
    e = np.exp([2.0, 0.0, 1.0, -1.0])
    assert probabilities.shape == (2, len(EXPRESSIONS))
    np.testing.assert_allclose(
        probabilities[0, [HAPPINESS, OTHER, NEUTRAL]], [e[0], e[1] + e[3], e[2]] / e.sum(), rtol=1e-5
    )
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(va, [[0.5, -1.0], [-0.25, 0.75]])  # clipped to [-1, 1]


def test_missing_valence_and_arousal_are_nan(tmp_path: Path) -> None:
    write_network(tmp_path / "tiny.onnx", np.eye(3, 2, dtype=np.float32))
    card = write_card(tmp_path / "tiny.yaml", labels=["Anger", "Fear"], scores="probabilities")
    probabilities, va = OnnxFace(str(card)).predict(crops_of())
    assert np.isnan(va).all()
    assert set(np.flatnonzero(probabilities.any(axis=0))) == {1, 3}


def test_a_card_without_labels_cannot_predict(tmp_path: Path) -> None:
    write_network(tmp_path / "tiny.onnx", np.eye(3, dtype=np.float32))
    encoder = OnnxFace(str(write_card(tmp_path / "tiny.yaml")), name="mine", margin=0.4)
    assert (encoder.name, encoder.dim, encoder.crop.size, encoder.crop.margin) == ("mine", 3, 8, 0.4)
    with pytest.raises(ConfigError, match="tiny predicts nothing: its card has no labels"):
        encoder.predict(crops_of())


def test_provenance_follows_the_file_and_the_card(tmp_path: Path) -> None:
    write_network(tmp_path / "tiny.onnx", np.eye(3, dtype=np.float32))
    card = write_card(tmp_path / "tiny.yaml")
    before = OnnxFace(str(card)).provenance
    assert set(before) >= {"network", "revision", "layer", "preprocessing", "crop", "version"}

    def differing() -> set[str]:
        after = OnnxFace(str(card)).provenance
        return {k for k in before if before[k] != after[k]}

    write_card(card, mean=[0.5])
    assert differing() == {"preprocessing"}
    write_card(card)
    write_network(tmp_path / "tiny.onnx", 2 * np.eye(3, dtype=np.float32))
    assert differing() == {"revision"}


def test_invalid_cards_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"

    def refused(**changes: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            cards.read(write_card(path, **changes))
        return str(caught.value)

    assert 'unknown key; did you mean "colour"?' in refused(color="rgb")
    assert "card.size: missing" in refused(size=None)
    assert "input should be 'rgb', 'bgr' or 'grey', got 'gray'" in refused(colour="gray")
    assert "mean has 2 values; colour rgb has 3 channels" in refused(mean=[0.1, 0.2])
    assert "label 'Happy' is none of mien's expressions" in refused(labels=["Happy"])
    assert "map it to one in `means`" in refused(labels=["Happy"])
    assert "std must not be 0" in refused(std=[0.0])
    assert "give one of file and artefact" in refused(artefact="hsemotion")
    text = refused(size="big", colour="gray")
    assert "2 problems" in text
    assert "card.size" in text
    assert "card.colour" in text
    path.write_text("- a list")
    with pytest.raises(ConfigError, match="is not a card: it holds no keys"):
        cards.read(path)
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="is not a readable card"):
        cards.read(path)
    (tmp_path / "tiny.json").write_text(json.dumps({"name": "j", "file": "j.onnx", "size": 8}))
    assert cards.read(tmp_path / "tiny.json").name == "j"


def test_missing_or_unfitting_networks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = tmp_path / "tiny.onnx"
    write_network(network, np.eye(3, dtype=np.float32))
    with pytest.raises(ConfigError, match=r"has no card beside it \(tiny\.yaml\)"):
        OnnxFace(str(network))
    with pytest.raises(ConfigError, match=r"There is no card fear.*\n.*\n.*Built in are face-api, fer, hsemotion"):
        OnnxFace("fear")
    card = write_card(tmp_path / "tiny.yaml", colour="grey")
    with pytest.raises(ConfigError, match=r"states the input \(batch, 1, 8, 8\); it takes \['n', 3, 8, 8\]"):
        OnnxFace(str(card))
    write_card(card, labels=["Anger", "Fear"], valence=7)
    with pytest.raises(ConfigError, match="names column 7; the network's outputs have columns 0 to 2"):
        OnnxFace(str(card))
    write_card(card, sha256="0" * 64)
    with pytest.raises(ArtefactError, match="is not the network of card tiny: its digest is"):
        OnnxFace(str(card))
    write_card(card, file="other.onnx")
    with pytest.raises(ArtefactError, match=r"other\.onnx \(tiny, MIT\) is not beside its card"):
        OnnxFace(str(card))
    write_card(card)
    network.write_bytes(network.read_bytes()[:60])
    with pytest.raises(ArtefactError, match="onnxruntime cannot read the network"):
        OnnxFace(str(card))
    monkeypatch.setenv("MIEN_HUB", str(tmp_path))
    with pytest.raises(ArtefactError, match=r"fer-mini-xception\.onnx \(fer, MIT\) is not in any folder of MIEN_HUB"):
        OnnxFace("fer")


def test_built_in_cards_are_valid() -> None:
    assert cards.names() == ["face-api", "fer", "hsemotion"]
    for name in cards.names():
        card = cards.read(cards.BUILT_IN / f"{name}.yaml")
        assert card.name == name
        assert len(set(card.class_indices)) == len(card.labels)
    hsemotion = cards.read(cards.BUILT_IN / "hsemotion.yaml")
    assert set(hsemotion.class_indices) == set(range(8))
    assert (hsemotion.valence, hsemotion.arousal) == (8, 9)


#: Eyes, nose tip and corners of the mouth of the man in single_face.mp4, in pixels, read off the pictures at
#: 0 s (neutral) and 1.5 s (smiling), so that this test needs no face detector.
NEUTRAL_POINTS = [[260, 170], [331, 167], [298, 209], [274, 251], [329, 248]]
SMILE_POINTS = [[255, 159], [325, 155], [292, 193], [260, 227], [333, 222]]


@pytest.mark.parametrize("network", ["fer", "face-api"])
def test_face_networks_recognise_a_real_smile(shared: Path, monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    monkeypatch.setenv("MIEN_HUB", str(shared / "hub"))
    encoder = OnnxFace(network)
    crops: dict[str, list[np.ndarray]] = {"neutral": [], "smile": []}
    with av.open(str(shared / "clips" / "single_face.mp4")) as container:
        for frame in container.decode(video=0):
            time = float(frame.pts * frame.time_base)
            if time < 0.3 or 1.2 < time < 1.9:
                name, points = ("neutral", NEUTRAL_POINTS) if time < 0.3 else ("smile", SMILE_POINTS)
                target = ((TEMPLATE + 0.5 - 56) / (1 + encoder.crop.margin) + 56) * (encoder.crop.size / 112)
                image = frame.to_ndarray(format="rgb24")
                crops[name].append(
                    extract_crop(image, similarity_transform(target, np.array(points, float)), encoder.crop.size)
                )
    for name, expression in (("neutral", NEUTRAL), ("smile", HAPPINESS)):
        probabilities, va = encoder.predict(np.stack(crops[name]))
        assert len(probabilities) > 5
        assert (probabilities.argmax(axis=1) == expression).all()
        assert probabilities[:, expression].mean() > 0.7
        assert (probabilities[:, OTHER] == 0).all()  # it does not know Other
        assert np.isnan(va).all()


def test_outputs_of_a_card_are_used_in_its_order(shared: Path, tmp_path: Path) -> None:
    """face-api's file lists its features before its probabilities; the card puts the probabilities first."""
    card = yaml.safe_load((cards.BUILT_IN / "face-api.yaml").read_text())
    path = tmp_path / "net.yaml"
    (tmp_path / card["file"]).symlink_to(shared / "hub" / card["file"])
    crops = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), np.uint8)
    values = {}
    for outputs in (["probs", "features"], ["features", "probs"], ["probs"]):
        path.write_text(yaml.safe_dump(card | {"outputs": outputs}))
        values[tuple(outputs)] = OnnxFace(str(path)).encode_crops(crops)
    first = values["probs", "features"]
    assert first.shape == (2, 263)
    np.testing.assert_allclose(first[:, :7].sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(values["features", "probs"], np.hstack([first[:, 7:], first[:, :7]]))
    assert np.array_equal(values[("probs",)], first[:, :7])
    path.write_text(yaml.safe_dump(card | {"outputs": ["probs", "logits"]}))
    with pytest.raises(ConfigError, match="names the outputs logits; the network has features, probs"):
        OnnxFace(str(path))
