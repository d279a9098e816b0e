"""One patient of the phantom in 3D.

Lengths in mm; x to the patient's left, y to the front, z up, the lungs around the origin. A patient depends on the seed
and the index alone: the same in a cohort of any size, and through all studies.
"""

from dataclasses import dataclass

import numpy as np

from medloop.phantom import lumps, organs, skeleton, vessels
from medloop.phantom.lumps import Lump
from medloop.phantom.options import Options
from medloop.phantom.room import Room, on_front
from medloop.phantom.shapes import Ellipsoid, Points
from medloop.phantom.streams import Use, stream

SITES = 3
STUDIES = (0.75, 0.17, 0.08)  # share of patients with one, two, three
NODULES = (0.6, 0.25, 0.15)  # share of those who have any with one, two, three


@dataclass(frozen=True)
class Person:
    """What stands in a header; the label is drawn apart from site, sex and age, but for a planted shortcut."""

    index: int
    sex: str
    age_years: int
    site: int
    studies: int
    has_nodule: bool


@dataclass(frozen=True)
class Patient:
    """What stays the same from study to study."""

    person: Person
    soft: tuple[Ellipsoid, ...]  # muscle and organs
    fat: tuple[Ellipsoid, ...]  # what the skin encloses
    breasts: tuple[Ellipsoid, ...]
    lungs: tuple[Ellipsoid, Ellipsoid]  # right, left; `organs` and `domes` taken out
    organs: tuple[Ellipsoid, ...]  # heart first
    domes: tuple[Ellipsoid, Ellipsoid]  # of the diaphragm, in middle breath
    trachea: tuple[Ellipsoid, ...]
    bones: Points
    vessels: tuple[Points, Points]
    nodules: tuple[Lump, ...]
    mimics: tuple[Lump, ...]


def person(index: int, options: Options, seed: int) -> Person:
    """Return who patient `index` is under `seed`."""
    rng = stream(seed, index, Use.PERSON)
    sex, age_years = str(rng.choice(["F", "M"])), int(np.clip(rng.normal(60, 16), 18, 97))
    has_nodule = bool(rng.random() < options.prevalence)
    site = int(rng.integers(SITES))
    if rng.random() < options.shortcut:
        site = 0 if has_nodule else 1 + site % (SITES - 1)
    return Person(index, sex, age_years, site, 1 + int(rng.choice(3, p=STUDIES)), has_nodule)


def patient(index: int, options: Options, seed: int) -> Patient:
    """Return the body of patient `index` under `seed`."""
    who = person(index, options, seed)
    rng = stream(seed, index, Use.BODY)
    size = rng.uniform(0.9, 1.08, 3) * (0.95 if who.sex == "F" else 1.02)
    solid, domes, lungs = organs.organs(rng, size, who.age_years), organs.domes(rng, size), organs.lungs(rng, size)
    soft, fat, breasts = organs.torso(rng, size, who.sex)
    bones, on_ribs = skeleton.bones(rng, size, who.age_years)
    right, left = (vessels.tree(rng, side, size) for side in (-1, 1))
    room = Room(rng, lungs, solid, domes)
    nipple_z = rng.uniform(-80, -45)
    return Patient(
        person=who,
        soft=soft,
        fat=fat,
        breasts=breasts,
        lungs=lungs,
        organs=solid,
        domes=domes,
        trachea=organs.trachea(rng, size),
        bones=bones,
        vessels=(_inside(right, lungs[0], solid), _inside(left, lungs[1], solid)),
        mimics=lumps.mimics(rng, room.place, on_ribs, lambda side: on_front(breasts, fat[0], side, nipple_z)),
        nodules=tuple(room.nodule(options) for _ in range(1 + rng.choice(3, p=NODULES))) if who.has_nodule else (),
    )


def _inside(tree: Points, lung: Ellipsoid, solid: tuple[Ellipsoid, ...]) -> Points:
    """Return the part of a vessel tree that lies in its lung."""
    tree = tree.where(lung.holds(tree.places))
    for organ in solid:
        tree = tree.where(~organ.holds(tree.places))
    return tree
