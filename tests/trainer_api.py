"""A stand-in for what the Kubeflow SDK asks of Kubernetes; it runs a TrainJob's nodes as processes, and is no cluster.

What it is sent must be a TrainJob to the letter of Kubeflow Trainer's own models. Nodes get the variables that its JAX
runtime sets.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from kubeflow_trainer_api import models
from kubernetes.client import Configuration

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = ROOT / "infra/k8s/trainer/runtime.yaml"
GROUP = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team"
PODS = "/api/v1/namespaces/team/pods"
CREATED = "2026-01-01T00:00:00Z"


class Cluster(ThreadingHTTPServer):
    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.jobs, self.nodes, self.requests = folder, {}, {}, []
        self.runtime, self.status = yaml.safe_load(RUNTIME.read_text()), None

    @property
    def configuration(self):
        configuration = Configuration(host=f"http://127.0.0.1:{self.server_port}")
        configuration.retries = False
        return configuration

    def start(self, job):
        """Run the command of every node, as the controller would in pods of their own."""
        parsed = models.TrainerV1alpha1TrainJob.from_dict(job)
        assert json.loads(parsed.to_json()) == job, "not a TrainJob to the letter"
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        job["metadata"] |= {"namespace": "team", "creationTimestamp": CREATED}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        given = {each["name"]: each["value"] for each in trainer["env"]}
        self.nodes[name] = []
        for i in range(trainer["numNodes"]):
            own = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(trainer["numNodes"])}
            env = {**os.environ, **given, **own, "JAX_PROCESS_ID": str(i), "PYTHONPATH": os.pathsep.join(sys.path)}
            env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
            folder = self.folder / f"{name}-{i}"
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen(trainer["command"], cwd=folder, env=env, stdout=log, stderr=log)
            self.nodes[name].append((process, folder / "log"))
        self.jobs[name] = job

    def seen(self, name):
        codes = [process.poll() for process, _ in self.nodes[name]]
        ended = "Failed" if any(codes) else "Complete" if all(code == 0 for code in codes) else None
        condition = {"type": ended, "status": "True", "reason": "x", "message": "", "lastTransitionTime": CREATED}
        return self.jobs[name] | {"status": {"conditions": [condition]} if ended else {}}

    def pods(self, name):
        phases = {None: "Running", 0: "Succeeded"}
        return [
            {
                "metadata": {
                    "name": f"{name}-node-0-{i}",
                    "creationTimestamp": CREATED,
                    "labels": {
                        "jobset.sigs.k8s.io/replicatedjob-name": "node",
                        "batch.kubernetes.io/job-completion-index": str(i),
                    },
                },
                "spec": {"containers": [{"name": "node", "image": "x"}]},
                "status": {"phase": phases.get(process.poll(), "Failed")},
            }
            for i, (process, _) in enumerate(self.nodes.get(name, []))
        ]

    def remove(self, name):
        for process, _ in self.nodes.pop(name):
            process.kill()
            process.wait()
        del self.jobs[name]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def _answer(self, code, content):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json" if not isinstance(content, bytes) else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer_log(self, process, log, *, follow):
        """Send what a node has said, and with `follow` what it goes on to say until it ends."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()  # HTTP 1.0: the end of the connection is the end of the log
        with log.open("rb") as file:
            while True:
                ended = process.poll() is not None or not follow
                self.wfile.write(file.read())
                self.wfile.flush()
                if ended:
                    return
                time.sleep(0.1)

    def do_GET(self):
        server, path = self.server, self.path.partition("?")[0]
        server.requests.append(("GET", path))
        job = path.removeprefix(f"{GROUP}/trainjobs/")
        if server.status:
            self._answer(server.status, {})
        elif path == f"{GROUP}/trainingruntimes/medloop-train":
            self._answer(200, server.runtime)
        elif job in server.jobs:
            self._answer(200, server.seen(job))
        elif path == PODS:
            name = re.search("jobset-name%3D([a-z0-9-]+)", self.path)[1]
            self._answer(200, {"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": server.pods(name)})
        elif found := re.fullmatch(rf"{PODS}/(.+)-node-0-(\d+)/log", path):
            self._answer_log(*server.nodes[found[1]][int(found[2])], follow="follow=True" in self.path)
        else:
            self._answer(404, {})

    def do_POST(self):
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(("POST", self.path))
        if self.path != f"{GROUP}/trainjobs":
            self._answer(404, {})
            return
        try:
            self.server.start(job)
        except Exception as error:
            self._answer(422, {"message": str(error)})
            raise
        self._answer(201, job)

    def do_DELETE(self):
        name = self.path.removeprefix(f"{GROUP}/trainjobs/")
        self.server.requests.append(("DELETE", self.path))
        self.server.remove(name)
        self._answer(200, {})


@contextmanager
def serving(folder):
    with Cluster(folder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            for name in list(server.jobs):
                server.remove(name)
            server.shutdown()
            thread.join()
