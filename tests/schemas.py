"""Checks objects against Kubernetes's own schemas, and custom resources against those of their operators."""

import json
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
from kubernetes_validate import SchemaNotFoundError, ValidationError

from cluster import TOOLS, tool

VERSION = "1.31"  # of Kubernetes: the oldest that this is for
PACKAGES = {
    "monitoring.coreos.com": "prometheus-operator",
    "external-secrets.io": "external-secrets",
    "cert-manager.io": "cert-manager",
}
CHECK = """
import { readFileSync } from "node:fs";
for (const line of readFileSync(process.argv[2], "utf8").trim().split("\\n")) {
  const [module, object] = JSON.parse(line);
  let said = "";
  try { new (await import(module))[object.kind](object).validate(); } catch (error) { said = error.message; }
  console.log(JSON.stringify(said));
}
"""


def is_custom(each: dict) -> bool:
    return each["apiVersion"].partition("/")[0].endswith((".com", ".io")) and not each["apiVersion"].partition("/")[
        0
    ].endswith(".k8s.io")


def core(each: dict) -> str:
    """Return what is wrong with an object of Kubernetes's own, '' for nothing; a field that it does not know is."""
    try:
        kubernetes_validate.validate(each, VERSION, strict=True)
    except (ValidationError, SchemaNotFoundError) as error:
        return str(error).strip() or type(error).__name__
    return ""


def custom(objects: list[dict], folder: Path) -> list[str]:
    """Return what is wrong with each custom resource, '' for nothing.

    The schemas say what must be there and of which type, the compiler of TypeScript which fields exist.
    """
    if not (TOOLS / "node_modules/typescript").exists():
        pytest.skip("no schemas of custom resources here: .ci/kubernetes gets them")
    node = tool("node")
    (folder / "node_modules").symlink_to(TOOLS / "node_modules")
    modules = [_module(each) for each in objects]
    found = [
        "" if module else f"no schema for {each['apiVersion']} {each['kind']}"
        for module, each in zip(modules, objects, strict=True)
    ]
    known = [place for place, module in enumerate(modules) if module]
    (folder / "check.mjs").write_text(CHECK)
    (folder / "objects.jsonl").write_text("\n".join(json.dumps([modules[place], objects[place]]) for place in known))
    lines = [
        f'export const o{place}: import("{modules[place]}").I{objects[place]["kind"]} = {json.dumps(objects[place])};'
        for place in known
    ]
    (folder / "objects.ts").write_text("\n".join(lines))
    checked = subprocess.run(
        [node, "check.mjs", "objects.jsonl"], cwd=folder, capture_output=True, text=True, check=True
    )
    for place, said in zip(known, checked.stdout.splitlines(), strict=True):
        found[place] = json.loads(said)
    compiler = [node, TOOLS / "node_modules/typescript/bin/tsc", "--noEmit", "--strict", "--skipLibCheck"]
    compiled = subprocess.run(
        [*compiler, "--module", "nodenext", "--moduleResolution", "nodenext", "objects.ts"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    errors = re.findall(r"^objects\.ts\((\d+),\d+\): error \w+: (.*)$", compiled.stdout, re.MULTILINE)
    assert errors or compiled.returncode == 0, compiled.stdout
    for line, said in errors:
        found[known[int(line) - 1]] += said
    return found


def _module(each: dict) -> str | None:
    group, _, version = each["apiVersion"].partition("/")
    package = f"@kubernetes-models/{PACKAGES.get(group)}/{group}/{version}/{each['kind']}"
    return package if (TOOLS / "node_modules" / f"{package}.js").exists() else None
