"""Command line of the experiments: `python -m experiments NAME`, from a working copy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Long trainings and comparisons whose results docs/ publishes. They need a working copy of mien.

    Each experiment prints its scores. `python -m experiments NAME --help` describes one. Files go to the current
    folder unless options say otherwise.

    \b
    NAME            measures                                 two cores   writes
    ablation        the small flagship without its parts     1 hour      ablation.json
    emodb           the small flagship on EMO-DB's voices    minutes     nothing
    systems         all systems on the same recordings       45 minutes  systems.json, .svg
    few-labels      semi-supervised training, few labels     3 hours     few_labels.json, .svg
    affect          valence and arousal: streams, fusions    10 minutes  affect.json
    real-fusion     fusions of real faces and real voices    1 hour      real_fusion.json
    voice-transfer  the voice across speakers and corpora    30 minutes  encoded sessions

    With --keep, systems, few-labels and affect also save their table and the score of each recipe to
    src/mien/recipes/measured.json, from which `python bench/pages.py` updates README.md and docs/.

    Scripts: `python -m experiments.train_starter --help` trains the shipped checkpoint,
    `python -m experiments.train_voice --help` the voice network, `python -m experiments.who_speaks --help` measures who
    speaks in rendered pairs of people, and `python -m experiments.build_canonical_face`
    builds the canonical face.
    """,
)

EmoDB = Annotated[Path, typer.Option(metavar="DIR", help="Folder of EMO-DB's .wav files.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Overrides of the recipe.")]
Keep = Annotated[bool, typer.Option("--keep", help="Also save the table to src/mien/recipes/measured.json.")]
Out = Annotated[Path, typer.Option(help="All scores, as JSON.")]
WORKERS = os.cpu_count() or 1


@app.command()
def ablation(
    emodb: EmoDB,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each variant.")] = 5,
    out: Out = Path("ablation.json"),
    overrides: Overrides = None,
) -> None:
    """Measure the starter without each mechanism.

    Measures macro F1. Variants: the full model, no modality dropout, attention that is not safe, cross-entropy
    instead of focal loss, no voting, no smoothing, and each modality alone. Conditions: clean, half of the face
    missing in bursts, no face, no voice, noise at 0 dB. The test people are synthetic and in no training recording.
    Takes about an hour on two cores.

    \b
    Example:
      python -m experiments ablation --emodb emodb/wav --seeds 1
    """
    from experiments import ablation as experiment

    results = experiment.run(emodb=emodb, seeds=seeds, workers=WORKERS, overrides=overrides or ())
    out.write_text(json.dumps(results, indent=1))
    print(experiment.table(results))


@app.command()
def emodb(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of EMO-DB's .wav files.")],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each pair of speakers.")] = 1,
    overrides: Overrides = None,
) -> None:
    """Train on the voices of EMO-DB and measure macro F1 on speakers left out of training.

    Two speakers at a time are left out of training and tested; the score is the mean over the four pairs. Prints the
    score of each pair and of each seed, and writes nothing. Takes two to three minutes for each seed on two cores.

    \b
    Example:
      python -m experiments emodb emodb/wav --seeds 3
    """
    from experiments import emodb as experiment

    result = experiment.run(root, seeds=seeds, overrides=overrides or ())
    print("pairs " + ", ".join(f"{v:.3f}" for v in result["pairs"]))
    print("macro F1 " + ", ".join(f"{v:.3f}" for v in result["macro_f1"]))


@app.command()
def systems(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each system.")] = 3,
    only: Annotated[
        list[str] | None, typer.Option(metavar="SYSTEM", help="Train only this system; OUT keeps the other scores.")
    ] = None,
    out: Out = Path("systems.json"),
    plot: Annotated[
        Path, typer.Option(help="Robustness plot, SVG; that of valence and arousal is NAME_affect.svg beside it.")
    ] = Path("systems.svg"),
    keep: Keep = False,
) -> None:
    """Compare all systems on the same recordings.

    Measures macro F1, and mean CCC for valence and arousal, on clean and corrupted synthetic recordings. All
    systems have the starter's encoders as inputs, the same augmentation and the same number of steps, and each is
    also trained on one modality alone. The test people are in no training recording. Takes about 45 minutes on two
    cores.

    \b
    Example:
      python -m experiments systems --only prompted_tcn --seeds 1
    """
    from experiments import compare_systems as experiment
    from experiments import system_tables
    from mien.views.evaluation import robustness_svg

    scores = experiment.run(seeds=seeds, workers=WORKERS, names=only or ())
    rows = system_tables.save_rows(scores, out, keep_others=bool(only))
    plot.write_text(robustness_svg([r for r in rows if r["model"] in experiment.PLOTTED]))
    if va_rows := [r for r in rows if r["model"] in system_tables.CHAIN]:
        plot.with_stem(f"{plot.stem}_affect").write_text(robustness_svg(va_rows, affect=True))
    print(system_tables.table(rows))
    if keep:
        experiment.save_results(rows)


