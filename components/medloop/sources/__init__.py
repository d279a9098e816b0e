"""Where samples come from: one file per source.

A source is a module with

- `Options`, a `medloop.params.Section`: what params.yaml may say under `ingest.options.<source>`;
- `items(root, options, *, seed)`, a generator of `Item`: cheap to list, read later, in another process.
and optionally

- `KIND`, of its samples: a file of medloop/kinds (else: "image");
- `classes(options)`: the class names in label order (else: the labels that were found, sorted);
- `multi_label(options)`: whether a sample may have several labels (else: no);
- `ordered(options)`: whether `classes` is an order, from the lowest grade to the highest (else: no);
- `split_in_time(options)`: whether recordings are cut into stretches, each on one side (else: no);
- `facts(root, options)`: what it says of all samples, fields of `manifest.Facts`: names of variables; `masks` or
  `boxes` with the `classes` that those are of;
- `belongs(path, options)`: the key of the item that a file is read for, where items have files `beside` their own, so
  that a shard fetches all of them;
- `total(root, options)`: how many items there are, for the progress bar;
- `notes(options)`: sentences for the report, e.g. the data's licence;
- `lists_from(options)`: the files below the root that `items` reads in order to list, None for all of them (else: all);
  of the others the names are enough, so that a shard does not fetch what it does not decode;
- `SIMULATED = True`: no sample comes from a patient.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One decoded sample with what its source knows of it; None stands for what it does not know.

    Identifiers are the source's own: `ingest` alone sees them, and replaces them by pseudonyms.
    """

    key: str  # unique within the source
    # images: (H, W) or (H, W, 3) uint8 or uint16, bright is dense; sequences: (T, C) float32; volumes: (D, H, W) uint8,
    # uint16, int16 or float32, upwards, to the front, and to the patient's right; tables: (V,) float32, NaN: no value
    values: np.ndarray
    bit_depth: int | None = None  # of images, bits in use: 8 says 0..255, 12 says 0..4095
    label: str | None = None  # several labels of one sample are joined by "|"; None: the data set has no classes
    patient_id: str | None = None
    study_id: str | None = None
    site: str | None = None
    sex: str | None = None  # F, M or O
    age_years: float | None = None
    modality: str | None = None
    spacing_mm: tuple[float, ...] | None = None  # between rows, between columns; of a volume: between slices first
    split: str | None = None  # train, val or test, where the source has an official split
    mask: np.ndarray | None = None  # (H, W) uint8, 0 for the background, i for the i-th class, or for the finding
    boxes: tuple[tuple[float, float, float, float], ...] | None = None  # x0, y0, x1, y1 in pixels, ends exclusive
    rate_hz: float | None = None  # of a signal
    unit: str | None = None  # of the values, e.g. mV
    target: float | None = None  # a number to predict
    start: int | None = None  # of a stretch: its first place in the recording, which `study_id` names
    instances: np.ndarray | None = None  # (H, W) uint16, 0 for the background, else the number of the object
    box_labels: tuple[str, ...] | None = None  # the class of each box
    group: str | None = None  # where no patient is known: whose hash decides the side, e.g. the image's id
    synthetic: bool = False  # its file says so, see `marks`; what its pixels show, the kind of sample looks for
    flaws: tuple[str, ...] = ()  # what is wrong with it, or was left out of it, in sentences that name nobody


@dataclass(frozen=True)
class Item:
    """A sample, or a few that are stored together, not yet read. Travels to a worker process."""

    key: str  # names the item in the private list of rejects, e.g. its path: never shown elsewhere
    read: Callable[[], Iterable[Sample]]
    file: str | None = None  # below the root, and the key too: what it is read from, where it has a file of its own
    row: object = None  # what it is given beside the file and the options, e.g. by a label table; it has a `repr`
    beside: tuple[str, ...] = ()  # other files below the root that it is read from
