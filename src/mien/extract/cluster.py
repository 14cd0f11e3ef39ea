"""The same stage on Ray Data: an actor pool over many machines that share the store's file system."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from mien.errors import ConfigError
from mien.extract.job_runner import ClipDone, JobRunner
from mien.extract.local import At
from mien.extract.plan import Declared, ExtractionSettings, RecordingJob
from mien.extract.worker import limit_threads, sendable

#: Recordings handed to an actor at once. Batches are filled across them; so many are lost with an actor.
TASKS_A_CALL = 4


class OnRay:
    """Extraction on a Ray cluster. Use as a context manager.

    Args:
        address: `auto` (the cluster this machine belongs to, else one that is started here), or a cluster's
        address.
        workers: actors. cpus, gpus: of each; gpus may be a fraction, so that several actors share a card.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(
        self,
        specs: Sequence[str],
        settings: ExtractionSettings,
        *,
        address: str = "auto",
        workers: int = 1,
        cpus: float = 1.0,
        gpus: float = 0.0,
    ) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError(
                "--ray needs Ray, which is not installed", remedy="pip install 'mien[ray]', or use --workers"
            ) from None
        device = ("cuda" if gpus else "cpu") if settings.device == "auto" else settings.device
        self._ray, self._specs, self._address = ray, list(specs), address
        self._settings = replace(settings, device=device, store=settings.store.absolute())
        self._workers = workers
        self._resources: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus}
        self._ours = False
        self.declared: list[Declared] = []

    def __enter__(self) -> OnRay:
        self._connect()
        self._room()
        describe = self._ray.remote(_describe).options(**self._resources)
        found = self._ray.get(describe.remote(list(sys.path), self._specs, self._settings))
        if isinstance(found, BaseException):
            self.__exit__()
            raise found
        self.declared = found
        return self

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            self._ray.init(address=self._address, **quiet)
        except ConnectionError as error:
            if self._address != "auto":
                raise ConfigError(
                    f"no Ray cluster answers at {self._address!r}: {error}",
                    remedy="ray status --address ADDRESS, or --ray auto to use this machine",
                ) from None
            self._ray.init(include_dashboard=False, **quiet)
        self._ours = True

    def _room(self) -> int:
        """How many actors the cluster holds. Raises ConfigError where it is none: Ray would wait for ever."""
        have = self._ray.cluster_resources()
        wanted = {"CPU": self._resources["num_cpus"], "GPU": self._resources["num_gpus"]}
        for kind, each in wanted.items():
            if each > have.get(kind, 0.0):
                raise ConfigError(
                    f"an actor wants {each:g} {kind}, the Ray cluster has {have.get(kind, 0.0):g}",
                    remedy="ask for less (--gpus), or add machines to the cluster",
                )
        return min(int(have[kind] / each) for kind, each in wanted.items() if each)

    def __exit__(self, *_: object) -> None:
        if self._ours:
            self._ray.shutdown()
            self._ours = False

    def run(self, tasks: Sequence[RecordingJob]) -> Iterator[ClipDone | At]:
        if not tasks:
            return
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = [{"task": pickle.dumps(task)} for task in tasks]
        calls = -(-len(items) // TASKS_A_CALL)
        most = min(self._workers, calls)
        # the pool begins with what the cluster can hold now and grows if the cluster does
        pool = ray.data.ActorPoolStrategy(min_size=max(1, min(most, self._room())), max_size=most)
        results = ray.data.from_items(items, override_num_blocks=calls).map_batches(
            RayWorker,
            fn_constructor_args=(list(sys.path), self._specs, self._settings),
            batch_size=TASKS_A_CALL,
            batch_format="pyarrow",
            compute=pool,
            **self._resources,
        )
        for row in results.iter_rows():
            said = pickle.loads(row["said"])
            if isinstance(said, BaseException):
                raise said
            yield said


class RayWorker:
    """One process of the pool: makes its encoders once, then takes recordings."""

    def __init__(self, path: list[str], specs: list[str], settings: ExtractionSettings) -> None:
        sys.path[:] = list(dict.fromkeys([*path, *sys.path]))
        self._stage = JobRunner(specs, settings)
        limit_threads(settings.threads)

    def __call__(self, batch: Any) -> Any:
        import pyarrow

        tasks = [pickle.loads(raw.as_py()) for raw in batch["task"]]
        said: list[Any] = []
        try:
            said += self._stage.run(tasks)
        except Exception as error:  # handed on as data: Ray would try the call again on another actor
            said.append(sendable(error))
        return pyarrow.table({"said": pyarrow.array([pickle.dumps(s) for s in said], pyarrow.binary())})


def _describe(path: list[str], specs: list[str], settings: ExtractionSettings) -> Any:
    sys.path[:] = list(dict.fromkeys([*path, *sys.path]))
    try:
        return JobRunner(specs, settings).declared
    except Exception as error:
        return sendable(error)
