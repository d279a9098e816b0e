"""What samples are: one file per kind, for all in which an image differs from a signal or a record.

A source declares `KIND`, params.yaml says it under `base.kind`. A kind is a module with

- `NOUN`, `NOUNS`: what a sample is called; `units(preprocessing)`: what the arrays made of it are called;
- `INPUT_UNITS`: of the values of an array; `SIZED_BY`: the parameter that says how large it is;
- `WINDOWS`: whether a sample may become several arrays;
- `Unreadable`: the error of a sample that cannot be taken, with a sentence that holds nothing that the file said.

For `ingest` and `validate`

- `check(sample)`: raises Unreadable unless the values have the form that the kind wants;
- `perceptual_hash(values)`: of an image, else None;
- optionally `synthetic(values)`: whether they show that a model made them;
- `near_copies(rows, values, sides, thresholds)`: a table (a, b, correlation) of what is the same but for details, for
  each pair of places in `sides`. What is the same to the byte is found without it. `NEAR_COPIES = False` says that it
  finds none.

- optionally `copies(inputs)`: the pairs of places in arrays that are the same but for details, which share a fold.

For `preprocess`

- `PACKAGES`: what decides the arrays beside our own code;
- `form(table, values, facts, section)`: the `Form` of the arrays, the same for train, val and test;
- optionally `notes(rows, values, form)`: what a reader of the report must know of it;
- `counts(rows, form)`: how many arrays come of each row; `index(rows, form)`: a table with a row for each array;
- `arrays(rows, values, form)`: the arrays, block after block;
- `targets(rows, values, form)`: (N,) numbers to predict where they follow from the values, else None;
- where the form has boxes, `boxes(rows, form, classes)`: (N, M, 5), those of each array;
- where the form has masks, `layers(rows, values, form, name)`: the "mask" or the "instances" that stand under the
  arrays, block after block;
- optionally `floors(inputs, labels, patients, about, section, seed, questions)`: rivals that stand beside every network
  that tells labels.

For `train` and `evaluate`

- `augment(arrays, section, random, part)`: changed copies of arrays (N, ...); of images with `masks` or `boxes` both;
- `described(card)`: the network's input in words;
- `picture(array, card, marks)`: type and content of a picture of one array, with `marks` ("true", "predicted") on it;
- optionally `VIEW`: what such a picture shows, where that does not meet the eye.

For `register`, `predict` and `promote`

- `COLUMN`: of the served model's input, encoded samples; `DECODER`: the module that reads them (`as_input`) and stands
  alone, for it is shipped inside every registered model; `REQUIREMENTS`: of that module; `example(card)`: one cell;
- `is_input(path)`, `WANTED`: which files of a folder are samples; optionally `opened(path, preprocessing)`: the content
  of one, where that is more than its bytes;
- `cells(content, name, preprocessing)`: (key, name, cell) for each input that a file holds;
- `encoded(row, values, preprocessing)`: the cells of a packed sample, each with its place, None where there is one;
- `paired(preprocessing)`: that in which two models must agree to be compared on the same inputs.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Form:
    """What preprocessing makes of a sample."""

    shape: tuple[int, ...]  # of one array
    dtype: str
    preprocessing: dict[str, Any]  # all that `DECODER` needs to do the same where the model is served
    masks: bool = False  # what is told of an array is a map of classes
    boxes: int = 0  # or boxes, so many at most; 0: it is none


@dataclass(frozen=True)
class Part:
    """Which of `count` arrays are at hand: random numbers are drawn for all, so that a part changes as in the whole."""

    count: int
    rows: slice
