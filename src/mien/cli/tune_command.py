"""`mien tune`: train a pretrained encoder further on labelled faces or sound."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mien.cli import console
from mien.cli.options import DeviceOption, JsonOption
from mien.labels import EXPRESSIONS


# Over 60 lines, because Typer reads the options from the signature.
def tune(
    encoder: Annotated[
        str,
        typer.Argument(metavar="ENCODER", help="An encoder of mien extract, such as dinov2-large or wavlm-large."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]...", help="Settings of the training, such as train.epochs=5."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="CORPUS=DIR", help="A corpus and its folder. Repeatable: all are mixed."),
    ] = None,
    lora: Annotated[
        int | None, typer.Option(min=1, metavar="RANK", help="Train LoRA updates of this rank, in all blocks.")
    ] = None,
    last_blocks: Annotated[int | None, typer.Option(min=1, metavar="K", help="Train the last K blocks.")] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="CLASS,CLASS...", help="Classes to train; by default the eight of ABAW.")
    ] = None,
    class_map: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="CORPUS:CLASS=CLASS",
            help="Train a class of a corpus as another, or as none.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Folder for the encoder; by default runs/ENCODER-tuned.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Resume the interrupted run in this folder; replaces --out.")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Train a pretrained encoder further on labelled faces or sound.

    Trains BEiT, CLIP, DINOv2, ViT, WavLM or wav2vec 2.0 end to end with a classifier. --lora trains small updates of
    all blocks and needs little memory (pip install "mien[train]"); --last-blocks trains the last blocks themselves.

    Face encoders read rafdb, affectnet, ferplus, class-folders (a folder for each class), and two faces a second of
    corpora of recordings; voice encoders read the sound of those in windows. The corpus's own validation split, by
    subject where it has subjects, selects the epoch; one tenth of the images where it has none. Votes of raters are
    soft labels.

    Writes the encoder into OUT: its weights, with the updates merged. OUT is then an encoder like any other.

    Settings: train.epochs, train.batch, train.lr (of the encoder), model.head_lr (of the classifier), train.patience,
    train.balance (1 draws every class equally often), train.precision=bf16, corpus.options.augment=strong,
    corpus.options.align=false (images whose faces are aligned already), corpus.options.window_s (of sound).

    \b
    Examples:
      mien tune dinov2-large --data affectnet=AFFECTNET --data rafdb=RAF-DB/basic --lora 16 --out runs/dinov2-affect
      mien tune beit-large --data ferplus=FERPLUS --last-blocks 4 train.epochs=5
      mien tune clip-vit-b32 --data class-folders=FACES --map class-folders:happy=Happiness --lora 8
      mien tune wavlm-large,layer=-1,last=4 --data crema-d=CREMA-D --data emodb=EMODB --lora 16
      mien tune dinov2-large --data rafdb=RAF-DB/basic --lora 16 --resume runs/dinov2-large-tuned
      mien extract index.jsonl --encoder runs/dinov2-affect --store features
    """
    corpora = {name: Path(folder) for name, folder in (_split(text, "--data", "CORPUS=DIR") for text in data or ())}
    if not corpora:
        raise typer.BadParameter("name at least one corpus: CORPUS=DIR", param_hint="--data")
    maps: dict[str, dict[str, str | None]] = {}
    for text in class_map or ():
        source, target = _split(text, "--map", "CORPUS:CLASS=CLASS")
        corpus, colon, name = source.partition(":")
        if not colon or corpus not in corpora:
            raise typer.BadParameter(f"{text!r}: write CORPUS:CLASS=CLASS, of a corpus of --data", param_hint="--map")
        maps.setdefault(corpus, {})[name] = target or None
    classes = [name.strip() for name in labels.split(",")] if labels else list(EXPRESSIONS)
    name = encoder.partition(",")[0].partition("=")[0]
    folder = resume or out or Path("runs") / f"{name}-tuned"
    _run(encoder, overrides or (), corpora, classes, maps, {"lora": lora or 0, "last_blocks": last_blocks or 0}, folder,
         resumed=resume is not None, device=device)  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    if as_json:
        print(json.dumps({"encoder": str(folder), "metrics": metrics}, indent=2))
        return
    screen = console.stdout()
    screen.print(f"{folder}  next: mien extract INDEX --encoder {folder} --store DIR", markup=False)
    for key, value in metrics.items():
        if isinstance(value, float):
            screen.print(f"  {key:24}{value:.4f}", markup=False)


def _split(text: str, option: str, form: str) -> tuple[str, str]:
    left, equals, right = text.partition("=")
    if not left or not equals:
        raise typer.BadParameter(f"{text!r}: write it as {form}", param_hint=option)
    return left, right


def _run(
    encoder: str,
    overrides: Sequence[str],
    corpora: dict[str, Path],
    labels: list[str],
    maps: dict[str, dict[str, str | None]],
    changes: dict[str, int],
    out: Path,
    *,
    resumed: bool,
    device: str,
) -> None:
    from mien.checkpoint import torch_device
    from mien.encoders.images import ImageEncoder
    from mien.training.tuning import create_base, make_recipe, tune
    from mien.training.tuning_examples import load_faces, load_sounds
    from mien.training.tuning_network import TuningOptions

    recipe = make_recipe(encoder, corpora, labels, maps, changes, overrides)
    options = TuningOptions(**recipe.corpus.options)
    base = create_base(encoder, torch_device(device))
    with console.progress("reading examples", unit="files") as bar:
        if isinstance(base, ImageEncoder):
            train, val = load_faces(
                corpora, labels, maps, base.crop, align=options.align, seed=recipe.train.seed,
                workers=os.cpu_count() or 1, progress=bar,
            )  # fmt: skip
        else:
            train, val = load_sounds(corpora, labels, maps, options.window_s, progress=bar)
    console.stderr().print(f"{len(train)} examples to train on; {len(val) if val else 0} select the epoch")
    tune(recipe, base, train, val, out, resume=resumed, device=torch_device(device))
