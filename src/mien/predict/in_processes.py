"""Several recordings at once, each in a process with a predictor of its own.

A single recording uses two cores at most, and waits much of that time: on two cores, two processes are faster than one
after the other. Each process loads the model once and works in one thread.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from mien.errors import MediaError, MienError
from mien.memory import share_heap
from mien.predict.create_predictor import load
from mien.predict.protocol import Predictor

if TYPE_CHECKING:
    from mien.timeline.table import Timeline

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Tries of an item alone: the first end of its process may have been the fault of another item, before it began.
TRIES_ALONE = 2
_script_lock = threading.Lock()
_load_options: dict[str, Any] = {}
_predictor: Predictor | None = None


def predict_many(
    paths: Sequence[str | Path],
    model: str | Path | Sequence[str | Path] = "starter",
    *,
    workers: int = 2,
    load_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[tuple[Path, Timeline | MienError]]:
    """Predict several recordings at once, and yield each with its Timeline as soon as it is finished.

    A recording that cannot be read is yielded with its error, and does not stop the others.

    Args:
        paths: of the recordings.
        model: as in `mien.load`.
        workers: processes. Each needs about 270 MB with the starter.
        load_options: further arguments of `mien.load`, such as `max_faces`.
        **options: of `Predictor.predict`, such as `voice=False`.

    Raises:
        ConfigError: the model or an option cannot be used.
    """
    settings = {"model": model, **(load_options or {})}
    items = [(Path(path), options) for path in paths]
    for index, result in run(_predict_one, items, settings, workers):
        if isinstance(result, MienError) and result.exit_code == 2:
            raise result
        if isinstance(result, BaseException) and not isinstance(result, MienError):
            raise result
        yield items[index][0], result


def _predict_one(predictor: Predictor, item: tuple[Path, Mapping[str, Any]]) -> Timeline:
    path, options = item
    return predictor.predict(path, **options)


def run(
    work: Callable[[Predictor, Item], Result], items: Sequence[Item], load_options: Mapping[str, Any], workers: int
) -> Iterator[tuple[int, Result | Exception]]:
    """Call `work` with a predictor and each item, in processes; yield index and result in the order of completion.

    An exception of `work` is yielded in place of its result. If a process ends (killed, out of memory), the items in
    progress are tried again, one by one and at most `TRIES_ALONE` times; one that ends its process each time is a
    `MediaError`.

    Args:
        work: a function of a module, which a process can import.
        load_options: arguments of `mien.load`.
        workers: processes.
    """
    interrupted: list[int] = []
    yield from _attempt(work, list(enumerate(items)), load_options, workers, interrupted)
    for index in interrupted:
        for _ in range(TRIES_ALONE):
            again: list[int] = []
            yield from _attempt(work, [(index, items[index])], load_options, 1, again)
            if not again:
                break
        else:
            yield (
                index,
                MediaError(
                    "the process that predicted it ended twice, killed by the system or out of memory",
                    follows="It was not predicted. The other recordings are not affected.",
                    remedy="Predict it alone with --start and --end, or with fewer --workers.",
                ),
            )


def _attempt(
    work: Callable[[Predictor, Item], Result],
    items: Iterable[tuple[int, Item]],
    load_options: Mapping[str, Any],
    workers: int,
    interrupted: list[int],
) -> Iterator[tuple[int, Result | Exception]]:
    """As `run`, once. interrupted: gets the items in progress when a process ended; the others are still done."""
    waiting = deque(items)
    while waiting:
        running: dict[Future[Result], int] = {}
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, _start, (dict(load_options),)) as pool:
            broken = False
            while not broken and (waiting or running):
                while waiting and len(running) < workers:
                    index, item = waiting.popleft()
                    with _without_script((work, item, load_options)):
                        running[pool.submit(_work, work, item)] = index
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    index = running.pop(future)
                    try:
                        result: Result | Exception = future.result()
                    except BrokenProcessPool:
                        broken = True
                        interrupted.append(index)
                        continue
                    except Exception as error:
                        result = error
                    yield index, result
            interrupted.extend(running.values())


@contextlib.contextmanager
def _without_script(arguments: object) -> Iterator[None]:
    """Processes that start in this block do not run the user's script again.

    Otherwise each would, and a script that predicts outside of `if __name__ == "__main__":` would start processes
    without end, which Python stops with an error. A script that defines something in the arguments is needed, and left.
    """
    try:
        is_needed = b"__main__" in pickle.dumps(arguments)
    except Exception:  # the pool raises the error with its own text
        is_needed = True
    if is_needed:
        yield
        return
    with _script_lock:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script


def _start(load_options: dict[str, Any]) -> None:
    global _load_options
    share_heap()
    _load_options = load_options


def _work(work: Callable[[Predictor, Item], Result], item: Item) -> Result:
    global _predictor
    if _predictor is None:  # not in `_start`: an error there would end the process
        _predictor = load(**_load_options, one_thread=True)
    return work(_predictor, item)
