"""The application: routes of the HTTP interface, and the page. docs/SERVER.md describes them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from mien import __version__
from mien.errors import MienError
from mien.serve import openapi_page, partial_rows, results
from mien.serve.guard import Guard
from mien.serve.jobs import DONE, FAILED, QUEUED, RUNNING, Job
from mien.serve.live_session import run_session
from mien.serve.metrics import CONTENT_TYPE
from mien.serve.options import OptionsOf, ServiceOf
from mien.serve.responses import NiceJSON, RequestError, error_response, shortened
from mien.serve.service import Service
from mien.serve.upload import receive_upload
from mien.views.palette import class_colours, text_colour
from mien.views.render import FOLDER

#: Files of the page, served at `/` as they are, and those that it shares with the report.
PAGE = Path(__file__).with_name("page")
SHARED = {f"/{name}": FOLDER / name for name in ("base.css", "mapping.js", "drawing.js")}
#: Seconds between two looks at a job that a client waits for.
LOOK_EVERY_S = 0.05
#: A report is one file with its own script, style, pictures and sound. It may run them and load nothing.
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads allow-popups; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; media-src data: blob:; frame-ancestors 'self'"
)


def create_app(service: Service) -> FastAPI:
    """The application of a server. Its jobs run while the application does."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.pool.start()
        yield
        await run_in_threadpool(service.stop)

    app = FastAPI(
        title="mien",
        version=__version__,
        description="Expression, valence and arousal of each person in a recording, from face and voice.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        default_response_class=NiceJSON,
    )
    app.state.service = service
    app.include_router(ROUTES)
    for address, path in SHARED.items():
        app.add_route(address, _sender(path))
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    app.add_exception_handler(MienError, _on_mien_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    settings, known = service.settings, _open_paths()
    app.add_middleware(
        Guard,
        token=settings.token,
        loopback=settings.is_loopback,
        public=settings.public_url,
        is_open=lambda path, query: path in known or service.tickets.use(path, query),
        on_response=lambda scope, status: _count(service, scope, status),
    )
    return app


def _sender(path: Path) -> Callable[[Request], Awaitable[Response]]:
    async def send(request: Request) -> Response:
        return FileResponse(path)

    return send


def _open_paths() -> frozenset[str]:
    """What needs no token: health checks, and the page and its files, which hold nothing of anybody."""
    files = ("/" + path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.is_file())
    return frozenset(("/healthz", "/docs", "/", *SHARED, *files))


def _count(service: Service, scope: Scope, status: int) -> None:
    route = getattr(scope.get("route"), "path", "other") or "page"
    method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
    service.metrics.requests.labels(method, route, str(status)).inc()


# --- errors ----------------------------------------------------------------------------------------------


def _on_mien_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MienError)
    return error_response(error)


def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = first["loc"][-1]
    return error_response(
        RequestError(
            HTTPStatus.UNPROCESSABLE_ENTITY, f"{name} {shortened(first['input'])}: {first['msg']}",
            follows="Nothing was accepted.", remedy="GET /openapi.json lists the options and their ranges.",
        )
    )  # fmt: skip


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(
        RequestError(
            error.status_code, f"{request.method} {shortened(request.url.path)}: {error.detail.lower()}",
            follows="Nothing was done.",
            remedy="GET /openapi.json lists all routes.", headers=error.headers,
        )
    )  # fmt: skip


def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody reads it


# --- routes ----------------------------------------------------------------------------------------------

ROUTES = APIRouter()


def _job(service: ServiceOf, job_id: str) -> Job:
    job = service.store.get(job_id)
    if job is None:
        raise RequestError(
            HTTPStatus.NOT_FOUND, "there is no such timeline", follows="Nothing was done.",
            remedy="Upload the recording again. Timelines are deleted on request, and "
            f"{service.settings.keep_seconds / 60:g} minutes after their end.",
        )  # fmt: skip
    return job


JobOf = Annotated[Job, Depends(_job)]
WaitOf = Annotated[float, Query(ge=0, le=30, allow_inf_nan=False, description="Longest time to wait, seconds.")]


