"""Reads a source's items on all cores, in order, with few of them in memory at a time."""

import hashlib
import logging
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import cv2
import numpy as np
import pydicom

from medloop import kinds, manifest, plugins
from medloop.errors import Refused
from medloop.sources import Item, Sample

T = TypeVar("T")
IN_FLIGHT = 4  # items for each worker: enough to keep it busy, few enough to stay small


@dataclass(frozen=True)
class Digested:
    """A sample with what is computed from its values."""

    sample: Sample
    content_sha256: str  # of shape, type and values
    perceptual_hash: int | None  # of images
    synthetic: bool = False  # made by a model, as its file or its pixels say


@dataclass(frozen=True)
class Read:
    """What came of an item: samples, or the reason why there are none."""

    key: str
    samples: tuple[Digested, ...] = ()
    reason: str | None = None  # from our own sentences and the names of exceptions, never a text that a file chose


def read(items: Iterable[Item | T], kind: str = "image", workers: int = 0) -> Generator[Read | T]:
    """Yield what each item holds, in the order of `items`.

    Args:
        items: as a source lists them; what is no `Item` is passed on in its place.
        kind: of their samples.
        workers: processes; 0 stands for one per core.

    Raises:
        Refused: a process was killed.
    """
    workers = workers or len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("forkserver")  # a fork of a process with threads, TensorFlow's say, may hang
    context.set_forkserver_preload([__name__, f"{kinds.__name__}.{kind}"])
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(Path.cwd(),))
    waiting: deque[Future[Read] | T] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_read, item, kind) if isinstance(item, Item) else item)
            if len(waiting) >= IN_FLIGHT * workers:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    except BrokenProcessPool:
        raise Refused(
            "a decoding process died: killed for want of memory, by hand, or by a file that crashes its decoder; "
            "try fewer ingest.workers, and ingest.workers: 1 with halves of the data to find such a file"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _result(job: Future[Read] | T) -> Read | T:
    return job.result() if isinstance(job, Future) else job


def _begin(folder: Path) -> None:
    """Make a worker quiet, single-threaded, and mortal: it ends with its parent, and leaves Ctrl-C to it."""
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")  # pydicom's warnings hold what headers say, and decoders write to stderr
    logging.disable(logging.CRITICAL)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _read(item: Item, kind: str) -> Read:
    plugin = plugins.load(kinds, kind)
    try:
        samples = tuple(_digested(sample, plugin) for sample in item.read())
    except (plugin.Unreadable, Refused) as error:
        return Read(item.key, reason=str(error))
    except FileNotFoundError:
        return Read(item.key, reason="a file that it needs is not there")
    except Exception as error:  # whatever a damaged file does to a decoder: rejected, and the run goes on
        return Read(item.key, reason=f"could not be decoded ({type(error).__name__})")
    return Read(item.key, samples) if samples else Read(item.key, reason=f"holds no {plugin.NOUN}")


def _digested(sample: Sample, kind: ModuleType) -> Digested:
    kind.check(sample)
    if sample.split not in (None, *manifest.SPLITS):
        raise Refused(f"split must be one of {', '.join(manifest.SPLITS)}")
    digest = hashlib.sha256(f"{sample.values.shape} {sample.values.dtype.str}".encode())
    digest.update(np.ascontiguousarray(sample.values).data)
    made = sample.synthetic or (hasattr(kind, "synthetic") and kind.synthetic(sample.values))
    return Digested(sample, digest.hexdigest(), kind.perceptual_hash(sample.values), made)
