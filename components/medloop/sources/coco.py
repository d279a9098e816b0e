"""Images with annotations in one COCO JSON file: polygons, run lengths and boxes."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from medloop import drawing, folders, imaging, labels, params, regions
from medloop.drawing import OVERLAP, Overlap
from medloop.errors import Refused
from medloop.labels import Classes, Patients, Row, Table
from medloop.sources import Item, Sample

Annotations = tuple[tuple[int, Any, Any, bool], ...]  # place of the class, segmentation, bbox, whether it is a crowd


class Options(params.Section):
    """`ingest.options.coco:`"""

    annotations: Table = Field(Path("annotations.json"), description="the JSON file, its path below the root")
    images: str = Field("images", min_length=1, description="folder of the images that file_name counts from; .: root")
    classes: Classes | None = Field(
        None,
        description="categories taken, in label order, others are background; null: all, in the order of their ids",
    )
    masks: bool = Field(True, description="make masks of the segmentations; false: boxes alone")
    overlap: Overlap = Field("refuse", description=f"of masks: {OVERLAP}")
    patients: Patients = None


def items(root: Path, options: Options, *, seed: int) -> Iterator[Item]:  # noqa: ARG001
    """Yield one item an image.

    Raises:
        Refused: the file is no COCO file, or does not fit the images.
    """
    table = root / options.annotations
    content = _read(table)
    names = {name: place for place, name in enumerate(_classes(content, options, table), 1)}
    numbers = {_of(each, "id", table): names.get(str(_of(each, "name", table))) for each in content["categories"]}
    found: dict[Any, list[tuple[int, Any, Any, bool]]] = {}
    for each in content["annotations"]:
        category = _of(each, "category_id", table)
        if category not in numbers:
            raise Refused(f"{table}: an annotation is of a category that `categories` do not list")
        there = found.setdefault(_of(each, "image_id", table), [])
        if (place := numbers[category]) is not None:
            there.append((place, each.get("segmentation"), each.get("bbox"), bool(each.get("iscrowd"))))
    files = {
        (PurePosixPath(options.images) / str(_of(each, "file_name", table))).as_posix(): each
        for each in content["images"]
    }
    ids = {_of(each, "id", table) for each in content["images"]}
    if len(files) < len(content["images"]) or len(ids) < len(content["images"]):
        raise Refused(f"{table}: two images have one id or one file_name")
    if lost := len(found.keys() - ids):
        raise Refused(f"{table}: annotations are of {lost} images that `images` do not list")
    listed = _files(root, options)
    labels.match({file: file for file in listed}, {file: Row() for file in files}, table)
    known = labels.of_patients(root, options.patients, listed)
    for file in listed:
        each = files[file]
        said = (each.get("height"), each.get("width"))
        row = (known[file], tuple(found.get(each["id"], ())), said)
        yield Item(file, partial(_samples, root / file, file, row, options, tuple(names)), file, row)


def facts(root: Path, options: Options) -> dict[str, Any]:
    """Return that every image has boxes, and a mask where masks are made, and of which classes."""
    table = root / options.annotations
    return {"masks": options.masks, "boxes": True, "classes": _classes(_read(table), options, table)}


def lists_from(options: Options) -> set[str]:
    """Return the annotations, and the table of patients."""
    return {table.as_posix() for table in (options.annotations, options.patients) if table}


def total(root: Path, options: Options) -> int:
    """Return the number of images."""
    return len(_files(root, options))


def _files(root: Path, options: Options) -> list[str]:
    tables, below = lists_from(options), PurePosixPath(options.images)
    files = folders.files(root, None, "images")
    return [file for file in files if file not in tables and PurePosixPath(file).is_relative_to(below)]


def _read(table: Path) -> dict[str, Any]:
    try:
        text = table.read_text(encoding="utf-8-sig")
        content = json.loads(text) if text.strip() else None
    except FileNotFoundError:
        raise Refused(f"no annotations {table}: ingest.options.coco.annotations names the file") from None
    except (ValueError, RecursionError, OSError) as error:  # they may quote the file
        raise Refused(f"{table} is no readable JSON in UTF-8 ({type(error).__name__})") from None
    if content is None:
        raise Refused(f"{table} is empty: it must be a COCO file with images, annotations and categories")
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or any(not isinstance(content.get(name), list) for name in lists):
        raise Refused(f"{table} must hold lists named {', '.join(lists)}, as a COCO file does")
    return content


def _classes(content: Mapping[str, Any], options: Options, table: Path) -> tuple[str, ...]:
    listed = sorted(content["categories"], key=lambda each: _order(_of(each, "id", table)))
    names = [str(_of(each, "name", table)) for each in listed]
    if len(set(names)) < len(names):
        raise Refused(f"{table}: two categories have one name")
    if options.classes is None:
        return tuple(names)
    if unknown := [name for name in options.classes if name not in names]:
        raise Refused(f"{table} has no category {', '.join(unknown)}; it has {', '.join(names)}")
    return options.classes


def _order(number: int | str) -> tuple[bool, int | str]:
    """Return what sorts ids: numbers before texts."""
    return isinstance(number, str), number


def _of(entry: Any, name: str, table: Path) -> Any:
    found = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(found, (int, str)) and not (isinstance(found, float) and found.is_integer()):  # 3.0 is 3
        raise Refused(f"{table}: an entry has no {name}")
    return found


def _samples(
    path: Path, file: str, row: tuple[Row, Annotations, tuple[Any, Any]], options: Options, names: tuple[str, ...]
) -> Iterator[Sample]:
    pixels, bits, synthetic = drawing.opened(path)
    size = pixels.shape[:2]
    known, annotations, said = row
    crowds = sum(crowd for *_, crowd in annotations)
    if not options.masks:  # a crowd's box is of no one object
        annotations = tuple(each for each in annotations if not each[-1])
    if None not in said and tuple(said) != size:
        raise imaging.Unreadable(f"the annotations are of an image of another size than {size}")
    drawn: dict[str, Any] = {"synthetic": synthetic}
    flaws: tuple[str, ...] = ()
    areas = [
        regions.region(stored, size) if stored and (options.masks or box is None) else None
        for _, stored, box, _ in annotations
    ]
    if options.masks:
        if any(area is None for area in areas):
            raise imaging.Unreadable("an annotation has no segmentation (option masks: false takes boxes alone)")
        objects = [(each[0], area) for each, area in zip(annotations, areas, strict=True) if area is not None]
        drawn["mask"], drawn["instances"], flaws = drawing.of_objects(size, objects, options.overlap)
    if crowds:
        left = "were left out: what is found there counts as false, COCO would ignore it"
        flaws += (f"{crowds} crowds {'count as one object each' if options.masks else left}",)
    corners = [_corners(box, area) for (_, _, box, _), area in zip(annotations, areas, strict=True)]
    kept = [(box, names[each[0] - 1]) for each, box in zip(annotations, corners, strict=True) if box is not None]
    boxes, box_labels, more = drawing.within([box for box, _ in kept], [name for _, name in kept], size)
    drawn |= {"boxes": boxes, "box_labels": box_labels}
    yield Sample(file, pixels, bits, **known.__dict__, **drawn, group=PurePosixPath(file).stem, flaws=(*flaws, *more))


def _corners(box: Any, area: Any) -> tuple[float, float, float, float] | None:
    """Return x0, y0, x1, y1 of a bbox (x, y, width, height), else of the area; None of an area without a pixel."""
    if box is None and area is not None:
        found = drawing.boxes_of(area.astype(int))
        return found[0] if found else None
    if not isinstance(box, (list, tuple)) or len(box) != 4 or any(not isinstance(each, (int, float)) for each in box):
        raise imaging.Unreadable("a bbox must be four numbers: x, y, width and height")
    return box[0], box[1], box[0] + box[2], box[1] + box[3]
