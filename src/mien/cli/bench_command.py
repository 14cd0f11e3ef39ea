"""`mien bench`: compare models on labelled files of real people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mien.cli import console

if TYPE_CHECKING:
    from rich.table import Table

    from mien.benchmark.corpora import LabelledFiles
    from mien.benchmark.pairs import PairScores
    from mien.benchmark.predict_files import FilePredictions
    from mien.benchmark.scores import CorpusScores
    from mien.predict import Predictor

#: Models that are compared without --model, if they are installed.
DEFAULT_MODELS = ("starter", "fer", "face-api")
#: Short names of the classes, so that the table of eight fits into 80 columns.
_SHORT = {
    "Neutral": "Neut", "Anger": "Anger", "Disgust": "Disg", "Fear": "Fear", "Happiness": "Happ", "Sadness": "Sad",
    "Surprise": "Surp", "Other": "Other",
}  # fmt: skip

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def bench() -> None:
    """Compare models on labelled files of real people.

    \b
    Example:
      mien bench real FERPlus RAVDESS EmoDB
    """


# Over 60 lines, because Typer reads the options from the signature.
@app.command(no_args_is_help=True)
def real(
    corpora: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CORPUS=]DIR...",
            help="Folders of corpora: FER+, RAVDESS, EMO-DB, CREMA-D, EMOVO, TESS, SAVEE, MELD, or folders of images "
            "named after the classes. The layout tells the corpus; otherwise name it, such as ravdess=DIR.",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="As mien predict --model; repeatable. Default: starter, fer and face-api, if they are here."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="train, val, test or all. Default: the test split, else val, else all files."),
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Score N random files of each corpus, not all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sample and of the pairs.")] = 0,
    no_face: Annotated[bool, typer.Option("--no-face", help="Use the voice alone.")] = False,
    no_voice: Annotated[bool, typer.Option("--no-voice", help="Use the face alone.")] = False,
    conditions: Annotated[
        bool,
        typer.Option(
            "--conditions",
            help="Also score images enlarged four times, with JPEG quality 40, with a grey lower half, and mirrored; "
            "and voices with all files of a person in one recording.",
        ),
    ] = False,
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="FACES VOICES",
            help="Two corpora: faces of the first are paired with random voices of the second of the same class.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="As mien predict --device.")] = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all figures to this file.")
    ] = None,
) -> None:
    """Score models on public corpora of real people.

    Predicts each file as mien predict does and gives it one class: the highest mean probability over the rows of the
    person most seen, or over speech where there is no face. A file without a prediction (column missed) counts as
    wrong. Prints macro F1 over the classes of the corpus with its 95 % interval, accuracy, expected calibration error
    (ECE), F1 of each class, and macro F1 by sex and age where the corpus states them. See docs/real_people.md.

    \b
    Examples:
      mien bench real FERPlus RAVDESS EmoDB
      mien bench real ravdess=/data/speech --model starter --model runs/mine --sample 200
      mien bench real FERPlus --no-voice --conditions --json real.json
      mien bench real --pair FERPlus RAVDESS --model fer
    """
    if no_face and no_voice:
        raise typer.BadParameter("--no-face and --no-voice together leave nothing to predict from")
    if split not in (None, "train", "val", "test", "all"):
        raise typer.BadParameter(f"{split!r} is none of train, val, test and all", param_hint="--split")
    if not corpora and pair is None:
        raise typer.BadParameter("name a corpus's folder, or two with --pair", param_hint="[CORPUS=]DIR")
    console.hide_log()
    if json_file is not None:
        from mien.atomic import check_folder

        check_folder(json_file.parent)
    models = _load_models(model, device)
    loaded = [_load_corpus(text, split, sample, seed) for text in corpora or ()]
    paired = [_load_corpus(text, split, sample, seed) for text in pair or ()]
    results: list[CorpusScores] = []
    pairs: list[PairScores] = []
    for predictor in models:
        for corpus in loaded:
            results += _score_corpus(predictor, corpus, not no_face, not no_voice, conditions)
        if paired:
            pairs += _score_pairs(predictor, paired[0], paired[1], seed)
    _print_results(results)
    _print_pairs(pairs, paired)
    if json_file is not None:
        _write_json(json_file, results, pairs)


def _load_models(names: Sequence[str] | None, device: str) -> list[Predictor]:
    """Predictors of the models; of the default ones, those that are here, with a note on the others."""
    from mien.model_listing import describe
    from mien.predict import load

    models = []
    for name in names or DEFAULT_MODELS:
        missing = "" if names else describe(name).missing
        if missing:
            _note(f"{name} is not here and is left out: {missing}")
        else:
            models.append(load(name, device=device))
    return models


def _load_corpus(text: str, split: str | None, sample: int | None, seed: int) -> LabelledFiles:
    from mien.benchmark.corpora import load_files

    with console.progress(f"reading {text}", unit="files") as progress:
        return load_files(text, split, progress=progress).sample(sample, seed)


def _score_corpus(
    predictor: Predictor, corpus: LabelledFiles, face: bool, voice: bool, conditions: bool
) -> list[CorpusScores]:
    """Scores of a model on a corpus, also under each condition that fits its files."""
    from mien.benchmark.predict_files import CONDITIONS, JOINED
    from mien.benchmark.scores import score

    scores = []
    fitting: list[str] = []
    if conditions and all(file.is_image for file in corpus.files):
        fitting = list(CONDITIONS)
    elif conditions and voice and all(file.is_sound and file.subject for file in corpus.files):
        fitting = [JOINED]
    for condition in ("", *fitting):
        predictions = _predict(predictor, corpus, face=face, voice=voice, condition=condition)
        scores.append(score(corpus, predictions, model=predictor.name, condition=condition))
    return scores


def _predict(predictor: Predictor, corpus: LabelledFiles, **options: Any) -> FilePredictions:
    from mien.benchmark.predict_files import predict_files

    title = f"{predictor.name} on {corpus.corpus}" + (f", {options['condition']}" if options.get("condition") else "")
    with console.progress(title, unit="files") as progress:
        return predict_files(predictor, corpus, progress=progress, **options)


def _score_pairs(predictor: Predictor, faces: LabelledFiles, voices: LabelledFiles, seed: int) -> list[PairScores]:
    from mien.benchmark.pairs import score_pairs
    from mien.errors import ConfigError

    scores = score_pairs(
        (faces, _predict(predictor, faces, voice=False)),
        (voices, _predict(predictor, voices, face=False)),
        model=predictor.name,
        seed=seed,
    )
    if scores is None:
        raise ConfigError(
            f"{faces.root} ({faces.corpus}) and {voices.root} ({voices.corpus}) share no class",
            follows="No pairs were scored.",
            remedy="Choose two corpora with some of the same expressions.",
        )
    return [scores]


def _print_results(results: Sequence[CorpusScores]) -> None:
    """Print the tables: all figures, F1 of each class, groups of people, and conditions; then notes."""
    from mien.benchmark.predict_files import JOINED

    if not results:
        return
    corpora = list(dict.fromkeys(r.corpus for r in results))
    order = sorted(results, key=lambda r: corpora.index(r.corpus))
    plain = [r for r in order if not r.condition]
    _print_table("", _main_table(plain))
    _print_table("F1 of each class", _class_table(plain))
    if any(r.groups for r in plain):
        _print_table("Macro F1 of groups of people", _group_table(plain))
    if len(plain) < len(order):
        for title, is_joined in (("Macro F1 on changed images", False), ("Macro F1 of voices", True)):
            changed = {r.corpus for r in order if r.condition and (r.condition == JOINED) == is_joined}
            if changed:
                _print_table(title, _condition_table([r for r in order if r.corpus in changed]))
    for line in _notes(order):
        _note(line)


def _print_table(title: str, table: Table) -> None:
    screen = console.stdout()
    if title:
        screen.print(title, style="bold")
    screen.print(table)
    screen.print()


def _main_table(results: Sequence[CorpusScores]) -> Table:
    right = ("files", "people", "missed", "accuracy", "ECE")
    table = console.table("corpus", "model", "files", "people", "missed", "macro F1 [95 %]", *right[3:], right=right)
    for r in results:
        people = str(r.subjects) if r.subjects else "–"
        interval = f"{_figure(r.macro_f1.value)} [{_figure(r.macro_f1.low, 2)}, {_figure(r.macro_f1.high, 2)}]"
        counts = str(r.files), people, str(r.without_prediction)
        table.add_row(*_name(r), *counts, interval, _figure(r.accuracy.value), _figure(r.calibration_error))
    return table


def _class_table(results: Sequence[CorpusScores]) -> Table:
    names = [name for name in _SHORT if any(name in r.f1 for r in results)]
    titles = [_SHORT[name] for name in names]
    table = console.table("corpus", "model", *titles, right=tuple(titles))
    for r in results:
        table.add_row(*_name(r), *(_figure(r.f1[name]) if name in r.f1 else "–" for name in names))
    return table


def _group_table(results: Sequence[CorpusScores]) -> Table:
    table = console.table("corpus", "model", "group", "files", "macro F1", right=("files", "macro F1"))
    for r in results:
        for group in r.groups:
            table.add_row(*_name(r), group.group, str(group.files), _figure(group.macro_f1))
    return table


def _condition_table(results: Sequence[CorpusScores]) -> Table:
    """One row for each corpus and model, one column for each condition."""
    from mien.benchmark.predict_files import JOINED

    conditions = list(dict.fromkeys(r.condition for r in results))
    titles = [condition or ("alone" if JOINED in conditions else "unchanged") for condition in conditions]
    table = console.table("corpus", "model", *titles, right=tuple(titles))
    found = {(_name(r), r.condition): r.macro_f1.value for r in results}
    for name in dict.fromkeys(_name(r) for r in results if r.condition):
        table.add_row(*name, *(_figure(found[name, condition]) for condition in conditions))
    return table


def _name(scores: CorpusScores) -> tuple[str, str]:
    """The first two cells of a row: the corpus with its split, and the model."""
    return f"{scores.corpus} {scores.split}", scores.model


def _notes(results: Sequence[CorpusScores]) -> list[str]:
    """What limits the figures, each corpus once."""
    from mien.benchmark.corpora import SEEN_IN_TRAINING
    from mien.evaluation.bootstrap import FEW_GROUPS

    notes = []
    for r in results:
        if r.corpus in SEEN_IN_TRAINING and r.model in DEFAULT_MODELS:
            notes.append(f"{r.corpus}: {SEEN_IN_TRAINING[r.corpus]}")
        if not r.subjects:
            notes.append(f"{r.corpus}: the people are unknown, so the interval resamples files; it may be too narrow")
        elif r.subjects < FEW_GROUPS:
            people = "1 person" if r.subjects == 1 else f"{r.subjects} people"
            more = "" if r.split == "all" else "; --split all scores more"
            notes.append(f"{r.corpus}: {people} only, so the interval is too narrow{more}")
        if r.first_error and r.without_prediction:
            notes.append(f"{r.model} on {r.corpus}: files could not be read, the first because: {r.first_error}")
    return list(dict.fromkeys(notes))


def _print_pairs(pairs: Sequence[PairScores], corpora: Sequence[LabelledFiles]) -> None:
    if not pairs:
        return
    faces, voices = corpora
    weights = [weight for weight in pairs[0].by_weight if weight > 0]
    titles = ["face alone", "voice alone", *(_figure(weight, 1) for weight in weights)]
    table = console.table("model", *titles, right=tuple(titles))
    for r in pairs:
        table.add_row(r.model, _figure(r.face), _figure(r.voice), *(_figure(r.by_weight[weight]) for weight in weights))
    _print_table("Macro F1 of faces paired with voices, by weight of the voice", table)
    _note(
        f"{pairs[0].pairs} faces of {faces.corpus}, each with a random voice of {voices.corpus} of the same class "
        f"({', '.join(pairs[0].classes)}); means of five draws. Face and voice belong to different people, which "
        "favours every combination"
    )


def _figure(value: float, decimals: int = 3) -> str:
    """A share without its leading zero; a dash for NaN."""
    return "–" if value != value else f"{value:.{decimals}f}".removeprefix("0")


def _note(text: str) -> None:
    from rich.text import Text

    console.stderr().print(Text.assemble(("note  ", "yellow"), text))


def _write_json(path: Path, results: Sequence[CorpusScores], pairs: Sequence[PairScores]) -> None:
    from dataclasses import asdict

    from mien.atomic import atomic_path

    record = {"corpora": [r.record() for r in results], "pairs": [asdict(r) for r in pairs]}
    with atomic_path(path) as temporary:
        Path(temporary).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
