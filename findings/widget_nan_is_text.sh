#!/usr/bin/env bash
# Guess: a NaN in a widget's synced trait reaches the browser as null, as JSON has no NaN, or stops
# with an error; an infinity likewise.
# What happens: when a message does not fit JSON, jupyter_client cleans all of it, and NaN and the
# infinities become the TEXTS "nan", "inf" and "-inf". The first such message of a kernel warns in the
# cell's output, later ones from that place do not. In the kernel the trait still holds the number.
# Why it matters: a heat map or a histogram of unit activations, sent to an anywidget, has strings among
# its numbers in JavaScript: value == null and Number.isNaN(value) are false, Number("inf") is NaN, and
# total + "nan" glues texts together. The patch that was not measured is not seen to be missing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ipywidgets==8.1.9 ipykernel==7.4.0 jupyter_client==8.10.0 traitlets==5.16.1
cd "$folder"
venv/bin/python - <<'END'
import logging, sys
from importlib.metadata import version
from jupyter_client.manager import start_new_kernel

logging.disable()
for package in ("ipywidgets", "ipykernel", "jupyter_client"):
    print(package, version(package))
setup = """
import ipywidgets, traitlets
class Map(ipywidgets.DOMWidget):
    patches = traitlets.List().tag(sync=True)
map = Map()
"""
change = "map.patches = [0.5, float('nan'), float('inf'), -float('inf')]; print(map.patches)"
manager, client = start_new_kernel(kernel_name="python3")


def messages(code):
    """Run code in the kernel; return what it published until it was idle again."""
    client.execute(code)
    found = []
    while True:
        message = client.get_iopub_msg(timeout=60)
        content = message["content"]
        if message["msg_type"] == "status" and content["execution_state"] == "idle":
            return found
        found.append((message["msg_type"], content))


try:
    messages(setup)
    published = messages(change)
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
wire = [c["data"]["state"]["patches"] for kind, c in published if kind == "comm_msg"]
print("in the kernel:", [c["text"].strip() for _, c in published if c.get("name") == "stdout"])
print("on the wire:  ", wire)
if wire != [[0.5, "nan", "inf", "-inf"]]:
    sys.exit("A NaN in a widget's trait no longer crosses as the text 'nan'.")
END
