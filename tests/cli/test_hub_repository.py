"""`mien hub push`, `mien hub pull ORG/NAME` and `mien models`, against a local stand-in of the Hub's API."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import wave
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import numpy as np
import pytest
from test_cli import mien, predict
from tiny_checkpoint import save_tiny

from mien import config, hub_repository, model_listing, models
from mien.errors import ArtefactError, ConfigError, OutputError
from mien.layers.system import StreamSystem
from mien.synthetic.speech_synthesis import Speaker, synthesise
from tests.earlier_version import without_digests

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """State of the stand-in. files: content by path, None: no such repository. status: answer to every request if set.
    truncate: a path of which only the first half is sent. requests: method and path of each request."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] | None = None
        self.private, self.status, self.truncate = False, 0, ""
        self.requests: list[str] = []


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def json(self, content: Any, status: int = 200, **headers: str) -> None:
            self.answer(json.dumps(content).encode(), status, Content_Type="application/json", **headers)

        def handle_request(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if hub.status:
                self.json({"error": "refused"}, hub.status)
            elif path == "/api/repos/create":
                if hub.files is None:
                    hub.files, hub.private = {}, json.loads(body).get("visibility") == "private"
                self.json({"url": f"http://{self.headers['Host']}/lab/tiny"})
            elif path == "/api/validate-yaml":
                self.json({"errors": [], "warnings": []})
            elif hub.files is None:
                self.json({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            elif "/preupload/" in path:
                files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
                self.json({"files": [{**f, "shouldIgnore": False} for f in files]})
            elif "/commit/" in path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                url = f"http://{self.headers['Host']}/lab/tiny/commit/{COMMIT}"
                self.json({"commitUrl": url, "commitOid": COMMIT, "success": True})
            elif "/tree/" in path:
                blobs = {name: hashlib.sha1(data).hexdigest() for name, data in hub.files.items()}
                self.json([{"type": "file", "path": n, "size": len(hub.files[n]), "oid": blobs[n]} for n in blobs])
            elif "/resolve/" in path:
                self.send_file(path.split("/resolve/")[1].partition("/")[2])
            elif path.startswith("/api/models/"):
                if "/revision/" in path and path.rsplit("/", 1)[1] not in ("main", COMMIT):
                    self.json({"error": "Invalid rev"}, 404, X_Error_Code="RevisionNotFound")
                    return
                siblings = [{"rfilename": name} for name in hub.files]
                self.json({"id": "lab/tiny", "sha": COMMIT, "private": hub.private, "siblings": siblings})
            else:
                self.json({"error": "not in the stand-in"}, 500)

        def send_file(self, name: str) -> None:
            assert hub.files is not None
            data = hub.files[name]
            if name == hub.truncate and self.command == "GET":
                data = data[: len(data) // 2]
            self.answer(data, ETag=f'"{hashlib.sha1(hub.files[name]).hexdigest()}"', X_Repo_Commit=COMMIT)

        do_GET = do_POST = do_HEAD = handle_request

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny")


def write_voice(path: Path) -> None:
    """Two seconds of synthesised speech between silences."""
    speaker = Speaker.random(np.random.default_rng(0), "female")
    speech = synthesise([(0.5, 2.5, "Happiness", 0.8)], speaker, 0, seconds=3.0)
    samples = (speech.samples * 32_000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_pushed_and_pulled_checkpoint_predicts_as_the_original(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    save_tiny(tiny / "stages" / "face", seed=1)
    (tiny / "last.ckpt").write_bytes(b"pickle")
    (tiny / "notes" / "private").mkdir(parents=True)
    (tiny / "notes" / "private" / "people.json").write_text("{}")
    pushed = mien("hub", "push", tiny, "lab/tiny", "--licence", "MIT", "--private", "--yes")
    assert pushed.exit_code == 0, pushed.output
    assert hub.private
    assert "weights.safetensors" in pushed.stderr
    assert "README.md" in pushed.stderr
    assert "last.ckpt" not in pushed.stderr
    assert hub.files is not None
    names = {"weights.safetensors", "recipe.yaml", "checkpoint.json", "metrics.json"}
    assert set(hub.files) == {*names, *(f"stages/face/{n}" for n in names), "README.md"}

    out = tmp_path / "pulled" / "copy"
    pulled = mien("hub", "pull", "lab/tiny", "--out", out)
    assert pulled.exit_code == 0, pulled.output
    assert contents(out) == hub.files
    for name in names:
        assert (out / name).read_bytes() == (tiny / name).read_bytes()
    assert sorted(p.name for p in out.parent.iterdir()) == ["copy"]  # nothing temporary is left
    sound = tmp_path / "a.wav"
    write_voice(sound)
    tables = []
    for model in (tiny, out):
        assert predict(str(model), tmp_path / f"of-{model.name}", sound).exit_code == 0
        tables.append(next((tmp_path / f"of-{model.name}").rglob("timeline.csv")).read_text())
    assert tables[0] == tables[1]
    confidence = np.genfromtxt(tables[0].splitlines(), delimiter=",", names=True)["confidence"]
    assert np.nanmax(confidence) > 0.1  # speech was found: the tables hold predictions


def test_model_card_states_facts_of_the_checkpoint(hub: Hub, tiny: Path) -> None:
    (tiny / "metrics.json").write_text(json.dumps({"val_macro_f1": 0.4321, "best_epoch": 3}))
    assert mien("hub", "push", tiny, "lab/tiny", "--licence", "CC-BY-NC-4.0", "--yes").exit_code == 0
    assert hub.files is not None
    text = hub.files["README.md"].decode()
    front = config.yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "cc-by-nc-4.0"
    assert front["library_name"] == "mien"
    assert front["model-index"][0]["results"][0]["metrics"] == [
        {"type": "macro_f1", "name": "macro f1", "value": 0.4321}
    ]
    for part in (
        "face-geometry",
        "voice-prosody",
        "Neutral, Anger",
        "mien hub pull lab/tiny",
        "workplace",
        "| 0.4321 |",
    ):
        assert part in text


def test_push_asks_before_it_uploads(hub: Hub, tiny: Path) -> None:
    assert mien("hub", "push", tiny, "lab/tiny", "--licence", "MIT").exit_code == 1  # no answer on stdin
    assert hub.requests == []


def test_push_without_a_licence_names_encoders_that_exclude_commercial_use(hub: Hub, tiny: Path) -> None:
    recipe = without_digests(tiny) / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("encoder: voice-prosody", "encoder: pdem"))
    refused = mien("hub", "push", tiny, "lab/tiny", "--yes")
    assert refused.exit_code == 2
    assert "states no licence" in refused.stderr
    assert "pdem (CC-BY-NC-SA-4.0)" in " ".join(refused.stderr.split())
    assert hub.requests == []


def test_push_refuses_paths_of_this_machine(hub: Hub, tiny: Path) -> None:
    about = json.loads((tiny / "metrics.json").read_text())
    (tiny / "metrics.json").write_text(
        json.dumps(about | {"store": "/home/someone/features", "page": "https://a.b/c/d"})
    )
    push = ("hub", "push", tiny, "lab/tiny", "--licence", "MIT", "--yes")
    refused = mien(*push)
    assert refused.exit_code == 2
    assert "metrics.json: store = /home/someone/features" in refused.stderr
    assert "a.b" not in refused.stderr
    assert hub.requests == []
    assert mien(*push, "--keep-paths").exit_code == 0


def test_push_without_a_token_or_to_a_public_repository_as_private(
    hub: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files = {}
    with pytest.raises(ConfigError, match="is public"):
        hub_repository.push(tiny, "lab/tiny", card="", private=True)
    assert hub.files == {}
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="no token"):
        hub_repository.push(tiny, "lab/tiny", card="")


@pytest.mark.parametrize(
    ("status", "text"), [(401, "token was refused"), (403, "no permission"), (404, "no such repository")]
)
def test_refusals_of_the_hub(hub: Hub, tiny: Path, tmp_path: Path, status: int, text: str) -> None:
    hub.status = status
    with pytest.raises(ArtefactError, match=text):
        hub_repository.push(tiny, "lab/tiny", card="")
    with pytest.raises(ArtefactError, match=text):
        hub_repository.pull("lab/tiny", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_connection(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    with pytest.raises(ArtefactError, match="cannot be reached"):
        hub_repository.push(tiny, "lab/tiny", card="")
    with pytest.raises(ArtefactError, match="cannot be reached"):
        hub_repository.pull("lab/tiny", tmp_path / "out")


def test_pull_refuses_damaged_files_and_leaves_nothing(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "pulled" / "tiny"
    hub.files = contents(tiny)
    hub.truncate = "weights.safetensors"
    with pytest.raises(ArtefactError):
        hub_repository.pull("lab/tiny", out)
    hub.truncate = ""
    hub.files["weights.safetensors"] = hub.files["weights.safetensors"][:-1] + b"\x7f"
    with pytest.raises(ArtefactError, match=r"weights.safetensors is not the file that checkpoint.json describes"):
        hub_repository.pull("lab/tiny", out)
    assert list(out.parent.iterdir()) == []


def test_pull_takes_no_pickle_and_no_path_outside(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    hub.files = contents(tiny) | dict.fromkeys(
        ("weights.pt", "pytorch_model.bin", "stages/a.pkl", "other/a.json", ".hidden.json"), b"x"
    )
    out = hub_repository.pull("lab/tiny", tmp_path / "out")
    assert contents(out) == contents(tiny)
    assert not any("pkl" in request or ".pt" in request or ".bin" in request for request in hub.requests)
    assert not any(
        map(hub_repository.is_checkpoint_file, ("../a.json", "/a.json", "stages/../../a.json", "..\\a.json"))
    )
    del hub.files["weights.safetensors"]
    with pytest.raises(ArtefactError, match=r"holds no checkpoint of mien: weights.safetensors missing"):
        hub_repository.pull("lab/tiny", tmp_path / "other")


def test_pull_checks_revision_folder_and_name(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    hub.files = contents(tiny)
    with pytest.raises(ArtefactError, match="has no revision 'v9'"):
        hub_repository.pull("lab/tiny", tmp_path / "out", revision="v9")
    with pytest.raises(OutputError, match="exists already"):
        hub_repository.pull("lab/tiny", tiny)
    assert mien("hub", "pull", "lab/tiny", "blazeface").exit_code == 2
    assert mien("hub", "pull", "a/b/c").exit_code == 2


def test_models_lists_runs_and_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "runs" / "mine")
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "checkpoint.json").write_text("{")
    (tmp_path / "runs" / "mine" / "metrics.json").write_text('{"val_ccc": 0.25}')
    rows = {row["name"]: row for row in json.loads(mien("models", "--json").stdout)}
    assert {"starter", "runs/mine", "runs/broken", "hsemotion", "fer", "face-api"} == set(rows)
    mine = rows["runs/mine"]
    assert mine["figures"] == {"val_ccc": 0.25}
    assert [(i["modality"], i["encoder"]) for i in mine["inputs"]] == [
        ("face", "face-geometry"), ("voice", "voice-prosody"),
    ]  # fmt: skip
    assert (mine["onnx"], rows["starter"]["onnx"], mine["licence"]) == (False, True, "")
    assert "cannot be read" in rows["runs/broken"]["problem"]
    assert len(rows["fer"]["classes"]) == 7
    assert not rows["fer"]["valence_arousal"]
    assert rows["hsemotion"]["valence_arousal"]
    unknown = mien("models", "startr")
    assert unknown.exit_code == 2
    assert "starter" in unknown.stderr
    assert "# ORG/mine" in mien("models", "runs/mine", "--card").stdout


#: Recipes over single images, which are described by their own files.
IMAGE_RECIPES = ("cnn_pdem_static", "dynamic_threshold", "face_expression")


@pytest.mark.parametrize("name", [n for n in config.names() if n not in IMAGE_RECIPES])
def test_listing_agrees_with_the_systems_on_what_they_predict(name: str, tmp_path: Path) -> None:
    recipe = models.complete(config.load(name))
    features = {m: f.model_dump() | {"dim": f.dim or 240} for m, f in recipe.features.items()}
    recipe = config.changed(recipe, features=features)
    (tmp_path / "recipe.yaml").write_text(config.dump(recipe))
    (tmp_path / "checkpoint.json").write_text(json.dumps({"labels": recipe.corpus.labels}))
    system, listed = models.build(recipe), model_listing.describe(str(tmp_path))
    assert isinstance(system, StreamSystem)
    assert (bool(listed.classes), listed.valence_arousal) == (
        system.predicts_expression, system.predicts_valence_arousal,
    )  # fmt: skip
