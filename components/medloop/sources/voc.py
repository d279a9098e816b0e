"""Images with a Pascal VOC XML file each: boxes around objects."""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from xml.parsers import expat

from pydantic import Field

from medloop import drawing, folders, labels, params
from medloop.errors import Refused
from medloop.imaging import Unreadable
from medloop.labels import Classes, Patients, Row, Table
from medloop.manifest import SPLITS
from medloop.sources import Item, Sample

CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Options(params.Section):
    """`ingest.options.voc:`"""

    classes: Classes = Field(min_length=1, description="names of objects, in label order")
    annotations: str = Field("Annotations", min_length=1, description="folder of the XML files")
    images: str = Field("JPEGImages", min_length=1, description="folder of the images, which have the names of those")
    image_suffix: str = Field(".jpg", min_length=1, description="of the images")
    sets: Table | None = Field(
        None,
        description="folder with train.txt, val.txt and test.txt, names one a line: the official split; null: none",
    )
    inclusive: bool = Field(
        False, description="pixels are counted from 1 and xmax, ymax belong to the box, as in the VOC challenges"
    )
    patients: Patients = None


def items(root: Path, options: Options, *, seed: int) -> Iterator[Item]:  # noqa: ARG001
    """Yield one item an image.

    Raises:
        Refused: an image without annotations, annotations without an image, or lists that do not fit.
    """
    images, annotations = _files(root, options)
    beside = {_image(file, options): file for file in annotations}
    labels.match({image: image for image in images}, {image: Row() for image in beside}, root / options.annotations)
    known = labels.of_patients(root, options.patients, images)
    sides = _sides(root, options, images) if options.sets else {}
    for image in images:
        row = (known[image], sides.get(image))
        file = beside[image]
        yield Item(image, partial(_samples, root, image, file, row, options), image, row, (file,))


def facts(root: Path, options: Options) -> dict[str, Any]:  # noqa: ARG001
    """Return that every image has boxes, and of which classes."""
    return {"boxes": True, "classes": options.classes}


def total(root: Path, options: Options) -> int:
    """Return the number of images."""
    return len(_files(root, options)[0])


def lists_from(options: Options) -> set[str]:
    """Return the tables and lists that are read to list."""
    sets = [options.sets / f"{split}.txt" for split in SPLITS] if options.sets else []
    return {table.as_posix() for table in (options.patients, *sets) if table}


def belongs(path: str, options: Options) -> str:
    """Return the image that a file is read for."""
    place = PurePosixPath(path)
    is_annotation = place.parent == PurePosixPath(options.annotations) and place.suffix == ".xml"
    return _image(path, options) if is_annotation else path


def _files(root: Path, options: Options) -> tuple[list[str], list[str]]:
    """Return the images and the annotations, sorted; what lies outside of their folders is none of the data."""
    files = folders.files(root, None, "images and annotations")
    images = [file for file in files if PurePosixPath(file).parent == PurePosixPath(options.images)]
    return images, [file for file in files if PurePosixPath(file).parent == PurePosixPath(options.annotations)]


def _image(annotation: str, options: Options) -> str:
    name = PurePosixPath(annotation).name.removesuffix(".xml")
    return (PurePosixPath(options.images) / f"{name}{options.image_suffix}").as_posix()


def _name(image: str, options: Options) -> str:
    return PurePosixPath(image).name.removesuffix(options.image_suffix)


def _sides(root: Path, options: Options, images: list[str]) -> dict[str, str]:
    """Return the side of each image; raise Refused where the lists do not name each image once."""
    assert options.sets is not None
    folder = root / options.sets
    named = {_name(image, options): image for image in images}
    sides: dict[str, str] = {}
    times: Counter[str] = Counter()
    for split in SPLITS:
        try:
            names = (folder / f"{split}.txt").read_text(encoding="utf-8").split()
        except (OSError, ValueError):
            raise Refused(f"no readable {split}.txt in {folder} (ingest.options.voc.sets)") from None
        times.update(names)
        sides |= {named[name]: split for name in names if name in named}
    unlisted, unknown = len(named.keys() - times.keys()), len(times.keys() - named.keys())
    twice = sum(count > 1 for count in times.values())
    if unlisted or unknown or twice:
        raise Refused(
            f"the lists in {folder} must name each image once: {unlisted} of {len(images)} images stand in none, "
            f"{twice} in several, {unknown} names have no image"
        )
    return sides


def _samples(root: Path, image: str, file: str, row: tuple[Row, str | None], options: Options) -> Iterator[Sample]:
    pixels, bits, synthetic = drawing.opened(root / image)
    size = pixels.shape[:2]
    boxes, names = _objects((root / file).read_bytes(), size, options)
    kept, kept_names, flaws = drawing.within(boxes, names, size)
    known = row[0].__dict__ | {"split": row[1] or row[0].split}
    drawn: dict[str, Any] = {"boxes": kept, "box_labels": kept_names, "synthetic": synthetic}
    yield Sample(image, pixels, bits, **known, **drawn, group=_name(image, options), flaws=flaws)


def _objects(content: bytes, size: tuple[int, ...], options: Options) -> tuple[list[list[float]], list[str]]:
    """Return x0, y0, x1, y1 of each object, and its name."""
    tree = _tree(content)
    said = [tree.findtext(f"size/{side}") for side in ("height", "width")]
    if None not in said and [*map(_number, said)] != [*size]:
        raise Unreadable(f"its annotations are of an image of another size than {size}")
    boxes, names = [], []
    for found in tree.iterfind("object"):
        name = (found.findtext("name") or "").strip()
        if name not in options.classes:
            raise Unreadable(f"its annotations name an object that is none of {', '.join(options.classes)}")
        try:
            corners = [float(found.findtext(f"bndbox/{corner}") or "") for corner in CORNERS]
        except ValueError:
            raise Unreadable(f"an object of its annotations lacks a number for {', '.join(CORNERS)}") from None
        first = 1 if options.inclusive else 0
        boxes.append([corners[0] - first, corners[1] - first, *corners[2:]])
        names.append(name)
    return boxes, names


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _refuse_document_type(content: bytes) -> None:
    """Raise Unreadable where XML has a document type: it may define entities that grow without end."""

    def refuse(*_: Any) -> None:
        raise Unreadable("its annotations must be XML without a document type")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(content, True)


def _tree(content: bytes) -> ElementTree.Element:
    if not content.strip():
        raise Unreadable("its annotation file is empty")
    try:
        _refuse_document_type(content)
        tree = ElementTree.fromstring(content)  # noqa: S314  without a document type there are no entities
    except (expat.ExpatError, ElementTree.ParseError):
        raise Unreadable("its annotations are no XML") from None
    if tree.tag != "annotation":
        raise Unreadable("its annotations must be one <annotation>, as Pascal VOC has them")
    return tree
