"""Images with boxes for tests: dark discs and bright squares, far apart, in three of four corners of dim noise."""

import json
from pathlib import Path

import cv2
import numpy as np

CLASSES = ["disc", "square"]
PART = 0.75  # of a pixel, by which written boxes reach farther up and to the left


def images(size: tuple[int, int], count: int, seed: int) -> tuple[np.ndarray, list[tuple[list[list[int]], list[str]]]]:
    """Return images (N, H, W) uint8, and of each its boxes and their names; every fifth image shows nothing."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    pixels, found = random.normal(100, 8, (count, *size)), []
    for i in range(count):
        corners = random.permutation([(0.27, 0.27), (0.27, 0.73), (0.73, 0.27), (0.73, 0.73)])[: 3 if i % 5 else 0]
        boxes, kinds = [], []
        for place in corners:
            y, x = np.rint(place * size + random.uniform(-1, 1, 2)).astype(int)
            half, kind = int(random.integers(5, 9)), int(random.integers(2))
            far = np.hypot(rows - y, columns - x) if kind == 0 else np.maximum(abs(rows - y), abs(columns - x))
            pixels[i][far <= half] += 100 if kind else -80
            boxes.append([int(x - half), int(y - half), int(x + half + 1), int(y + half + 1)])
            kinds.append(CLASSES[kind])
        found.append((boxes, kinds))
    return pixels.clip(0, 255).astype(np.uint8), found


def write(root: Path, size: tuple[int, int], splits: list[str], seed: int) -> None:
    """Write images with a COCO file and a table of patients, in files that carry a name."""
    pixels, found = images(size, len(splits), seed)
    (root / "images").mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "disc"}, {"id": 9, "name": "square"}]}
    rows = ["path,patient_id,split"]
    for number, (split, (boxes, kinds)) in enumerate(zip(splits, found, strict=True)):
        name = f"Canarybird {number}.png"
        cv2.imwrite(str(root / "images" / name), pixels[number])
        rows.append(f"images/{name},Canarybird-{number // 2},{split}")
        content["images"].append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        for (x0, y0, x1, y1), kind in zip(boxes, kinds, strict=True):
            corner = [x0 - PART, y0 - PART]  # as annotators draw them
            one = {
                "id": len(content["annotations"]),
                "image_id": number,
                "bbox": [*corner, x1 - x0 + PART, y1 - y0 + PART],
            }
            content["annotations"].append(one | {"category_id": 7 if kind == "disc" else 9})
    (root / "annotations.json").write_text(json.dumps(content))
    (root / "patients.csv").write_text("\n".join(rows))


def packed(found: list[tuple[list[list[int]], list[str]]]) -> np.ndarray:
    """Return boxes and their names as arrays (N, M, 5) float32."""
    array = np.zeros((len(found), max(1, *(len(boxes) for boxes, _ in found)), 5), np.float32)
    for place, (boxes, kinds) in zip(array, found, strict=True):
        for row, box, kind in zip(place, boxes, kinds, strict=False):
            row[:] = *box, 1 + CLASSES.index(kind)
    return array
