"""Write what a registered model says of samples, row by row: probabilities and a decision, a number, mask or boxes."""

import errno
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from tqdm import tqdm

from medloop import kinds, params, plugins
from medloop.errors import Refused
from medloop.operations import box_files, drawn_files, inputs, mask_files
from medloop.tracking import registry
from medloop.tracking.connection import server

BATCH = 256
BYTES = 2**25  # of files in one batch, so that memory does not grow with them
REASONS_SHOWN = 3
TWICE = "an earlier one carries the same identifier"
WRITERS = {writer.COLUMN: writer for writer in (mask_files.Folder, box_files.Folder)}


def predict(
    base: params.Base, *, model: str = "champion", source: Path, output: Path, paths: bool = False, batch: int = BATCH
) -> str:
    """Predict every sample of `source`, write a row for each to `output`, and return one line that says so.

    The columns are `sample_id` (a pseudonym; with `paths` also `path`, which may hold a patient's name), those of the
    served model (`p_<class>` and `decision`, `prediction`, `area_<class>` or `count_<class>`) and `error`, which is
    null where the sample was read. A multi-frame file has a row for each frame, a signal that is longer than the
    model's window one for each window. Masks go to the folder `<output>_masks` beside the table, see `mask_files`;
    boxes to `<output>_boxes`, see `box_files`.

    Args:
        base: names the model.
        model: an alias, a version number, or a `models:/` address.
        source: an image, a signal or a volume, a folder tree of such files, a samples folder or its manifest.parquet.
        output: a .csv or .parquet file; it appears when all is written.
        paths: add the path of each file below `source`.
        batch: samples held in memory at once.

    Raises:
        Refused: no such model, no samples, another suffix; or some could not be predicted: then the rows of the
            others are written, unless there are none.
    """
    if output.suffix not in (".csv", ".parquet"):
        raise Refused(f"the output must end in .csv or .parquet, got {output.suffix or 'no suffix'!r}: {output}")
    _check_writable(output)
    if not source.exists():
        inputs.count(source)  # refuses, before the server is asked
    with server() as client:
        address = model if model.startswith("models:/") else _address(registry.get(client, base.model_name, model))
        network = registry.load(address)
    kind = _kind(network, address)
    units, card = plugins.load(kinds, kind).NOUN, _card(network)
    expected = inputs.count(source, kind)
    schema = _schema(network.metadata.signature.outputs, paths)
    total, reasons, seen = 0, Counter[str](), set[str]()
    partial = output.with_name(f".{output.name}.partial")
    names = network.metadata.signature.outputs.input_names()
    writer = next((each for column, each in WRITERS.items() if column in names), None)
    try:
        with (
            drawn_files.beside(output, writer, card, address, paths=paths) if writer else nullcontext() as drawn,
            _writer(partial, output.suffix, schema) as table,
        ):
            progress = tqdm(
                inputs.read(source, kind, card["preprocessing"]),
                total=expected,
                unit=units,
                desc="predict",
                disable=None,
            )
            for group in _batches(progress, batch):
                rows = _rows(network, group, kind, seen)
                total += len(rows)
                reasons.update(row["error"] for row in rows if row["error"])
                if drawn:
                    for asked, row in zip(group, rows, strict=True):
                        drawn.add(asked, row)
                table.write_table(pa.Table.from_pylist(rows, schema=schema))
        if reasons.total() < total:
            partial.replace(output)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise Refused(f"{output} could not be written: {error.strerror}") from None
        raise
    finally:
        partial.unlink(missing_ok=True)
    where = f"{output}, {drawn_files.folder_of(output, writer)}{drawn.told()}" if drawn and writer else str(output)
    if reasons:
        raise Refused(_failure(reasons, total, where, units))
    return f"{total} {units}s predicted by {address}: {where}"


def _check_writable(output: Path) -> None:
    """Raise Refused where no file can be made beside `output`, before anything is predicted for it."""
    try:
        if output.is_dir() or not output.absolute().parent.is_dir():
            raise Refused(f"the output must be a file in a folder that exists, got {output}")
        output.with_name(f".{output.name}.partial").exists()  # a name that is too long
        with TemporaryFile(dir=output.absolute().parent):
            pass
    except OSError as error:
        raise Refused(f"{output} cannot be written: {error.strerror}; name a file in another folder") from None


def _address(version: registry.Version) -> str:
    return f"models:/{version.name}/{version.number}"


def _kind(network: Any, address: str) -> str:
    """Return the kind of sample that a model takes; raise Refused for one that makes images itself."""
    asked = network.metadata.signature.inputs.input_names()
    if len(asked) > 1:
        raise Refused(f"{address} makes images and says nothing of any: see medloop generate")
    return str(asked[0])


def _card(network: Any) -> dict[str, Any]:
    """Return the model's card."""
    return dict(network.unwrap_python_model().model.card)


def _schema(outputs: Any, paths: bool) -> pa.Schema:
    texts = ["sample_id", "path"] if paths else ["sample_id"]
    types = {"double": pa.float64(), "string": pa.string()}
    said = [(column.name, types[column.type.name]) for column in outputs.inputs if column.name not in WRITERS]
    return pa.schema([*((name, pa.string()) for name in texts), *said, ("error", pa.string())])


def _writer(path: Path, suffix: str, schema: pa.Schema) -> Any:
    return pq.ParquetWriter(path, schema) if suffix == ".parquet" else pa.csv.CSVWriter(path, schema)


def _batches(items: Any, size: int) -> Iterator[list[inputs.Input]]:
    """Yield samples in groups of at most `size` and, but for the last of each, BYTES."""
    group, held = list[inputs.Input](), 0
    for each in items:
        group.append(each)
        held += len(each.content or b"")
        if len(group) == size or held >= BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


def _rows(network: Any, group: list[inputs.Input], kind: str, seen: set[str]) -> list[dict[str, Any]]:
    """Return a row for each input; one bad sample does not cost the others theirs.

    An identifier is predicted once: those that were are in `seen`, which this adds to.
    """
    good = [each for each in group if each.content is not None]
    found = _predicted(network, good, kind)
    rows = []
    for each in group:
        answer = found[each.sample_id, each.path] if each.content is not None else {"error": each.error}
        if not answer.get("error"):
            answer = {"error": TWICE} if each.sample_id in seen else answer
            seen.add(each.sample_id)
        rows.append({"sample_id": each.sample_id, "path": each.path, "error": None, **answer})
    return rows


def _predicted(network: Any, group: list[inputs.Input], kind: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what is said of each sample, or its error."""
    if not group:
        return {}
    try:
        table = network.predict(pd.DataFrame({kind: [each.content for each in group]}))
    except ValueError as error:
        if len(group) == 1:
            return {(group[0].sample_id, group[0].path): {"error": str(error).removeprefix(f"{kind} 0: ")}}
        half = len(group) // 2
        return _predicted(network, group[:half], kind) | _predicted(network, group[half:], kind)
    return {(each.sample_id, each.path): row for each, row in zip(group, table.to_dict("records"), strict=True)}


def _failure(reasons: Counter[str], total: int, where: str, noun: str) -> str:
    listed = "; ".join(f"{reason} ({number})" for reason, number in reasons.most_common(REASONS_SHOWN))
    failed = reasons.total()
    if failed == total:
        return f"none of {total} {noun}s could be predicted: {listed}; nothing was written"
    return f"{failed} of {total} {noun}s could not be predicted: {listed}; see column error in {where}"
