"""Recordings in the WFDB format and samples of kind sequence, small and made here."""

from pathlib import Path

import numpy as np
import wfdb

from medloop import kinds, manifest, params, plugins, provenance

RATE = 50


def record(
    folder: Path, name: str, *, moments: int = 3000, leads=("I", "II"), beats: bool = True, seed: int = 0
) -> None:
    """Write one record of noisy waves, a beat each second, every fourth of another shape."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    time = np.arange(moments) / RATE
    signal = 0.3 * np.sin(2 * np.pi * time) + 0.05 * random.normal(size=moments)
    places = np.arange(RATE, moments - RATE, RATE)
    symbols = ["V" if number % 4 == 3 else "N" for number in range(len(places))]
    for place, symbol in zip(places, symbols, strict=True):
        shape = np.exp(-((np.arange(-10, 10) / (3 if symbol == "N" else 7)) ** 2))
        signal[place - 10 : place + 10] += shape * (1 if symbol == "N" else -1)
    values = np.stack([signal * (1 + lead) for lead in range(len(leads))], axis=1)
    wfdb.wrsamp(
        name,
        fs=RATE,
        units=["mV"] * len(leads),
        sig_name=list(leads),
        p_signal=values,
        fmt=["16"] * len(leads),
        comments=["63 F"],
        write_dir=str(folder),
    )
    if beats:
        wfdb.wrann(name, "atr", places, symbol=symbols, write_dir=str(folder))


def samples(folder: Path, signals, *, splits=None, kind="sequence", in_time=False, **columns) -> tuple:
    """Pack signals (T, C) as samples; return the table, its facts and its values."""
    writer, rows = manifest.ShardWriter(folder), []
    for number, values in enumerate(signals):
        row = dict.fromkeys(manifest.SCHEMA.names)
        row |= {"sample_id": f"s{number}", "patient_id": f"p{number}", "study_id": f"r{number}", "source": "waves"}
        row |= {"split": (splits or manifest.SPLITS)[number % 3], "content_sha256": provenance.json_digest(number)}
        row |= {"shape": list(values.shape), "dtype": "float32", "rate_hz": 50.0, "unit": "mV", "start": 0}
        row |= {name: column[number] for name, column in columns.items()}
        rows.append(row | writer.add(values))
    writer.close()
    facts = manifest.Facts((), "waves", kind, split_in_time=in_time)
    manifest.write(rows, facts, folder)
    return manifest.read(folder)[0], facts, manifest.Values(folder)


def section(**windows) -> params.Preprocess:
    return params.Preprocess(sequence=params.Windows(**windows))


def sequence():
    return plugins.load(kinds, "sequence")
