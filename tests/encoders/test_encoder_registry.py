"""Encoder registry: specs, options, weights from folders and the Hub, and the errors. Runs without network access."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from mien.encoders import pretrained, registry
from mien.encoders.images import ImageEncoder
from mien.encoders.onnx_face import OnnxFace
from mien.encoders.pretrained import WeightSource
from mien.encoders.protocol import Encoder, Segments
from mien.encoders.speech import SpeechEncoder
from mien.encoders.vision_language import VisionLanguageEncoder
from mien.errors import ArtefactError, ConfigError

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    transformers.ViTModel(transformers.ViTConfig(**TINY)).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def copy(source: Path, target: Path, *, without: str = "") -> Path:
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.name != without:
            (target / path.name).write_bytes(path.read_bytes())
    return target


# ---- names and specs ----


def test_create_with_source_and_options(vit: Path) -> None:
    encoder = registry.create(f"vit-b16={vit},layer=-1,last=2,name=vit-last2,precision=float32")
    assert isinstance(encoder, ImageEncoder)
    assert encoder.name == "vit-last2"
    assert encoder.provenance["layer"] == "-1, mean of 2, mean of patches"
    plain = registry.create(f"vit-b16={vit}", layer=1)  # as from a recipe
    assert (plain.name, plain.provenance["layer"]) == ("vit-b16", "1, mean of 1, mean of patches")


def test_the_published_licence_applies_to_published_weights_only(vit: Path) -> None:
    assert registry.NETWORKS["vit-b16"].licence == "Apache-2.0"
    assert registry.create(f"vit-b16={vit}").licence == "unknown"


def test_parse_spec() -> None:
    assert registry.parse_spec("wavlm-large") == ("wavlm-large", None, {})
    assert registry.parse_spec("pdem=/a/b,head=true,head_s=2.5,layer=null") == (
        "pdem",
        "/a/b",
        {"head": True, "head_s": 2.5, "layer": None},
    )
    with pytest.raises(ConfigError, match="'last' in 'wavlm-large,last' is not an option of an encoder"):
        registry.parse_spec("wavlm-large,last")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="There is no encoder 'wavlm-lage'") as caught:
        registry.create("wavlm-lage")
    assert "Did you mean 'wavlm-large'?" in str(caught.value)
    assert "beit-large, clip-text-b32" in str(caught.value)


def test_an_unknown_option_suggests_the_nearest(vit: Path) -> None:
    with pytest.raises(ConfigError, match=r"vit-b16 has no option 'layers'; did you mean \"layer\"\?"):
        registry.create(f"vit-b16={vit},layers=3")
    with pytest.raises(ConfigError, match="vit-b16: option layer is 'top': input should be a valid integer"):
        registry.create(f"vit-b16={vit},layer=top")
    with pytest.raises(ConfigError, match="has no option 'types'"):
        registry.create(f"vit-b16={vit},types=beit")


def test_a_mapping_of_a_recipe_becomes_a_record() -> None:
    options = registry._convert_options(
        "qwen3-vl-4b", VisionLanguageEncoder, {"segments": {"length_s": 3, "hop_s": 1.5}}
    )
    assert options["segments"] == Segments(length_s=3.0, hop_s=1.5, pictures=16)


@pytest.mark.parametrize("name", ["face-geometry", "voice-prosody", "log-mel", "waveform"])
def test_encoders_without_weights_take_no_source_and_no_options(name: str) -> None:
    encoder = registry.create(name, device="cuda")
    assert isinstance(encoder, Encoder)
    assert encoder.name == name
    with pytest.raises(
        ConfigError, match=rf"{name} takes no source, got 'x'\.\nNo encoder was created\.\nUse --encoder"
    ):
        registry.create(f"{name}=x")
    with pytest.raises(ConfigError, match=f"{name} has no option 'layer'") as caught:
        registry.create(f"{name},layer=1")
    assert "Omit it: the encoder has none." in str(caught.value)


def test_specs_of_recipes_round_trip() -> None:
    options = {"source": "/a/b", "head": True, "head_s": 2.5, "layer": None}
    spec = registry.format_spec("pdem", options)
    assert registry.parse_spec(spec) == ("pdem", options.pop("source"), options)
    with pytest.raises(
        ConfigError, match=r"cannot be written in one line.*\nNo encoder was created\.\nUse numbers, words"
    ):
        registry.format_spec("qwen3-vl-4b", {"prompt": "one, two"})


def test_create_onnx_by_name_of_card(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_HUB", str(shared / "hub"))
    encoder = registry.create("fer")
    assert isinstance(encoder, OnnxFace)
    assert (encoder.name, encoder.dim, encoder.licence) == ("fer", 7, "MIT")
    with pytest.raises(ConfigError, match=r"onnx-face needs the file of a network.*\n.*\nUse onnx-face=PATH"):
        registry.create("onnx-face")


def test_every_network_has_kind_size_and_licence() -> None:
    assert {"beit-large", "clip-vit-b32", "clip-vit-l14", "wavlm-large", "wav2vec2-base", "pdem", "hsemotion"} <= set(
        registry.encoder_names()
    )
    for name, network in registry.NETWORKS.items():
        assert network.kind in registry.KINDS
        if network.kind != "onnx":
            assert network.licence != "unknown", name
            assert network.size, name
            assert network.source.count("/") == 1


def test_encoder_names_imports_no_torch() -> None:
    code = "import sys; from mien.encoders import registry; registry.encoder_names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- checkpoints that cannot be used ----


def refused(spec: str, **options: object) -> str:
    with pytest.raises(ArtefactError) as caught:
        registry.create(spec, **options)
    return str(caught.value)


def test_a_folder_without_checkpoint_is_refused(tmp_path: Path, vit: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    assert f"{tmp_path} is not a checkpoint: it has no config.json." in refused(f"vit-b16={tmp_path}")
    bare = copy(vit, tmp_path / "bare", without="model.safetensors")
    assert "holds no weights" in refused(f"vit-b16={bare}")
    with pytest.raises(ConfigError, match="There is no folder nowhere/at/all, and it is not a Hub id"):
        registry.create("vit-b16=nowhere/at/all")


def test_weights_of_another_architecture_are_refused(vit: Path, tmp_path: Path) -> None:
    text = refused(f"beit-large={vit}")
    assert f"{vit} holds weights of another architecture: model_type is 'vit', expected 'beit'." in text
    assert "expected 'wavlm'" in refused(f"wavlm-large={vit}")
    # config.json names BEiT, but the weights are those of ViT
    beit = copy(vit, tmp_path / "beit")
    transformers.BeitConfig(**TINY).save_pretrained(beit)
    text = refused(f"beit-large={beit}")
    assert "lacks" in text
    assert "weights of BeitModel" in text
    assert "They would be random and every feature wrong." in text
    # weights of another width
    wide = copy(vit, tmp_path / "wide")
    config = json.loads((wide / "config.json").read_text()) | {"hidden_size": 64}
    (wide / "config.json").write_text(json.dumps(config))
    assert "ViTModel" in refused(f"vit-b16={wide}")


def test_truncated_weights_are_refused(vit: Path, tmp_path: Path) -> None:
    folder = copy(vit, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    text = refused(f"vit-b16={folder}")
    assert f"{folder} cannot be read as ViTModel" in text
    assert "may be truncated" in text


def test_a_pickle_is_refused_unless_allowed(vit: Path, tmp_path: Path) -> None:
    folder = copy(vit, tmp_path / "pickled", without="model.safetensors")
    torch.save(transformers.ViTModel.from_pretrained(vit).state_dict(), folder / "pytorch_model.bin")
    text = refused(f"vit-b16={folder}")
    assert "holds its weights as a pickle (pytorch_model.bin)" in text
    assert "Nothing was read." in text
    assert "allow_pickle=True" in text
    allowed = registry.create(f"vit-b16={folder},allow_pickle=true")
    crops = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    safe = registry.create(f"vit-b16={vit}")
    np.testing.assert_array_equal(allowed.encode_crops(crops), safe.encode_crops(crops))
    assert pretrained.load_tensors(
        pretrained.fetch(WeightSource(str(folder)), allow_pickle=True), "layernorm."
    ).keys() == {
        "weight",
        "bias",
    }


def test_an_allowed_pickle_cannot_run_code(vit: Path, tmp_path: Path) -> None:
    folder = copy(vit, tmp_path / "evil", without="model.safetensors")
    mark = tmp_path / "mark"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return Path.touch, (mark,)  # type: ignore[return-value]

    torch.save({"layernorm.weight": Evil()}, folder / "pytorch_model.bin")
    assert "cannot be read as ViTModel" in refused(f"vit-b16={folder},allow_pickle=true")
    assert not mark.exists()


# ---- the hub ----


class _Hub(http.server.BaseHTTPRequestHandler):
    """Replies of the Hub for a gated repository, a missing one, and an unknown revision."""

    def do_GET(self) -> None:
        code, name = {
            "/api/models/some/gated": (403, "GatedRepo"),
            "/api/models/some/missing": (401, "RepoNotFound"),
        }.get(self.path.split("/revision")[0], (404, "RevisionNotFound"))
        self.send_response(code)
        self.send_header("X-Error-Code", name)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MIEN_HUB", str(tmp_path / "mirror"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield
    server.shutdown()


@pytest.mark.usefixtures("hub")
def test_gated_and_missing_repositories_and_unknown_revisions() -> None:
    text = refused("vit-b16=some/gated")
    assert "some/gated (size unknown, licence unknown) is gated" in text
    assert "hf auth login" in text
    assert "some/missing is not on the Hub, or is private." in refused("vit-b16=some/missing")
    assert "some/other has no revision 'v9'." in refused("vit-b16=some/other,revision=v9")


@pytest.mark.parametrize("offline", [False, True], ids=["closed port", "HF_HUB_OFFLINE"])
def test_an_unreachable_hub_is_reported_with_a_remedy(offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIEN_HUB", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    text = refused("wavlm-large", revision="a-revision-that-no-cache-holds")
    assert "microsoft/wavlm-large (about 1260.0 MB, licence CC-BY-SA-3.0) is not on this machine" in text
    assert "the Hub cannot be reached" in text
    assert "hf download microsoft/wavlm-large --local-dir FOLDER" in text
    assert "huggingface-cli download" in text
    assert "MIEN_HUB=MIRROR" in text


def test_a_mirror_replaces_the_hub(vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy(vit, tmp_path / "google" / "vit-base-patch16-224-in21k")
    monkeypatch.setenv("MIEN_HUB", str(tmp_path))
    encoder, local = registry.create("vit-b16"), registry.create(f"vit-b16={vit}")
    assert encoder.licence == "Apache-2.0"
    assert encoder.provenance["network"] == "google/vit-base-patch16-224-in21k"
    assert encoder.provenance["revision"] == local.provenance["revision"]  # the same weights, wherever they lie


def test_verbosity_of_transformers_is_restored(vit: Path) -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    registry.create(f"vit-b16={vit}")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_speech_encoder_takes_only_the_given_types(tmp_path: Path) -> None:
    transformers.Wav2Vec2Config().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ArtefactError, match="model_type is 'wav2vec2', expected 'wavlm'"):
        SpeechEncoder("wavlm-large", WeightSource(str(tmp_path)), types=("wavlm",))
