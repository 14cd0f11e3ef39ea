"""Every recipe, from a corpus to the timeline of a recording: features, stages, training, a copied folder, predict.

Encoders are tiny networks of the true classes with random weights. What a run predicts means nothing; that every row is
there, with and without either modality, is what is tested.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner, Result

from mien import checkpoint, config, hub, models, trained_model
from mien.cli.main import app
from mien.datasets.image_datasets import ImageOptions
from mien.datasets.index import Index, build_index
from mien.encode.corpus_faces import load_corpus_faces
from mien.errors import ArtefactError
from mien.evaluation.corrupted_media import footage_curves
from mien.evaluation.predictions import predict as predict_clip
from mien.media.mp4_writer import write_video
from mien.onnx_export import export_run
from mien.predict import load as mien_load
from mien.store import FeatureStore
from mien.synthetic import affwild2_export
from mien.training.fit import fit
from mien.training.semi_supervised import fit_images
from mien.training.stages import ChainSettings, extract_features, labelled
from tests.earlier_version import without_digests
from tests.encoders import test_images, test_onnx_face, test_speech, test_text, test_vision_language

needs_faces = pytest.mark.skipif(
    not (hub.available("blazeface") and hub.available("facemesh")),
    reason="the face networks are not here: mien hub pull blazeface facemesh",
)
pytestmark = needs_faces

#: Encoder -> what makes its tiny network.
IMAGES = {"beit-large": "beit", "clip-vit-b32": "clip", "dinov2-large": "dinov2", "efficientnet-b1": "efficientnet",
          "resnet50": "resnet"}  # fmt: skip
SPEECH = {
    "wavlm-large": "wavlm-large", "wav2vec2-base": "wav2vec2-base", "wav2vec2-large": "wav2vec2-large",
    "pdem": "wav2vec2-large",
}  # fmt: skip
#: `model.name` -> overrides that make it tiny.
SMALL: dict[str, tuple[str, ...]] = {
    "safe_cross_attention": ("model.dim=8", "model.heads=2", "model.layers=1"),
    "prompted_tcn": (
        "model.dim=16", "model.levels=2", "model.heads=2", "model.hidden=[8, 8]", "model.text_dim=24",
    ),
    "cnn_pdem": (
        "model.dim=16", "model.face_heads=2", "model.voice_dim=32", "model.voice_heads=[2, 2]", "model.weight_draws=5",
        "model.fusion_dim=16", "model.fusion_heads=2", "model.elm_support=20", "model.forest_trees=[2, 3]",
    ),
    "cnn_static": (
        "model.source=null", "model.network=resnet", "model.dim=12", "model.unfreeze_steps=0", "corpus.options.size=32",
        "model.options={embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1], layer_type: basic}",
    ),
    "gated_fusion": ("model.dim=16",),
    "late_fusion": (),
    "dynamic_threshold": (
        "model.stem=8", "model.widths=[8, 16]", "model.depths=[1, 1]", "model.stem_pool=false",
        "corpus.options.size=32",
    ),
    "transfer_ensemble": (
        "model.hidden=8", "model.cnn14=[4, 8]", "model.channels=[8, 8]", "model.kernels=[5, 3]", "model.lstm=8",
        "model.pools=[10, 8]", "model.weight_draws=5",
    ),
    "va_streams": ("model.dim=16", "model.heads=2", "model.layers=1", "model.mamba_layers=1", "model.pooling_dim=4"),
    "va_directed_experts": ("model.dim=16", "model.heads=2", "model.layers=1"),
    "voice_expression": ("model.dim=8", "model.embedding=4"),
    "va_reliability": ("model.dim=16", "model.heads=2", "model.latents=2"),
}  # fmt: skip
TRAIN = ("train.epochs=1", "train.batch=4", "train.threads=1", "train.patience=0")
#: Recipes, and the fusions of cnn_pdem beside its default.
CASES = [*config.names(), *(f"cnn_pdem model.fusion={f}" for f in ("forest", "attention", "mean"))]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus in the layout of Aff-Wild2 whose last recording shows two people, its index, and an empty store."""
    work = tmp_path_factory.mktemp("corpus")
    affwild2_export.write_corpus(work / "root", videos=affwild2_export.SECOND_EVERY, seconds=1.0, seed=3)
    build_index("aff-wild2", work / "root").save(work / "index.jsonl")
    return work


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Encoder -> folder of its tiny network."""
    root = tmp_path_factory.mktemp("networks")
    made = {name: test_images.tiny(family, root / name) for name, family in IMAGES.items()}
    made |= {name: test_speech.tiny(kind, root / name) for name, kind in SPEECH.items()}
    made["qwen3-vl-4b"] = test_vision_language.tiny(root / "qwen")
    made["clip-text-b32"] = test_text.tiny(root / "clip-text")
    test_onnx_face.write_network(root / "tiny.onnx", np.ones((1, 7), np.float32))
    made["fer"] = test_onnx_face.write_card(root / "fer.yaml", name="fer", colour="grey")
    return made


def tiny_recipe(name: str, sources: dict[str, Path], *overrides: str) -> config.Recipe:
    """A shipped recipe with small sizes, and the tiny networks as its encoders."""
    shipped = config.load(name)
    changes = [*TRAIN, *SMALL[shipped.model.name], *overrides]
    if shipped.objective.get("text"):
        changes.append(f"objective.text_options={{source: {sources['clip-text-b32']}}}")
    for modality, feature in shipped.features.items():
        options = {"source": str(sources[feature.encoder])} if feature.encoder in sources else {}
        if options and feature.encoder not in ("clip-text-b32", "fer"):
            options["precision"] = "float32"
        options |= {key: value for key, value in feature.options.items() if key == "scales"}
        changes += [f"features.{modality}.dim=null", f"features.{modality}.options={options}"]
    return config.load(name, changes, check=models.problems)


def train(name: str, out: Path, corpus: Path, sources: dict[str, Path], *overrides: str) -> Path:
    """Train a recipe on the corpus by one epoch, its stages first; returns the folder."""
    recipe = tiny_recipe(name, sources, *overrides)
    index = Index.load(corpus / "index.jsonl")
    if models.system_class(recipe).input_kind == "images":
        return train_on_images(recipe, index, out)
    stages = corpus / "stages"
    stages.mkdir(exist_ok=True)
    for stage in recipe.stages:
        if not (stages / f"{stage}.yaml").exists():
            (stages / f"{stage}.yaml").write_text(config.dump(tiny_recipe(stage, sources)))
    recipe = config.changed(recipe, stages={stage: str(stages / f"{stage}.yaml") for stage in recipe.stages})
    given = {stage: stages / stage for stage in recipe.stages if (stages / stage / "checkpoint.json").exists()}
    settings = ChainSettings(index, corpus / "features", given, workers=0, device="cpu", on_step=lambda line: None)
    failures, folders = extract_features(recipe, out, settings)
    assert not failures
    for stage, folder in folders.items():
        if stage not in given:
            shutil.copytree(folder, stages / stage)
    clips = [labelled(recipe, settings, split) for split in ("train", "val")]
    return fit(recipe, *clips, out, True, device="cpu", progress=False, stages=folders)


def train_on_images(recipe: config.Recipe, index: Index, out: Path) -> Path:
    recipe = config.changed(recipe, corpus={"labels": list(index.classes)})
    faces = load_corpus_faces(index, "train", ImageOptions(**recipe.corpus.options).size, faces="crops")
    assert faces is not None
    return fit_images(recipe, faces, faces, None, out, steps=2)


def mien(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


def predict(run: Path, media: Path, out: Path, *options: str) -> pl.DataFrame:
    result = mien("predict", media, "--model", run, "--out", out, "--format", "parquet", "--device", "cpu", *options)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return pl.read_parquet(out / media.stem / "timeline.parquet")


def check(table: pl.DataFrame, *, expression: bool, affect: bool, evidence: bool = True) -> None:
    """Every frame has a row per person; predictions are there, in range, and only those that were trained."""
    for _, rows in table.group_by("subject"):
        assert rows["frame"].to_list() == list(range(len(rows)))
    p = table.select(pl.col("^p_.*$")).to_numpy()
    known = np.isfinite(p).all(axis=1)
    assert np.allclose(p[known].sum(axis=1), 1, atol=1e-4)
    assert known.any() == (expression and evidence)
    assert (table["valence"].null_count() < len(table)) == (affect and evidence)
    assert table["valence"].drop_nulls().is_between(-1, 1).all()


@pytest.fixture(scope="module")
def recordings(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two people with sound, the same without sound, and grey pictures with sound."""
    folder = tmp_path_factory.mktemp("recordings")
    (pair,) = {e.media for e in Index.load(corpus / "index.jsonl").entries if e.side and e.media}
    shutil.copy(corpus / "root" / pair, folder / "pair.mp4")
    from mien.media.video import frames

    pictures = list(frames(folder / "pair.mp4"))
    times = [frame.time_s for frame in pictures]
    write_video(folder / "silent.mp4", (frame.image for frame in pictures), times=times)
    write_video(
        folder / "faceless.mp4",
        (np.full((120, 160, 3), 90, np.uint8) for _ in times),
        times=times,
        audio=folder / "pair.mp4",
    )
    return {path.stem: path for path in folder.glob("*.mp4")}