@ROUTES.post("/v1/timelines", status_code=HTTPStatus.ACCEPTED, summary="Upload a recording")
async def create_timeline(request: Request, service: ServiceOf, options: OptionsOf) -> Any:
    """Accept a recording as a job: a form with one file, or the bytes of the recording (then the header X-File-Name
    may give its name, of which only the suffix is used). Returns the job; the header Location is its address."""
    store, settings = service.store, service.settings
    job_id = store.new_id()
    path = store.incoming / job_id
    try:
        with service.reserve():
            suffix = await receive_upload(
                request, path, limit=settings.upload_bytes, idle_seconds=settings.idle_seconds
            )
            if await request.is_disconnected():  # cancelled: nobody would know the job
                raise ClientDisconnect
            job = await run_in_threadpool(store.add, job_id, path, suffix, options)
    except RequestError as error:
        error.headers["connection"] = "close"  # the rest of the body is not read
        raise
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
    service.metrics.upload_bytes.inc(job.size)
    await run_in_threadpool(service.pool.wake)
    return NiceJSON(
        _record(service, job), status_code=HTTPStatus.ACCEPTED, headers={"location": f"/v1/timelines/{job.id}"}
    )


@ROUTES.get("/v1/timelines", summary="List all jobs")
def list_timelines(service: ServiceOf) -> Any:
    """The jobs that are there, the newest first."""
    return NiceJSON({"timelines": [_record(service, job) for job in service.store.all()]})


@ROUTES.get("/v1/timelines/{job_id}", summary="State of a job")
async def get_timeline(
    service: ServiceOf,
    job: JobOf,
    wait: WaitOf = 0.0,
) -> Any:
    """State (queued, running, done, failed), progress from 0 to 1, the reason of a failure, links to the results. With
    wait, the answer comes when the state has changed or a tenth more is done, or after that time."""
    if wait and job.state in (QUEUED, RUNNING):
        await _change(service, job, wait)
        job = await run_in_threadpool(_job, service, job.id)
    return NiceJSON(await run_in_threadpool(_record, service, job))


async def _change(service: Service, job: Job, seconds: float, is_ready: Callable[[], bool] = lambda: False) -> None:
    """Wait until a job starts or ends, a tenth more of it is done, or `is_ready`."""
    progress, end, looks = service.pool.progress, time.monotonic() + seconds, 0
    first = progress.get(job.id)
    while time.monotonic() < end and not is_ready():
        # The database is asked at once and then rarely: a job may start and end between two looks at its progress.
        if looks % 20 == 0:
            found = await run_in_threadpool(service.store.get, job.id)
            if found is None or found.state != job.state:
                return
        looks += 1
        await asyncio.sleep(LOOK_EVERY_S)
        now = progress.get(job.id)
        if (now is None) != (first is None) or (now is not None and first is not None and now - first >= 0.1):
            return


@ROUTES.delete("/v1/timelines/{job_id}", status_code=HTTPStatus.NO_CONTENT, summary="Delete a job")
def delete_timeline(service: ServiceOf, job: JobOf) -> Response:
    """Delete everything of a job; one that runs is ended."""
    service.pool.cancel(job.id)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@ROUTES.get("/v1/timelines/{job_id}/timeline.{suffix}", summary="The timeline as a file")
def get_file(service: ServiceOf, job: JobOf, suffix: str) -> Any:
    """The table of a finished job: csv, parquet, jsonl, and what else GET /v1/models lists as formats."""
    path = results.file_of(service.store, job, f".{suffix}")
    kind = results.MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    return FileResponse(path, media_type=kind, filename=path.name)


@ROUTES.get("/v1/timelines/{job_id}/report", summary="The report page")
def get_report(service: ServiceOf, job: JobOf) -> Any:
    """The report of a finished job as one HTML file; with the recording in it if the upload had ?report=true."""
    path = results.report_of(service.store, job)
    headers = {"content-security-policy": REPORT_POLICY}
    return FileResponse(path, media_type="text/html; charset=utf-8", headers=headers)


@ROUTES.post("/v1/timelines/{job_id}/ticket", summary="A link to the report for a browser")
def create_ticket(service: ServiceOf, job: JobOf) -> Any:
    """A link to the report that works once, for a minute, without a token: a browser cannot send one with a link."""
    results.check_done(job)
    return NiceJSON({"link": service.tickets.issue(f"/v1/timelines/{job.id}/report")})


