"""The command line. Nothing heavy is imported here: `mien --help` answers at once."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mien.cli import (
    console,
    demo_command,
    derive_command,
    doctor,
    evaluate_command,
    export_command,
    extract_commands,
    hub_command,
    predict_command,
    reproduce_command,
    submission_commands,
    synthetic_command,
    train_command,
)
from mien.errors import MienError


class Group(TyperGroup):
    """Turns a MienError of any command into words and an exit code; other errors keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MienError as error:
            console.show(error)
            raise typer.Exit(error.exit_code) from None


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's panels would double the time that --help takes
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="What each person in a video shows, at every moment, from face and voice together.",
    epilog="Start with:  mien predict clip.mp4 --report",
)


def _version(asked: bool) -> None:
    if asked:
        from mien import __version__

        print(f"mien {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    console.show_log()


app.command(no_args_is_help=True)(predict_command.predict)
app.command()(demo_command.demo)
app.command(no_args_is_help=True)(synthetic_command.synthetic)
app.command(no_args_is_help=True)(train_command.train)
app.command()(train_command.recipes)
app.command(no_args_is_help=True)(derive_command.derive)
app.command(no_args_is_help=True)(evaluate_command.evaluate)
app.command(no_args_is_help=True)(reproduce_command.reproduce)
app.command(no_args_is_help=True)(export_command.export)
extract_commands.register(app)
submission_commands.register(app)
app.add_typer(hub_command.app, name="hub")
app.command()(doctor.doctor)


def main() -> None:
    """The `mien` command."""
    app(prog_name="mien")
