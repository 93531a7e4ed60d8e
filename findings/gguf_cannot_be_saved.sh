#!/usr/bin/env bash
# Guess: from_pretrained(..., gguf_file=...) gives a plain float model (its parameters are float32, its
# layers are nn.Linear), so save_pretrained writes it as any other: the usual way from a GGUF file to
# safetensors.
# What happens: in transformers 5.23 the weights are dequantised all right, but the configuration keeps
# a quantization_config and the model a quantizer, and save_pretrained refuses: "quantized with gguf and
# is not serializable". A config that is saved by itself then says quantised beside plain weights.
# What helps: write the state dict yourself, and delete config.quantization_config before saving that.
# Why it matters: an edited or fine-tuned model that began as a GGUF file cannot be kept.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 gguf==0.19.0 \
    accelerate==1.15.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'END'
import sys
import gguf, numpy, torch, transformers
from transformers import AutoModelForCausalLM

print("transformers", transformers.__version__)
rng = numpy.random.default_rng(0)
d, units, heads, words = 64, 96, 4, 128
writer = gguf.GGUFWriter("tiny.gguf", "llama")
writer.add_block_count(1), writer.add_context_length(64), writer.add_embedding_length(d)
writer.add_feed_forward_length(units), writer.add_head_count(heads), writer.add_head_count_kv(heads)
writer.add_layer_norm_rms_eps(1e-5), writer.add_rope_dimension_count(d // heads)
writer.add_vocab_size(words)
writer.add_tokenizer_model("gpt2")
writer.add_token_list([f"w{i}" for i in range(words)])
shapes = {
    "token_embd": (words, d), "output": (words, d), "output_norm": (d,),
    "blk.0.attn_norm": (d,), "blk.0.ffn_norm": (d,),
    **{f"blk.0.attn_{part}": (d, d) for part in ("q", "k", "v", "output")},
    "blk.0.ffn_gate": (units, d), "blk.0.ffn_up": (units, d), "blk.0.ffn_down": (d, units),
}
for name, shape in shapes.items():
    writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(numpy.float32))
writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
writer.close()

model = AutoModelForCausalLM.from_pretrained(".", gguf_file="tiny.gguf", dtype=torch.float32)
kinds = {str(p.dtype) for p in model.parameters()}
layer = model.model.layers[0].mlp.down_proj
print("parameters:", kinds, "| down_proj:", type(layer).__name__)
print("config.quantization_config:", getattr(model.config, "quantization_config", None))
try:
    model.save_pretrained("saved")
    refused = ""
except ValueError as error:
    refused = str(error)
print("save_pretrained:", refused.splitlines()[0] if refused else "saved")
if kinds != {"torch.float32"} or type(layer) is not torch.nn.Linear or "not serializable" not in refused:
    sys.exit("A dequantised GGUF model can be saved again.")
END
