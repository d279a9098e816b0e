"""Images with masks in folders: a mask a file, or a file for every object."""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from medloop import drawing, folders, labels, params, privacy
from medloop.drawing import OVERLAP, Box, Overlap
from medloop.errors import Refused, some
from medloop.labels import Classes, Patients, Row, Table
from medloop.sources import Item, Sample


class Options(params.Section):
    """`ingest.options.masks:`"""

    classes: Classes = Field(min_length=1, description="of the foreground, in the order of their values")
    layout: Literal["pairs", "objects"] = Field(
        "pairs",
        description="pairs: <images>/NAME.png and <masks>/NAME.png; objects: NAME/<images>/NAME.png and a file for "
        "every object, NAME/<masks>/*.png, as the Data Science Bowl of 2018 has them, none for an image without any",
    )
    images: str = Field("images", min_length=1, description="name of the folder of images")
    masks: str = Field("masks", min_length=1, description="name of the folder of masks")
    image_suffix: str = Field(".png", min_length=1, description="what follows NAME in the name of an image")
    mask_suffix: str = Field(".png", min_length=1, description="what follows NAME in the name of its mask")
    values: tuple[int, ...] | None = Field(
        None, description="of pairs: the value of each class in a mask, 0 is the background; null: 1, 2, ..."
    )
    numbered: bool = Field(False, description="of pairs: a mask's values are the numbers of objects, of one class")
    boxes: Table | None = Field(
        None,
        description="of pairs of one class: CSV with image, xmin, ymin, xmax, ymax (ends exclusive), a row an object, "
        "that tells the objects of a mask apart; each pixel goes to the box that holds it, of several to the one whose "
        "centre is nearest relative to its size",
    )
    patients: Patients = None
    overlap: Overlap = Field("refuse", description=f"of objects: {OVERLAP}")

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        several = len(self.classes) > 1
        if several and (self.layout == "objects" or self.numbered or self.boxes):
            raise ValueError("objects, numbered masks and boxes are of one class: name one, or give pairs with values")
        if self.layout == "objects" and (self.values or self.numbered or self.boxes):
            raise ValueError("values, numbered and boxes are for the layout pairs")
        if self.numbered and (self.values or self.boxes):
            raise ValueError("numbered masks have neither values nor boxes")
        if self.values is not None:
            if len(self.values) != len(self.classes):
                raise ValueError(f"{len(self.classes)} classes need as many values, got {len(self.values)}")
            if len(set(self.values) - {0}) != len(self.values) or not all(0 < each < 2**16 for each in self.values):
                raise ValueError(f"values must differ and lie within 1 to 65535, got {list(self.values)}")
        if self.layout == "pairs" and (self.images, self.image_suffix) == (self.masks, self.mask_suffix):
            raise ValueError("images and masks must differ in their folder or in their suffix")
        return self


def items(root: Path, options: Options, *, seed: int) -> Iterator[Item]:  # noqa: ARG001
    """Yield one item an image.

    Raises:
        Refused: an image without a mask, a mask without an image, a file that is neither, or a table that does not fit.
    """
    masks = _masks(root, options)
    known = labels.of_patients(root, options.patients, list(masks))
    boxes = _boxes(root, options, list(masks)) if options.boxes else None
    for image, files in masks.items():
        row = (known[image], None if boxes is None else boxes[image])
        yield Item(image, partial(_samples, root, image, files, row, options), image, row, files)


def facts(root: Path, options: Options) -> dict[str, Any]:  # noqa: ARG001
    """Return that every image has a mask, and of which classes; with objects told apart, their boxes too."""
    apart = options.layout == "objects" or options.numbered or options.boxes is not None
    return {"masks": True, "boxes": apart, "classes": options.classes}


def total(root: Path, options: Options) -> int:
    """Return the number of images."""
    return len(_masks(root, options))


def lists_from(options: Options) -> set[str]:
    """Return the tables, if there are any."""
    return {table.as_posix() for table in (options.boxes, options.patients) if table}


def belongs(path: str, options: Options) -> str:
    """Return the image that a file is read for."""
    place = PurePosixPath(path)
    if options.layout == "objects":
        name = place.parent.parent.name
        is_object = place.parent.name == options.masks and len(place.parts) == 3
        return f"{name}/{options.images}/{name}{options.image_suffix}" if is_object else path
    if place.parent == PurePosixPath(options.masks) and path.endswith(options.mask_suffix):
        name = place.name.removesuffix(options.mask_suffix)
        return (PurePosixPath(options.images) / f"{name}{options.image_suffix}").as_posix()
    return path


def notes(options: Options) -> list[str]:
    """Return what a reader must know."""
    if options.boxes is None:
        return []
    return ["Objects that touch are told apart by their boxes, not by their true border: instances are approximate."]