@app.command("few-labels")
def few_labels(
    ferplus: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of FER+; without it, only the digits are measured.")
    ] = None,
    faces: Annotated[Path, typer.Option(metavar="DIR", help="Folder of aligned faces, used again.")] = Path(
        "runs/starter/faces"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each variant, each with different labels.")] = 5,
    out: Annotated[Path, typer.Option(help="All scores, as JSON; trainings in it are not repeated.")] = Path(
        "few_labels.json"
    ),
    plot: Annotated[Path, typer.Option(help="Thresholds and pseudo-labels over the steps, SVG.")] = Path(
        "few_labels.svg"
    ),
    keep: Keep = False,
) -> None:
    """Measure training with few labels.

    Compares semi-supervised variants: labels only, the thresholds of FixMatch, Ada-CM and FreeMatch, ours, ours
    without each of its parts, and all labels. Tasks: the faces of FER+ with 400 to 4,000 labels, and scikit-learn's
    digits with 100 and 400. Takes about three hours on two cores. A stopped run continues when it is started again
    with the same OUT.

    \b
    Example:
      python -m experiments few-labels --ferplus ferplus --seeds 1
    """
    from experiments import few_labels as experiment

    tasks = [experiment.make_faces_task(ferplus, faces, workers=WORKERS)] if ferplus else []
    tasks.append(experiment.make_digits_task())
    finished = json.loads(out.read_text()) if out.exists() else []

    def save(rows: list[dict[str, object]]) -> None:
        out.write_text(json.dumps(rows, indent=0))

    rows = experiment.run(tasks, seeds=seeds, finished=finished, workers=WORKERS, on_rows=save)
    plot.write_text(experiment.plot(rows))
    print(experiment.table(rows))
    if keep:
        experiment.save_results(rows)


@app.command("real-fusion")
def real_fusion(
    ferplus: Annotated[Path, typer.Option(metavar="DIR", help="Folder of FER+.")],
    emodb: EmoDB,
    ravdess: Annotated[Path, typer.Option(metavar="DIR", help="Folder of RAVDESS speech, for testing only.")],
    work: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the starter's steps.")] = Path("runs/starter"),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings and pairings of each variant.")] = 5,
    out: Out = Path("real_fusion.json"),
) -> None:
    """Compare fusions of the face and the voice network of the starter on real faces and voices.

    Trains late fusion and the flagship on pairs of held-out FER+ faces and EMO-DB utterances, and prints the macro F1
    of seven classes on pairs of FER+ validation faces and RAVDESS utterances. Needs the steps of `make starter`. Takes
    about ten minutes for each seed on one core.

    \b
    Example:
      python -m experiments real-fusion --ferplus ferplus --emodb emodb/wav --ravdess ravdess --seeds 1
    """
    from experiments import real_fusion as experiment

    scores = experiment.run(
        face=work / "face", voice=work / "voice", ferplus=ferplus, emodb=emodb, voices=ravdess, work=work,
        seeds=seeds, workers=WORKERS,
    )  # fmt: skip
    out.write_text(json.dumps(scores, indent=1))
    print(experiment.table(scores))


@app.command("voice-transfer")
def voice_transfer(
    emodb: EmoDB,
    ravdess: Annotated[Path, typer.Option(metavar="DIR", help="Folder of RAVDESS speech; only scored on.")],
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each row.")] = 1,
    only: Annotated[list[str] | None, typer.Option(metavar="ROW", help="Measure only this row.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder of encoded sessions, used again.")] = Path("voice-sessions"),
) -> None:
    """Measure the voice network across speakers, languages and corpora.

    Prints macro F1 and the F1 of each class: on EMO-DB with two speakers left out, trained on EMO-DB and scored on
    RAVDESS, and the other way round. One row for each mechanism that is left out, and one for prosody alone.

    \b
    Example:
      python -m experiments voice-transfer --emodb emodb/wav --ravdess ravdess --only "all mechanisms"
    """
    from experiments import voice_transfer as experiment

    rows = [row for row in experiment.ROWS if not only or row.name in only]
    if not rows:
        known = ", ".join(row.name for row in experiment.ROWS)
        raise typer.BadParameter(f"no row {', '.join(only or ())}; rows are {known}")
    experiment.run(emodb, ravdess, cache, seeds=seeds, rows=rows, workers=WORKERS)


@app.command()
def affect(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of the whole chain.")] = 3,
    out: Out = Path("affect.json"),
    keep: Keep = False,
) -> None:
    """Measure valence and arousal by mean CCC.

    Systems: face, behaviour and voice alone, their mean, directed experts, and reliability fusion. Conditions:
    clean, and each stream missing or noisy. Also reports the weights of the reliability fusion. Takes about ten
    minutes on two cores.

    \b
    Example:
      python -m experiments affect --seeds 1
    """
    from experiments import valence_arousal as experiment

    rows = experiment.run(seeds=seeds, workers=WORKERS)
    out.write_text(json.dumps(rows, indent=1))
    print(experiment.table(rows))
    if keep:
        experiment.save_results(rows)


if __name__ == "__main__":
    app(prog_name="python -m experiments")
