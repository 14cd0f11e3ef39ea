"""`mien evaluate`: how good a checkpoint is on clips whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.app import console
from mien.errors import ConfigError

if TYPE_CHECKING:
    from mien.checkpoint import Checkpoint
    from mien.evaluation.predictions import ClipPrediction
    from mien.records import Recording


def evaluate(
    model: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Folder of a trained checkpoint, or starter.")],
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="The corpus, as mien index wrote it.")],
    store: Annotated[Path, typer.Option(metavar="DIR", help="Its features (mien extract).")],
    split: Annotated[str, typer.Option(help="The clips that are scored.")] = "val",
    task: Annotated[str | None, typer.Option(help="expr or va: whose labels and splits; the first by default.")] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the corpus lies now, if it moved.")] = None,
    calibrate: Annotated[
        bool, typer.Option(help="Choose smoothing, class bias and temperature inside the training clips.")
    ] = True,
    robustness: Annotated[bool, typer.Option(help="Also score under missing, noisy and late streams.")] = False,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("evaluation"),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the record instead of a table.")] = False,
) -> None:
    """Score a checkpoint on an indexed corpus whose features are stored.

    Writes OUT/evaluation.html, a page of scores with intervals (clips drawn again and again), classes, confusions and
    curves; evaluation.json, the same as numbers; and predictions.parquet, every frame. What --calibrate chooses, it
    chooses by cross-validation inside the training clips, and keeps as CHECKPOINT/calibration.json, which mien submit
    applies; the usual practice of tuning on the clips that are scored
    is shown beside it, marked optimistic.

    \b
    Examples:
      mien evaluate runs/mine index.jsonl --store features
      mien evaluate runs/mine index.jsonl --store features --robustness --out report
    """
    from mien import checkpoint
    from mien.challenge.predicting import unsmoothed
    from mien.corpora.index import Index
    from mien.evaluation import calibrate as calibration
    from mien.evaluation import predictions
    from mien.evaluation.robustness import curve, stream_conditions, streams_model
    from mien.evaluation.summary import summarise
    from mien.extract import recordings
    from mien.records import FACE, VOICE
    from mien.views import evaluation as view

    trained = checkpoint.load(model, _device(device))
    corpus = Index.load(index, root)
    encoders = {modality: feature.encoder for modality, feature in trained.recipe.features.items()}

    def clips(part: str) -> list[Recording]:
        found = recordings(corpus, store, encoders, task=task, split=part)
        return [r for r in found if r.clip.labels is not None]

    scored = clips(split)
    if not scored:
        raise ConfigError(
            f"{index} has no labelled clip in the split {split!r}",
            follows="there is nothing to score",
            remedy="name another with --split; `mien index` prints what a corpus has",
        )
    said = _said(trained, scored, f"predicting {split}")
    comparison = None
    train = clips("train") if calibrate and split != "train" else []
    if len({r.clip.subject or r.clip.id for r in train}) > 1:
        plain = unsmoothed(trained)
        comparison = calibration.compare(
            _said(plain, train, "predicting train"), _said(plain, scored, f"predicting {split}"), classes=trained.labels
        )
    curves = None
    if robustness:
        systems = {"fused": streams_model(trained.predict_streams)}
        alone = {f"{m} alone": streams_model(trained.predict_streams, m) for m in (FACE, VOICE) if m in encoders}
        with console.progress("robustness", unit="conditions") as bar:
            curves = curve(
                stream_conditions(),
                scored,
                systems | (alone if len(alone) > 1 else {}),
                classes=trained.labels,
                progress=lambda done, total: bar(done, total),
            )
    if comparison is not None and Path(model).is_dir():
        comparison.fitted.calibration.save(Path(model) / calibration.FILE)
    record = summarise(
        said,
        name=Path(model).name,
        classes=trained.labels,
        split=split,
        comparison=comparison,
        curves=curves,
        reported=trained.recipe.paper.reported,
    )
    out.mkdir(parents=True, exist_ok=True)
    page = view.page(out / "evaluation.html", record)
    predictions.save(out / "predictions.parquet", said, trained.labels)
    _show(record, page, as_json)


def _device(name: str) -> str:
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _said(trained: Checkpoint, scored: list[Recording], title: str) -> list[ClipPrediction]:
    from mien.evaluation.predictions import predict

    with console.progress(title, unit="clips") as bar:
        found = []
        for number, recording in enumerate(scored, 1):
            found.append(predict(trained.predict_streams, recording))
            bar(number, len(scored))
    return found


def _show(record: dict[str, Any], page: Path, as_json: bool) -> None:
    import json

    if as_json:
        print(json.dumps(record, indent=1))
        return
    from mien.views.evaluation import interval, score

    screen = console.out()
    screen.print(f"{record['name']} on {record['clips']} clips of {record['split']}", markup=False)
    for found in record["scores"]:
        screen.print(f"  {found['name']:14}{score(found['value'])}   {interval(found)}", markup=False)
    screen.print(f"\nreport   {page}", markup=False)
