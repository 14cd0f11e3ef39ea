"""The `mien` command. Heavy libraries are imported inside the commands, so that `mien --help` is fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from mien import extras
from mien.cli import (
    bench_command,
    compare_command,
    console,
    convert_command,
    demo_command,
    derive_command,
    doctor,
    ensemble_command,
    evaluate_command,
    export_command,
    extract_commands,
    hub_command,
    live_command,
    models_command,
    people_command,
    predict_command,
    process,
    reproduce_command,
    serve_command,
    submission_commands,
    synthetic_command,
    train_command,
    tune_command,
    turns_command,
)
from mien.errors import MienError

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter

#: Sections of `mien --help`, and their commands in the order of use.
SECTIONS = {
    "Predict": ("demo", "predict", "live", "serve", "convert", "turns", "compare", "people", "models", "doctor", "hub"),
    "Prepare a corpus": ("synthetic", "index", "extract", "store"),
    "Train and evaluate": (
        "recipes", "tune", "train", "ensemble", "derive", "evaluate", "bench", "reproduce", "export",
    ),
    "Take part in the ABAW challenge": ("submit", "validate"),
}  # fmt: skip


#: Command -> the extra that brings what it needs beyond the base installation; `train` for the others.
EXTRAS = {
    "predict": "encoders", "models": "encoders", "hub": "encoders", "doctor": "encoders",
    "demo": "synthetic", "synthetic": "synthetic", "export": "export",
    "serve": "serve", "live": "live",
}  # fmt: skip


class Group(TyperGroup):
    """Command group that prints a MienError or a missing extra without a traceback, and exits with its code."""

    def invoke(self, ctx: Context) -> object:
        """Run a command; a MienError, or a missing extra, ends it with its message and exit code."""
        try:
            with process.interruptible():
                return super().invoke(ctx)
        except MienError as error:
            console.print_error(error)
            raise typer.Exit(error.exit_code) from None
        except ModuleNotFoundError as error:
            if not extras.is_missing(error):
                raise
            command = ctx.invoked_subcommand or ""
            told = extras.missing(
                str(error.name), f"mien {command}", preferred=EXTRAS.get(command, "train"), follows="It was not run."
            )
            console.print_error(told)
            raise typer.Exit(told.exit_code) from None

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the commands by SECTIONS."""
        width = formatter.width - 6 - max(map(len, self.commands))
        for title, names in SECTIONS.items():
            rows = [(name, self.commands[name].get_short_help_str(width)) for name in names if name in self.commands]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=12)


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's panels would double the time that --help takes
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Recognise emotions over time in video and sound: expression, valence and arousal of each person, from face "
    "and voice together.",
    epilog="Start with: mien predict clip.mp4 --report",
)


def _print_version(requested: bool) -> None:
    if requested:
        from mien import __version__

        print(f"mien {__version__}")
        raise typer.Exit


@app.callback()
def start(  # noqa: D103  (Typer would show a docstring as help)
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    console.show_log()


app.command()(demo_command.demo)
app.command(no_args_is_help=True)(predict_command.predict)
app.command(no_args_is_help=True)(live_command.live)
app.command()(serve_command.serve)
app.command(no_args_is_help=True)(convert_command.convert)
app.command(no_args_is_help=True)(turns_command.turns)
app.command(no_args_is_help=True)(compare_command.compare)
app.command(no_args_is_help=True)(people_command.people)
app.command()(models_command.models)
app.command()(doctor.doctor)
app.add_typer(hub_command.app, name="hub")
app.command(no_args_is_help=True)(synthetic_command.synthetic)
extract_commands.register(app)
app.command()(train_command.recipes)
app.command(no_args_is_help=True)(tune_command.tune)
app.command(no_args_is_help=True)(train_command.train)
app.command(no_args_is_help=True)(ensemble_command.ensemble)
app.command(no_args_is_help=True)(derive_command.derive)
app.command(no_args_is_help=True)(evaluate_command.evaluate)
app.add_typer(bench_command.app, name="bench")
app.command(no_args_is_help=True)(reproduce_command.reproduce)
app.command(no_args_is_help=True)(export_command.export)
submission_commands.register(app)


def main() -> None:
    """Run the `mien` command."""
    process.run(lambda: app(prog_name="mien"))
