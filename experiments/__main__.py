"""Command line of the long experiments: `python -m experiments NAME`, from a working copy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Long trainings and comparisons whose results docs/ publishes. They need a working copy of mien.",
)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Changes to the recipe.")]
EmoDB = Annotated[Path, typer.Option(metavar="DIR", help="Folder of EMO-DB's .wav files.")]


@app.command()
def ablation(
    emodb: EmoDB,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each variant.")] = 5,
    out: Annotated[Path, typer.Option(help="All figures, as JSON.")] = Path("ablation.json"),
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Changes to the recipe.")
    ] = None,
) -> None:
    """What each mechanism buys, on held-out people of the synthetic corpus: macro F1, mean and deviation over seeds.

    Variants: the full model, without modality dropout, attention that is not safe, cross-entropy for focal loss, no
    voting, no smoothing, and each modality alone. Conditions: clean, half the face missing in bursts, no face, no
    voice, noise at 0 dB. Takes about an hour on two cores.
    """
    from experiments import ablation as bench

    results = bench.run(emodb=emodb, seeds=seeds, workers=os.cpu_count() or 1, overrides=overrides or ())
    out.write_text(json.dumps(results, indent=1))
    print(bench.table(results))


@app.command()
def emodb(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of EMO-DB's .wav files.")],
    seeds: Annotated[int, typer.Option(min=1)] = 1,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Changes to the recipe.")
    ] = None,
) -> None:
    """Macro F1 on EMO-DB from the voice alone, two speakers left out at a time, averaged over the four pairs."""
    from experiments import emodb

    result = emodb.run(root, seeds=seeds, overrides=overrides or ())
    print("pairs " + ", ".join(f"{v:.3f}" for v in result["pairs"]))
    print("macro F1 " + ", ".join(f"{v:.3f}" for v in result["macro_f1"]))


@app.command()
def systems(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each system.")] = 3,
    only: Annotated[
        list[str] | None, typer.Option(metavar="SYSTEM", help="Just these; OUT keeps the others' figures.")
    ] = None,
    out: Annotated[Path, typer.Option(help="All figures, as JSON.")] = Path("systems.json"),
    plot: Annotated[
        Path,
        typer.Option(help="The robustness plot, SVG; that of valence and arousal lies beside it, NAME_affect.svg."),
    ] = Path("systems.svg"),
    keep: Annotated[bool, typer.Option("--keep", help="Also keep the figures beside the recipes.")] = False,
) -> None:
    """Every system on the same simulated recordings: tables of macro F1 and CCC, and how they bear damage, drawn.

    Equal inputs (the starter's encoders), people no training recording shows, each system also on one modality alone.
    About three quarters of an hour on two cores.
    """
    from experiments import compare_systems as bench
    from mien.views.evaluation import robustness

    found = bench.run(seeds=seeds, workers=os.cpu_count() or 1, names=only or ())
    rows = bench.save(found, out, keep_others=bool(only))
    plot.write_text(robustness([r for r in rows if r["model"] in bench.DRAWN]))
    if said := [r for r in rows if r["model"] in bench.CHAIN]:
        plot.with_stem(f"{plot.stem}_affect").write_text(robustness(said, affect=True))
    print(bench.table(rows))
    if keep:
        bench.remember(rows)


def _write(path: Path, rows: object) -> None:
    path.write_text(json.dumps(rows, indent=0))


@app.command("few-labels")
def few_labels(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each variant, each with other labels.")] = 5,
    out: Annotated[Path, typer.Option(help="All figures, as JSON; what is in it is not measured again.")] = Path(
        "few_labels.json"
    ),
    plot: Annotated[Path, typer.Option(help="Thresholds and pseudo-labels over time, SVG.")] = Path("few_labels.svg"),
    keep: Annotated[bool, typer.Option("--keep", help="Also keep the figures beside the recipes.")] = False,
) -> None:
    """Semi-supervised faces against labels alone, a fixed and an adaptive threshold, without each part, and all labels.

    On the synthetic corpus's rendered faces and on scikit-learn's digits, 10 and 40 labels a class. About two hours on
    two cores; stopped and called again, it goes on where it was.
    """
    from experiments import few_labels as bench

    workers = os.cpu_count() or 1
    tasks = [bench.faces(workers=workers), bench.digits()]
    before = json.loads(out.read_text()) if out.exists() else []
    rows = bench.run(tasks, seeds=seeds, done=before, workers=workers, each=lambda rows: _write(out, rows))
    plot.write_text(bench.plot(rows))
    print(bench.table(rows))
    if keep:
        bench.remember(rows)


@app.command()
def affect(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of the whole chain.")] = 3,
    out: Annotated[Path, typer.Option(help="All figures, as JSON.")] = Path("affect.json"),
    keep: Annotated[bool, typer.Option("--keep", help="Also keep the figures beside the recipes.")] = False,
) -> None:
    """Valence and arousal: face, behaviour and voice alone, their mean, directed experts, reliability fusion.

    On simulated recordings, clean and with each stream failing, with the weights that the fusion gives. About ten
    minutes on two cores.
    """
    from experiments import valence_arousal as bench

    rows = bench.run(seeds=seeds, workers=os.cpu_count() or 1)
    out.write_text(json.dumps(rows, indent=1))
    print(bench.table(rows))
    if keep:
        bench.remember(rows)


if __name__ == "__main__":
    app(prog_name="python -m experiments")
