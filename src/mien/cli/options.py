"""Arguments and options that several commands share, each declared once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="The name of a recipe (see mien recipes), or a YAML file.")
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value]...", help="Changes to the recipe, such as train.epochs=20."),
]
IndexArgument = Annotated[Path, typer.Argument(metavar="INDEX", help="The index file that mien index wrote.")]
CheckpointArgument = Annotated[
    str, typer.Argument(metavar="CHECKPOINT", help="The folder of a trained checkpoint, or starter.")
]

StoreOption = Annotated[Path, typer.Option(metavar="DIR", help="The feature store (see mien extract).")]
OptionalStoreOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The feature store (see mien extract); goes with --index.")
]
OptionalIndexOption = Annotated[
    Path | None, typer.Option(metavar="INDEX", help="The index file (see mien index); goes with --store.")
]
RootOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The folder of the corpus, if it was moved after mien index.")
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        help="Task that selects labels and splits: expr, va, au (action units), ce (compound expressions, for "
        "evaluation) or emi (mimicry intensity); by default what the system predicts."
    ),
]
TableOption = Annotated[
    Path | None, typer.Option(metavar="CSV", help="The CSV file of labels, for the corpus called folder.")
]
#: Names of `mien.datasets.index.CORPORA`, which the help shows without importing the readers.
CORPUS_NAMES = "aff-wild2, crema-d, emodb, emovo, ferplus, meld, ravdess, savee, tess, vidmimic2, synthetic or folder"
StageOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=RUN", help="A trained stage and the encoder name of its features; repeatable."),
]
SampleOption = Annotated[
    Path, typer.Option(metavar="FILE", help="The organisers' sample file, of the EXPR, VA, AU, CE or EMI track.")
]
WeightsOption = Annotated[
    str | None,
    typer.Option(metavar="W,W...", help="Weights of several models, in their order, such as 0.7,0.3; default: equal."),
]
FeaturesOption = Annotated[
    bool,
    typer.Option(
        "--features",
        help="Also write features.csv (or as --format): head pose, blinks, lids, mouth, brows, pitch, energy and "
        "more for each row of the timeline (docs/FEATURES.md). Faces are then read in every frame.",
    ),
]
GazeOption = Annotated[
    bool,
    typer.Option(
        "--gaze",
        help="--features with the direction of the gaze (gaze_angle_x; up and down, gaze_angle_y, is only coarse) and "
        "the irises; downloads 4 MB once.",
    ),
]
BlendshapesOption = Annotated[
    bool,
    typer.Option(
        "--blendshapes",
        help="--features with the 52 blendshapes of MediaPipe (jawOpen, mouthSmileLeft, ...); downloads 4 MB once.",
    ),
]
LandmarksOption = Annotated[
    bool, typer.Option("--landmarks", help="--features with 68 landmarks in pixels: x_0 to x_67, y_0 to y_67.")
]
RobustnessOption = Annotated[bool, typer.Option(help="Also score with missing, noisy and delayed streams of features.")]
VerifyOption = Annotated[
    bool, typer.Option(help="Compare the features with their checksums first; takes about a second a GB.")
]
DeviceOption = Annotated[str, typer.Option(help="auto (a GPU if there is one, else the CPU), cpu or cuda.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def parse_stages(values: Iterable[str]) -> dict[str, Path]:
    """`NAME=RUN` of `StageOption` -> encoder name -> folder. Raises BadParameter for another form, or no checkpoint."""
    stages = {}
    for value in values:
        name, equals, folder = value.partition("=")
        if not equals or not (Path(folder) / "checkpoint.json").is_file():
            reason = f"{folder} holds no checkpoint" if equals else "write it as NAME=FOLDER"
            raise typer.BadParameter(f"{value!r}: {reason}", param_hint="--stage")
        stages[name] = Path(folder)
    return stages
