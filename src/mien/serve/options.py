"""Options of an upload, as they stand in the query of its address."""

from __future__ import annotations

from dataclasses import fields
from difflib import get_close_matches
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Query, Request

from mien.serve.jobs import JobOptions
from mien.serve.responses import RequestError, shortened
from mien.serve.service import Service


async def service_of(request: Request) -> Service:  # async, because others are called in a thread
    """The service of the application."""
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(service_of)]


def job_options(
    request: Request,
    service: ServiceOf,
    model: Annotated[str | None, Query(description="One of GET /v1/models; by default the first.")] = None,
    max_faces: Annotated[int, Query(ge=1, le=64, description="Most people tracked at once.")] = 4,
    face: Annotated[bool, Query(description="Use the faces.")] = True,
    voice: Annotated[bool, Query(description="Use the voice.")] = True,
    reidentify: Annotated[bool, Query(description="Who returns keeps the number, by appearance.")] = True,
    audio_track: Annotated[int | None, Query(ge=1, description="Sound track, from 1.")] = None,
    split_channels: Annotated[bool, Query(description="Each channel of a sound is a person.")] = False,
    min_quality: Annotated[
        float, Query(allow_inf_nan=False, ge=0, le=1, description="Faces below it are not read.")
    ] = 0.0,
    start_s: Annotated[float, Query(allow_inf_nan=False, ge=0, description="First second to predict.")] = 0.0,
    stop_s: Annotated[float | None, Query(allow_inf_nan=False, gt=0, description="Second to end before.")] = None,
    report: Annotated[bool, Query(description="Write the report with the recording in it.")] = False,
) -> JobOptions:
    """Read the options of a job from a query. Raises RequestError (422) for options that are unknown or exclude each
    other."""
    models = service.settings.models
    problem = None
    known = [field.name for field in fields(JobOptions)]
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is not None:
        near = get_close_matches(unknown, known, 1)
        meant = f"Did you mean {near[0]}? " if near else ""
        problem = (f"{shortened(unknown)}: there is no such option", f"{meant}GET /openapi.json lists the options.")
    elif model is not None and model not in models:
        problem = (f"model {shortened(model)}: this server does not offer it", f"Use one of {', '.join(models)}.")
    elif not (face or voice):
        problem = ("face and voice are both false, which leaves nothing to predict from", "Omit one of them.")
    elif stop_s is not None and stop_s <= start_s:
        problem = (f"stop_s {stop_s:g} is not after start_s {start_s:g}", "Use a later stop_s.")
    if problem:
        raise RequestError(
            HTTPStatus.UNPROCESSABLE_ENTITY, problem[0], follows="Nothing was accepted.", remedy=problem[1]
        )
    return JobOptions(
        model or models[0], max_faces, face, voice, reidentify, audio_track, split_channels, min_quality, start_s,
        stop_s, report,
    )  # fmt: skip


OptionsOf = Annotated[JobOptions, Depends(job_options)]