def _masks(root: Path, options: Options) -> dict[str, tuple[str, ...]]:
    """Return the files of the masks of each image, sorted."""
    tables = lists_from(options)
    files = [file for file in folders.files(root, None, "images and masks") if file not in tables]
    images, masks, stray = [], defaultdict[str, list[str]](list), []
    for file in files:
        kind = _kind(file, options)
        if kind == "image":
            images.append(file)
        elif kind == "mask":
            masks[belongs(file, options)].append(file)
        elif kind == "stray":
            stray.append(file)
    lost = [(file, "has neither the name of an image nor that of a mask") for file in stray]
    lost += [(file, "mask without an image") for image in masks.keys() - set(images) for file in masks[image]]
    if options.layout == "pairs":
        lost += [(image, "image without a mask") for image in images if image not in masks]
    if lost:
        _refuse(sorted(lost), len(images), options)
    return {image: tuple(masks.get(image, ())) for image in images}


def _kind(file: str, options: Options) -> str:
    """Return image, mask, stray or other: what lies outside of the two folders is none of the data."""
    place = PurePosixPath(file)
    if options.layout == "objects":
        if len(place.parts) != 3 or place.parts[1] not in (options.images, options.masks):
            return "other"
        if place.parts[1] == options.masks:
            return "mask" if file.endswith(options.mask_suffix) else "stray"
        return "image" if place.name == place.parts[0] + options.image_suffix else "stray"
    if place.parent == PurePosixPath(options.masks) and file.endswith(options.mask_suffix):
        return "mask"
    if place.parent == PurePosixPath(options.images) and file.endswith(options.image_suffix):
        return "image"
    return "stray" if place.parent in (PurePosixPath(options.masks), PurePosixPath(options.images)) else "other"


def _refuse(lost: list[tuple[str, str]], count: int, options: Options) -> None:
    pseudonyms = privacy.Pseudonyms.load()
    rows = [(pseudonyms.of("item", file), reason, file) for file, reason in lost]
    where = privacy.list_privately(rows)
    counted = ", ".join(
        f"{sum(why == reason for _, why in lost)} x {reason}" for reason in sorted({r for _, r in lost})
    )
    raise Refused(
        f"every image must have its mask (ingest.options.masks, layout {options.layout}), of {count} images: {counted} "
        f"({some(row[0] for row in rows)}); {where} says which"
    )


def _boxes(root: Path, options: Options, images: list[str]) -> dict[str, tuple[Box, ...]]:
    """Return the boxes of each image; one without a row has none."""
    assert options.boxes is not None
    table = root / options.boxes
    names = {PurePosixPath(image).name: image for image in images}
    found: dict[str, list[Box]] = {image: [] for image in images}
    for line, cells in labels.records(table, ("image", "xmin", "ymin", "xmax", "ymax")):
        if cells["image"] not in names:
            raise Refused(f"{table}, line {line}: there is no such image")
        try:
            x0, y0, x1, y1 = (int(cells[name]) for name in ("xmin", "ymin", "xmax", "ymax"))
        except ValueError:
            raise Refused(f"{table}, line {line}: xmin, ymin, xmax and ymax must be whole numbers") from None
        found[names[cells["image"]]].append((x0, y0, x1, y1))
    return {image: tuple(boxes) for image, boxes in found.items()}


def _samples(
    root: Path, image: str, files: tuple[str, ...], row: tuple[Row, tuple[Box, ...] | None], options: Options
) -> Iterator[Sample]:
    pixels, bits, synthetic = drawing.opened(root / image)
    size = pixels.shape[:2]
    flaws: tuple[str, ...] = ()
    boxes = instances = None
    layers = [drawing.decoded((root / file).read_bytes()) for file in files]
    if options.layout == "objects":
        objects = [(1, layer > 0) for layer in layers]
        mask, instances, flaws = drawing.of_objects(size, objects, options.overlap)
    elif options.numbered:
        mask, instances = drawing.of_numbers(layers[0])
    else:
        mask = drawing.of_values(layers[0], options.values or range(1, 1 + len(options.classes)))
    if row[1] is not None and mask.shape == size:  # else it is rejected for that
        boxes, _, flaws = drawing.within(row[1], options.classes * len(row[1]), size)
        instances, more = drawing.by_boxes(mask, boxes)
        flaws += more
    elif instances is not None:
        boxes = drawing.boxes_of(instances)
    named = None if boxes is None else options.classes * len(boxes)
    drawn: dict[str, Any] = {"mask": mask, "instances": instances, "boxes": boxes, "box_labels": named}
    drawn["synthetic"] = synthetic
    yield Sample(image, pixels, bits, **row[0].__dict__, **drawn, group=_name(image, options), flaws=flaws)


def _name(image: str, options: Options) -> str:
    """Return what the files of an image are called."""
    return PurePosixPath(image).name.removesuffix(options.image_suffix)