@pytest.mark.parametrize("case", CASES)
def test_a_copied_run_predicts_recordings(
    case: str, corpus: Path, sources: dict[str, Path], recordings: dict[str, Path], tmp_path: Path
) -> None:
    name, *overrides = case.split()
    out = train(name, tmp_path / "run", corpus, sources, *overrides)
    shutil.copytree(out, tmp_path / "copy")
    shutil.rmtree(out)
    run = tmp_path / "copy"
    trained = checkpoint.load(run)
    expects = {
        "expression": trained.model.predicts_expression,
        "affect": trained.model.predicts_valence_arousal,
    }
    reads = {trained_source(feature) for feature in reads_of(run)}
    table = predict(run, recordings["pair"], tmp_path / "both")
    assert table["subject"].n_unique() == (2 if "pictures" in reads and name != "va_behaviour" else 1)
    check(table, **expects)
    for media, options, gone in (
        ("pair", ("--no-face",), "pictures"),
        ("pair", ("--no-voice",), "sound"),
        ("silent", (), "sound"),
        ("faceless", (), "faces"),
    ):
        left = reads - {gone, "pictures" if gone == "faces" and name != "va_behaviour" else ""}
        if options and not left:
            result = mien("predict", recordings[media], "--model", run, "--out", tmp_path / "x", *options)
            assert result.exit_code == 2
            assert "only, which" in result.output
            continue
        other = predict(run, recordings[media], tmp_path / f"{media}{len(options)}{gone}", *options)
        check(other, **expects, evidence=bool(left))
    if not trained_model.is_image_model(run):
        check_submission(run, corpus, tmp_path / "submission.txt", "EXPR" if expects["expression"] else "VA")
    if overrides:
        return  # tests/test_onnx_export.py exports each fusion, and the case without an override all the rest
    exported = export_run(run)
    assert exported.files
    assert_equal_timelines(predict(run, recordings["pair"], tmp_path / "exported"), table)


