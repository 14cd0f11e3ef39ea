"""`mien serve`: a server that predicts uploads."""

from __future__ import annotations

import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from mien.cli import console

#: Value of --token for a token that is made for this run.
AUTO = "auto"
_PACKAGES = ("fastapi", "uvicorn", "python_multipart", "websockets", "prometheus_client")


# Over 60 lines, because Typer reads the options from the signature.
def serve(
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. Any other than this machine's own needs --token; 0.0.0.0 is all."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8642,
    token: Annotated[
        str,
        typer.Option(
            envvar="MIEN_TOKEN",
            help="Secret that every request has to show; auto makes one and prints it. The variable MIEN_TOKEN keeps "
            "it out of the list of processes.",
        ),
    ] = "",
    public_url: Annotated[
        str, typer.Option("--public-url", metavar="URL", help="Address under which a proxy publishes this server.")
    ] = "",
    model: Annotated[
        list[str],
        typer.Option(
            help="Model that clients may use, as mien predict takes it: a name, the folder of a checkpoint or of an "
            "ensemble, an ONNX file with its card. May be given several times; the first is the default."
        ),
    ] = ["starter"],  # noqa: B006 (Typer copies it)
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Recordings predicted at a time, a process each; default: half the cores.",
        ),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Most jobs that wait; more uploads are told to come later.")] = 64,
    max_upload: Annotated[int, typer.Option("--max-upload", min=1, metavar="MB", help="Largest upload.")] = 2048,
    job_minutes: Annotated[float, typer.Option("--job-minutes", min=0.01, help="Longest time of a job.")] = 60.0,
    job_memory: Annotated[
        float, typer.Option("--job-memory", min=0.1, metavar="GB", help="Most memory of a worker.")
    ] = 4.0,
    keep: Annotated[
        float,
        typer.Option(min=0.01, metavar="MINUTES", help="Time after which the results of a job are deleted."),
    ] = 60.0,
    live: Annotated[int, typer.Option(min=0, max=64, help="Most live sessions at a time.")] = 2,
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for jobs, uploads and results; default: mien's data folder."),
    ] = None,
    ray: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Run the jobs on a Ray cluster: its address, or auto.")
    ] = "",
) -> None:
    """Serve predictions over HTTP, with a page.

    Programs send a recording to POST /v1/timelines and ask for its state and its timeline; mien.Client does that in
    Python. /openapi.json describes all routes, docs/SERVER.md explains them.

    Without options only programs of this machine can connect. With --host and --token others can, in plain HTTP: put a
    proxy with TLS before it (docs/SERVER.md).

    A recording is deleted as soon as it is predicted, its results after --keep minutes or by DELETE. Jobs that are
    accepted survive the end of the server: they go on when it starts again. No name of a file is kept or logged.

    \b
    Examples:
      mien serve
      mien serve --port 0 --workers 2 --keep 10
      mien serve --host 0.0.0.0 --token auto
      curl -F file=@clip.mp4 'http://127.0.0.1:8642/v1/timelines?report=true'

    Do not use it to watch people at work or in education: docs/RESPONSIBLE_USE.md.
    """
    from mien.errors import ConfigError

    lacking = [name for name in _PACKAGES if find_spec(name) is None]
    if lacking:
        raise ConfigError(
            f"the server needs {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not installed",
            follows="The server did not start.",
            remedy="Run pip install 'mien[serve]'.",
        )
    import platformdirs

    from mien.model_listing import describe
    from mien.serve.run import serve as run
    from mien.serve.settings import Settings, check_access, default_workers

    generated = token == AUTO
    secret = secrets.token_urlsafe(24) if generated else token
    check_access(host, secret)
    for name in model:
        describe(name)  # a mistyped name is an error now, not in every job
    settings = Settings(
        folder=(folder or platformdirs.user_data_path("mien") / "serve").absolute(),
        host=host,
        port=port,
        token=secret,
        public_url=public_url.rstrip("/"),
        models=tuple(model),
        workers=workers or default_workers(),
        queue=queue,
        upload_bytes=max_upload << 20,
        job_seconds=60 * job_minutes,
        job_bytes=int(job_memory * (1 << 30)),
        keep_seconds=60 * keep,
        live=live,
        ray=ray,
    )
    screen = console.stderr()

    def on_start(address: str) -> None:
        fragment = f"/#token={secret}" if generated else ""
        screen.print(f"mien serves {', '.join(model)} at {address}{fragment}", markup=False)
        reach = "only programs of this machine can connect" if settings.is_loopback else "other machines can connect"
        screen.print(f"{reach}; results are deleted {keep:g} minutes after a job; Ctrl-C ends the server", markup=False)

    run(settings, on_start)
