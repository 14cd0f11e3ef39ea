"""`mien derive`: what a trained stage says, as features for the next."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from mien.cli import console


def derive(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A trained stage (va_face, va_behaviour, va_voice).")],
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="The corpus, as mien index wrote it.")],
    store: Annotated[Path, typer.Option(metavar="DIR", help="Features it reads, and where its own go.")],
    name: Annotated[str | None, typer.Option(help="What they are called there; by default the run's name.")] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the corpus lies now, if it moved.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Write what a trained stage says of every clip into the store, for the recipes of the next stage.

    \b
    Example:
      mien train va_face --index index.jsonl --store features --task va --out runs/va_face
      mien derive runs/va_face index.jsonl --store features
      mien train va_reliability --index index.jsonl --store features --task va
    """
    from mien import checkpoint
    from mien.datasets.index import Index
    from mien.datasets.stored_recordings import recordings
    from mien.store import FeatureStore
    from mien.training.stage_features import derived

    trained = checkpoint.load(run, checkpoint.torch_device(device))
    encoders = {modality: feature.encoder for modality, feature in trained.recipe.features.items()}
    corpus = Index.load(index, root)
    found = recordings(corpus, store, encoders, labels=False, partial=True)
    weights = hashlib.sha256((run / checkpoint.WEIGHTS).read_bytes()).hexdigest()
    provenance = {"network": trained.recipe.model.name, "revision": weights, "layer": "embedding and predictions"}
    called, made = name or run.resolve().name, 0
    shelf = FeatureStore(store)
    with console.progress(f"deriving {called}", unit="clips") as bar:
        for number, recording in enumerate(found, 1):
            stream = derived(trained, recording, provenance)
            with shelf.writer(called, recording.clip.id, dim=stream.dim, provenance=provenance) as writer:
                writer.append(stream.values, stream.times, stream.valid)
            made += 1
            bar(number, len(found))
    console.out().print(f"{made} clips in {store}, called {called}", markup=False)
