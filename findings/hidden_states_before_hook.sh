#!/usr/bin/env bash
# Guess: when a forward hook changes a layer's output, output_hidden_states=True returns the changed
# states, because they are what the next layer reads.
# What happens: transformers 5 records with forward hooks of its own, put on at the first call that asks
# for hidden states and left there. Hooks run in the order in which they came. So the same intervention
# is in hidden_states if no such call was made before it, and absent if one was; the logits are changed
# either way. GPT-J, which still collects by hand, always shows it. register_forward_hook(prepend=True)
# puts the intervention first.
# Why it matters: a look at the clean model first, then the ablation, is how everybody works, and a logit
# lens of that run then says that the ablated layer wrote what it always did.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'END'
import sys
import torch, transformers
from transformers import GPTJConfig, GPTJForCausalLM, LlamaConfig, LlamaForCausalLM

print("torch", torch.__version__, "transformers", transformers.__version__)
torch.set_grad_enabled(False)
ids = torch.tensor([[3, 14, 15, 9, 2, 6]])
llama = LlamaConfig(vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
                    num_attention_heads=2, eos_token_id=None, bos_token_id=None)
gptj = GPTJConfig(vocab_size=40, n_embd=16, n_layer=3, n_head=2, rotary_dim=4,
                  eos_token_id=None, bos_token_id=None)


def ablated(kind, config, looked_before, prepend=False):
    """Zero what layer 1 gives; return whether hidden_states show it, and the logits."""
    torch.manual_seed(0)
    model = kind(config).eval()
    if looked_before:
        model(ids, output_hidden_states=True)
    layers = model.model.layers if kind is LlamaForCausalLM else model.transformer.h
    zero = lambda _, __, out: out * 0 if torch.is_tensor(out) else (out[0] * 0, *out[1:])
    layers[1].register_forward_hook(zero, prepend=prepend)
    out = model(ids, output_hidden_states=True)
    return bool((out.hidden_states[2] == 0).all()), out.logits


shown = {}
for name, kind, config in (("Llama", LlamaForCausalLM, llama), ("GPT-J", GPTJForCausalLM, gptj)):
    fresh, looked = ablated(kind, config, False), ablated(kind, config, True)
    first = ablated(kind, config, True, prepend=True)
    shown[name] = fresh[0], looked[0], first[0]
    print(f"{name}: ablation in hidden_states: fresh model {fresh[0]}, looked at before {looked[0]}, "
          f"looked at before and prepended {first[0]}; logits equal {torch.equal(fresh[1], looked[1])}")
if shown != {"Llama": (True, False, True), "GPT-J": (True, True, True)}:
    sys.exit("hidden_states no longer depend on when the intervention's hook was put on.")
END
