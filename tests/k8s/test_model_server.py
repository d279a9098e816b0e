"""The model server with its metrics, and how its pod gets the model, on this machine."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from urllib.error import HTTPError, URLError

import cv2
import pytest

import toy_registry
from cluster import rendered
from medloop.tracking import packaging
from support import ROOT


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    toy_registry.make(folder)
    card = json.loads((folder / "evaluation/card.json").read_text())
    with packaging.packaged(folder / "models/cnn", card, model_id="m-0", run_id="0") as made:
        shutil.copytree(made, folder / "model")
    with closing(socket.socket()) as tried:
        tried.bind(("127.0.0.1", 0))
        port = tried.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--app-dir",
        str(ROOT / "infra/docker"),
        "serve:app",
        "--port",
        str(port),
    ]
    env = {**os.environ, "__pyfunc_model_path__": str(folder / "model")}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and server.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except URLError:
                time.sleep(0.2)
        else:
            pytest.fail((folder / "log").read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def ask(address: str, content: bytes) -> int:
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(content).decode()]]}})
    asked = urllib.request.Request(f"{address}/invocations", body.encode(), {"Content-Type": "application/json"})
    try:
        return urllib.request.urlopen(asked, timeout=60).status
    except HTTPError as error:
        return error.code


def test_predictions_are_counted_by_how_they_ended(address):
    image = cv2.imencode(".png", cv2.UMat(8, 8, cv2.CV_8U).get())[1].tobytes()
    assert ask(address, image) == 200
    bad = ask(address, b"no image")
    assert bad >= 400
    told = urllib.request.urlopen(f"{address}/metrics", timeout=10).read().decode()
    count = dict(
        re.findall(r'^http_requests_total\{handler="/invocations",.*?status="(\dxx)"\} (\S+)', told, re.MULTILINE)
    )
    assert count == {"2xx": "1.0", f"{bad // 100}xx": "1.0"}
    assert 'handler="/health"' not in told


def test_the_alerts_ask_for_metrics_that_the_server_has(address):
    ask(address, b"no image")
    told = urllib.request.urlopen(f"{address}/metrics", timeout=10).read().decode()
    rules = rendered("minimal").one("PrometheusRule", "medloop")["spec"]["groups"][0]["rules"]
    wanted = {name for each in rules for name in re.findall(r"http_\w+", each["expr"])}
    assert wanted == {"http_requests_total", "http_request_duration_seconds_bucket"}
    for name in wanted:
        assert re.search(rf'^{name}\{{.*handler="/invocations"', told, re.MULTILINE), name
    slow = next(each["expr"] for each in rules if each["alert"] == "MedloopModelServerSlow")
    limit = float(slow.rpartition("> ")[2])
    assert f'le="{limit}"' in told, "the limit is the edge of a bucket"
