"""Ray runner of extraction: an actor pool over many machines that share the store's file system."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mien import extras
from mien.errors import ConfigError
from mien.extract.job_runner import ClipResult, JobRunner
from mien.extract.plan import EncoderInfo, ExtractionSettings, RecordingJob
from mien.extract.worker import MediaPosition, limit_threads, picklable_error

if TYPE_CHECKING:
    import pyarrow

#: Recordings sent to an actor at once. All are lost if the actor dies.
JOBS_PER_CALL = 4


class RayRunner:
    """Runs extraction on a Ray cluster. Use as a context manager.

    Args:
        address: `auto` (the cluster of this machine, or a new one on this machine), or a cluster's address.
        workers: most actors. cpus, gpus: of each; gpus may be a fraction, so that actors share a device.

    Raises:
        ConfigError: Ray is not installed, there is no cluster at the address, it is too small for an actor, or an
            encoder cannot be created. ArtefactError: weights are missing.
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
        extras.require("ray", "--ray", follows="Nothing was extracted.", instead="Or omit --ray.")
        import ray

        device = ("cuda" if gpus else "cpu") if settings.device == "auto" else settings.device
        self._ray, self._specs, self._address = ray, list(specs), address
        self._settings = replace(settings, device=device, store=settings.store.absolute())
        self._workers, self._cpus, self._gpus = workers, cpus, gpus
        self._owns_connection = False
        self.encoder_infos: list[EncoderInfo] = []

    def __enter__(self) -> RayRunner:
        self._connect()
        self._count_actors()
        describe = self._ray.remote(_describe_encoders).options(num_cpus=self._cpus, num_gpus=self._gpus)
        result = self._ray.get(describe.remote(list(sys.path), self._specs, self._settings))
        if isinstance(result, Exception):
            self.__exit__()
            raise result
        self.encoder_infos = result
        return self

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        try:
            self._ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            if self._address != "auto":
                raise ConfigError(
                    f"no Ray cluster is reachable at {self._address!r}: {error}",
                    follows="Nothing was extracted.",
                    remedy="Check it with `ray status --address ADDRESS`, or use --ray auto for this machine.",
                ) from None
            self._ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        self._owns_connection = True

    def _count_actors(self) -> int:
        """Number of actors that fit the cluster. Raises ConfigError for none, since Ray would wait for ever."""
        cluster_resources: Callable[[], dict[str, float]] = self._ray.cluster_resources
        available = cluster_resources()
        per_actor = {"CPU": self._cpus, "GPU": self._gpus}
        for kind, count in per_actor.items():
            if count > available.get(kind, 0.0):
                raise ConfigError(
                    f"an actor needs {count:g} {kind}, and the Ray cluster has {available.get(kind, 0.0):g}",
                    follows="Nothing was extracted.",
                    remedy="Use a smaller --gpus, or add machines to the cluster.",
                )
        return min(int(available[kind] / count) for kind, count in per_actor.items() if count)

    def __exit__(self, *_: object) -> None:
        if self._owns_connection:
            self._ray.shutdown()
            self._owns_connection = False

    def run(self, jobs: Sequence[RecordingJob]) -> Iterator[ClipResult | MediaPosition]:
        """Encode the jobs on the cluster. Yields clips in order of completion. Raises what `JobRunner.run` raises."""
        if not jobs:
            return
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = [{"job": pickle.dumps(job)} for job in jobs]
        calls = -(-len(items) // JOBS_PER_CALL)
        most = min(self._workers, calls)
        # The pool starts with what fits the cluster now, and grows if the cluster does.
        pool = ray.data.ActorPoolStrategy(min_size=max(1, min(most, self._count_actors())), max_size=most)
        results = ray.data.from_items(items, override_num_blocks=calls).map_batches(
            RayWorker,
            fn_constructor_args=(list(sys.path), self._specs, self._settings),
            batch_size=JOBS_PER_CALL,
            batch_format="pyarrow",
            compute=pool,
            num_cpus=self._cpus,
            num_gpus=self._gpus,
        )
        for row in results.iter_rows():
            result: ClipResult | Exception = pickle.loads(row["result"])
            if isinstance(result, Exception):
                raise result
            yield result


class RayWorker:
    """Actor of the pool: creates the encoders once, then encodes batches of recordings."""

    def __init__(self, path: list[str], specs: list[str], settings: ExtractionSettings) -> None:
        sys.path[:] = list(dict.fromkeys([*path, *sys.path]))
        self._runner = JobRunner(specs, settings)
        limit_threads(settings.threads)

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Encode pickled jobs (column `job`). Returns pickled results, and an exception if one ended the run (column
        `result`)."""
        import pyarrow

        jobs = [pickle.loads(raw.as_py()) for raw in batch["job"]]
        results: list[ClipResult | Exception] = []
        try:
            results += self._runner.run(jobs)
        except Exception as error:  # returned as data, because Ray would repeat a call that raises on another actor
            results.append(picklable_error(error))
        return pyarrow.table({"result": pyarrow.array([pickle.dumps(r) for r in results], pyarrow.binary())})


def _describe_encoders(
    path: list[str], specs: list[str], settings: ExtractionSettings
) -> list[EncoderInfo] | Exception:
    sys.path[:] = list(dict.fromkeys([*path, *sys.path]))
    try:
        return JobRunner(specs, settings).encoder_infos
    except Exception as error:
        return picklable_error(error)