def check_submission(run: Path, corpus: Path, out: Path, track: str) -> None:
    """The clips of the challenge's test split give a submission without errors, from stored features."""
    sample = corpus / "root" / f"{track}_sample.txt"
    stored = ("--index", corpus / "index.jsonl", "--store", corpus / "features", "--device", "cpu")
    for words in (("submit", run, "--sample", sample, *stored, "--out", out), ("validate", out, "--sample", sample)):
        result = mien(*words)
        assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    assert len(out.read_text().splitlines()) == len(sample.read_text().splitlines())


def assert_equal_timelines(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert found.select("time_s", "subject", "evidence", "speech").equals(
        expected.select("time_s", "subject", "evidence", "speech")
    )
    for name in (*[c for c in expected.columns if c.startswith("p_")], "valence", "arousal"):
        assert found[name].is_null().equals(expected[name].is_null()), name
        np.testing.assert_allclose(found[name].fill_null(0), expected[name].fill_null(0), atol=1e-4, err_msg=name)


def reads_of(run: Path) -> list[trained_model.InputFeature]:
    if trained_model.is_image_model(run):
        return [trained_model.InputFeature("face-geometry", 0), trained_model.InputFeature("voice-prosody", 0)]
    features = trained_model.read_features(run)
    assert features is not None
    return list(features.values())


def trained_source(feature: trained_model.InputFeature) -> str:
    from mien.encode.create_encoders import source_of

    return source_of(feature) or ""


@pytest.fixture(scope="module")
def fusion(corpus: Path, sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained va_reliability with its three stages."""
    return train("va_reliability", tmp_path_factory.mktemp("fusion") / "run", corpus, sources)


def copy(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder)
    return folder


def test_a_missing_and_another_stage_are_refused(fusion: Path, recordings: dict[str, Path], tmp_path: Path) -> None:
    run = copy(fusion, tmp_path / "run")
    shutil.rmtree(run / "stages" / "va_behaviour")
    result = mien("predict", recordings["pair"], "--model", run, "--out", tmp_path / "out")
    assert result.exit_code == 2
    text = " ".join(result.output.split())
    assert "the stage 'va_behaviour', a checkpoint of va_streams, is missing" in text
    assert "Nothing was predicted." in text
    shutil.copytree(fusion / "stages" / "va_voice", run / "stages" / "va_behaviour")
    result = mien("predict", recordings["pair"], "--model", run, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "are not those that the next stage was trained on" in " ".join(result.output.split())
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("timeline*"))


def test_a_fusion_reads_what_mien_derive_writes(fusion: Path, corpus: Path) -> None:
    """The stages in the folder give the features of the store, up to its 16-bit floats."""
    model = trained_model.load(fusion)
    store = FeatureStore(corpus / "features")
    clip = next(e.id for e in Index.load(corpus / "index.jsonl").entries if not e.side)
    streams = {name: store.open(f.encoder)[clip].stream() for name, f in model.features.items()}
    direct = model.direct_streams(streams)
    assert direct.keys() == {"face", "behaviour", "voice", "mouth"}
    for modality in ("face", "behaviour", "voice"):
        stream = direct[modality]
        stored = store.open(f"va_{modality}")[clip].stream()
        np.testing.assert_array_equal(stream.times, stored.times)
        np.testing.assert_array_equal(stream.valid, stored.valid)
        np.testing.assert_allclose(stream.values, stored.values, atol=4e-3)


def test_another_revision_of_an_encoder_is_a_note(fusion: Path, recordings: dict[str, Path], tmp_path: Path) -> None:
    run = copy(fusion, tmp_path / "run")
    inputs = without_digests(run / "stages" / "va_voice") / "inputs.json"
    facts = json.loads(inputs.read_text())
    facts["voice"]["provenance"]["revision"] = "sha256:0000000000000000"
    inputs.write_text(json.dumps(facts))
    notes = mien_load(run).predict(recordings["pair"]).notes
    assert [n for n in notes if "wavlm-large differs from training in revision" in n], notes
    assert "so predictions may be wrong" in " ".join(notes)
    assert not [n for n in mien_load(fusion).predict(recordings["pair"]).notes if "differs from training" in n]


def test_an_encoder_that_is_not_here_is_named_before_decoding(
    fusion: Path, recordings: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy(fusion, tmp_path / "run")
    recipe = without_digests(run / "stages" / "va_voice") / "recipe.yaml"
    recipe.write_text(
        "\n".join(line for line in recipe.read_text().splitlines() if not line.strip().startswith("source:"))
    )
    facts = json.loads((run / "stages" / "va_voice" / "inputs.json").read_text())
    facts["voice"]["provenance"]["network"] = "microsoft/wavlm-large"
    (run / "stages" / "va_voice" / "inputs.json").write_text(json.dumps(facts))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("mien.media.video.frames", None)
    monkeypatch.setattr("mien.media.audio.blocks", None)
    with pytest.raises(ArtefactError, match=r"microsoft/wavlm-large \(about 1.* licence CC-BY-SA-3.0\)") as caught:
        mien_load(run).predict(recordings["pair"])
    assert "hf download microsoft/wavlm-large" in caught.value.remedy


def test_prompts_of_a_file_replace_the_classes(
    corpus: Path, sources: dict[str, Path], recordings: dict[str, Path], tmp_path: Path
) -> None:
    run = train("prompted_tcn", tmp_path / "run", corpus, sources)
    (tmp_path / "moods.txt").write_text("Calm\nVery upset: a person who shouts\nbored\n")
    table = predict(run, recordings["pair"], tmp_path / "out", "--prompts", str(tmp_path / "moods.txt"))
    assert {"p_calm", "p_very_upset", "p_bored"} <= set(table.columns)
    assert "p_neutral" not in table.columns
    assert set(table["expression"].drop_nulls()) <= {"Calm", "Very upset", "bored"}
    result = mien("predict", recordings["pair"], "--prompts", tmp_path / "moods.txt", "--out", tmp_path / "no")
    assert result.exit_code == 2
    assert "does not support prompts" in result.output


def test_reproduce_trains_the_stages_first(
    corpus: Path, sources: dict[str, Path], tmp_path: Path, extraction_in_this_process: None
) -> None:
    stages = {}
    for name in ("va_face", "va_voice"):
        (tmp_path / f"{name}.yaml").write_text(config.dump(tiny_recipe(name, sources)))
        stages[name] = str(tmp_path / f"{name}.yaml")
    recipe = config.dump(tiny_recipe("va_reliability", sources))
    raw = yaml.safe_load(recipe) | {"stages": stages}
    del raw["features"]["behaviour"]
    (tmp_path / "fusion.yaml").write_text(yaml.safe_dump(raw))
    out = tmp_path / "out"
    words = ("reproduce", tmp_path / "fusion.yaml", "--root", corpus / "root", "--out", out, "--device", "cpu")
    result = mien(*words)
    assert result.exit_code == 0, result.output
    assert {p.name for p in (out / "run" / "stages").iterdir()} == {"va_face", "va_voice"}
    assert "mean CCC" in result.output
    assert "macro F1" not in result.output, "it predicts no expressions"
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    assert mien(*words).exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")} == before, "a second run has nothing to do"


def test_footage_of_a_staged_system_runs_its_stages(fusion: Path, corpus: Path, tmp_path: Path) -> None:
    """Corrupted recordings are encoded by the encoders of the stages; without corruption the score is the store's."""
    model = trained_model.load(fusion)
    clip = next(c for c in Index.load(corpus / "index.jsonl").clips("va", "val"))
    curves = footage_curves(
        model, [clip], {"fused": lambda recording: predict_clip(model.predict_streams, recording)},
        without_expression=["fused"],
    )  # fmt: skip
    clean = curves.filter((pl.col("corruption") == "dark") & (pl.col("level") == 0))
    assert clean.height == 1
    assert clean["va_score"].is_finite().all()


def test_evaluating_an_image_run_says_what_to_do(corpus: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    run = train("dynamic_threshold", tmp_path / "run", corpus, sources)
    result = mien("evaluate", run, corpus / "index.jsonl", "--store", corpus / "features", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "classifies single face images" in " ".join(result.output.split())
