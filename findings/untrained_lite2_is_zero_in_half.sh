#!/usr/bin/env bash
# Guess: an encoder that was never trained gives features of some size, random ones, and these can be kept in
# half precision as a trained one's can.
# What happens: efficientnet_lite_pytorch's lite2, as it is drawn, in evaluation mode, hands each block on
# smaller than the one before: its norms know no statistics yet, and divide by one. Half of what
# comes out is above zero, and of that nearly all below 3e-8, which float16 does not tell from zero.
# Why it matters: a control that learns from such features, kept in float16, has next to nothing to learn
# from. That it fails says less of encoders without training than it seems: in float32, standardised, the
# same features differ from picture to picture.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 \
    efficientnet-lite-pytorch==0.1.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'END'
import sys
import torch
from efficientnet_lite_pytorch import EfficientNet

torch.manual_seed(0)
network = EfficientNet.from_name("efficientnet-lite2").eval()
pictures = torch.nn.functional.interpolate(torch.randn(4, 3, 9, 9), size=(224, 224), mode="bicubic")
with torch.no_grad():
    found = network.extract_features(pictures)
zero = float((found.half() == 0).float().mean())
print(f"torch {torch.__version__}, efficientnet-lite-pytorch 0.1.0")
print(f"largest feature {float(found.abs().max()):.1e}; of {found.numel():,} zero in float32: "
      f"{float((found == 0).float().mean()):.1%}, in float16: {zero:.1%}")
pooled = found.mean((2, 3))
alike = float((pooled.std(0) / pooled.abs().mean(0).clamp(min=1e-30)).median())
print(f"pooled features of pictures vary by {alike:.1%} of their size, median over features")
if zero < 0.9:
    sys.exit("Untrained features are kept in half precision, too.")
END
