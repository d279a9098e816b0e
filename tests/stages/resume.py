"""Trains, is killed at three random moments inside an epoch, and in the end is left alone: see test_train_resume.py.

One process imports TensorFlow, and every attempt is a fork of it: an import costs more than the whole training.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from medloop import params
from medloop.stages import train as stage
from medloop.training import backend, data, live

STATE = Path(os.environ["MEDLOOP_STATE"])


class Silent:
    def __init__(self, *_):
        pass

    def log(self, *_, **__):
        pass

    tag = close = log


def watch(position):
    """Note epoch and segment in a file, and give a kill time to fall between two segments."""
    segments = data.epoch_segments

    def watched(*args, epoch, **kwargs):
        for i, segment in enumerate(segments(*args, epoch=epoch, **kwargs)):
            yield segment
            position.with_suffix(".new").write_text(json.dumps([epoch, i]))
            position.with_suffix(".new").replace(position)
            time.sleep(0.05)

    data.epoch_segments = watched


def attempt(train, position, moment):
    """Kill a training in epoch `moment` or, where it is further by then, in the middle of any; return where it was."""
    child = os.fork()
    if child == 0:
        train()
        os._exit(0)
    while not position.exists() or (reached := json.loads(position.read_text())) < moment:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "training ended before it was killed"
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(STATE.glob("checkpoints/*/state.npz"))) == 1
    return reached


def main(arrays, out):
    section = params.Train.model_validate_json(os.environ["SECTION"])
    live.Live = Silent
    data.SEGMENT_BYTES = 2 * section.batch_size * 12 * 12  # 3 segments an epoch
    watch(out / "position")
    backend.start(backend.select(section), 0)

    def train():
        return stage.train(params.Base(), section, arrays=arrays, model=out / "model")

    moments = [[epoch, random.randrange(2)] for epoch in sorted(random.sample(range(2, 7), 3))]
    kills = [attempt(train, out / "position", moment) for moment in moments]
    assert not (out / "model").exists()
    train()
    print(json.dumps(kills))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