@ROUTES.get("/v1/timelines/{job_id}/rows", summary="Rows of the timeline as JSON, also while the job runs")
async def get_rows(
    service: ServiceOf,
    job: JobOf,
    after: Annotated[int, Query(ge=0, description="Number of rows that you have.")] = 0,
    limit: Annotated[int, Query(ge=1, le=results.MAX_ROWS, description="Most rows of the answer.")] = 1000,
    run: Annotated[str, Query(max_length=20, description="The run of the rows that you have.")] = "",
    wait: WaitOf = 0.0,
) -> Any:
    """Rows from number `after` on. While the job runs, those of a video so far are provisional (`final` is false), at
    most ten a second of each person; the final ones replace them. Send `next` as `after` and `run` as they are in the
    next request: where the run is another one by then, the answer begins anew, with `first` 0. `last` says that no more
    rows follow. With wait, the answer comes when there is one more row, or news as of the job, or after that time."""
    if wait and job.state in (QUEUED, RUNNING) and results.run_of(job) == (run or results.run_of(job)):
        folder = service.store.folder_of(job.id)
        await _change(service, job, wait, lambda: partial_rows.count(folder) > after)
        job = await run_in_threadpool(_job, service, job.id)
    return NiceJSON(await run_in_threadpool(results.rows_of, service.store, job, after, limit, run))


@ROUTES.get("/v1/models", summary="Models, formats and limits")
def get_models(service: ServiceOf) -> Any:
    """The models that this server offers, the formats of results, and the limits of an upload."""
    from mien.model_listing import describe

    settings = service.settings
    keep = ("name", "kind", "classes", "valence_arousal", "licence", "figures", "missing", "problem")
    found = [asdict(describe(name)) for name in settings.models]
    return NiceJSON(
        {
            "models": [{key: model[key] for key in keep} | _colours(model["classes"]) for model in found],
            "formats": results.formats(),
            "limits": {
                "upload_bytes": settings.upload_bytes,
                "job_seconds": settings.job_seconds,
                "keep_seconds": settings.keep_seconds,
            },
        }
    )


@ROUTES.websocket("/v1/live")
async def live(websocket: WebSocket) -> None:
    """Pictures and sound up, rows down; see docs/SERVER.md."""
    await run_session(websocket, websocket.app.state.service)


@ROUTES.get("/healthz", summary="Health check")
async def health() -> Any:
    """Says that the server answers. Needs no token."""
    return NiceJSON({"status": "ok", "version": __version__})


@ROUTES.get("/docs", include_in_schema=False)
def get_docs(request: Request) -> Response:
    """The routes as a page."""
    return HTMLResponse(openapi_page.render(request.app.openapi()))


@ROUTES.get("/metrics", summary="Figures for Prometheus")
def get_metrics(service: ServiceOf) -> Response:
    """Numbers of requests and jobs, times and sizes."""
    for state, number in service.store.counts().items():
        service.metrics.present.labels(state).set(number)
    return Response(service.metrics.text(), media_type=CONTENT_TYPE)


def _record(service: Service, job: Job) -> dict[str, Any]:
    """A job as JSON holds it."""
    address = f"/v1/timelines/{job.id}"
    progress = 1.0 if job.state == DONE else service.pool.progress.get(job.id, 0.0)
    record: dict[str, Any] = {
        "id": job.id,
        "state": job.state,
        "progress": round(progress, 3),
        "created": _time(job.created),
        "size": job.size,
        "options": asdict(job.options),
        "links": {"self": address},
    }
    if job.state == QUEUED:
        record["before"] = service.store.position(job)
    if job.finished is not None:
        record["seconds"] = round(job.finished - (job.started or job.created), 3)
        record["deleted_at"] = _time(job.finished + service.settings.keep_seconds)
    if job.state == FAILED:
        record["reason"] = job.outcome
    if job.state == DONE:
        record |= job.outcome
        record["links"] |= {kind: f"{address}/timeline.{kind}" for kind in results.formats()}
        record["links"] |= {"report": f"{address}/report", "rows": f"{address}/rows"}
    return record


def _colours(classes: list[str]) -> dict[str, Any]:
    """The colours of classes in all views of mien, and of text on them."""
    return {"colours": {name: {"fill": c, "text": text_colour(c)} for name, c in class_colours(classes).items()}}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
