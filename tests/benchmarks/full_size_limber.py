"""Run the real system's shapes once, with random weights: does it fit, how long does it take?

GPT-J-6B in bfloat16 and BEiT-large in float32 need 13 GB. By hand, from the repository:

    python -m tests.benchmarks.full_size_limber            # the real shapes
    python -m tests.benchmarks.full_size_limber --tiny     # the same steps in seconds

Prints one line per step: seconds, and the peak of resident memory up to then.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from transformers import BeitConfig, BeitModel, GPTJConfig, GPTJForCausalLM
from transformers.models.gptj.modeling_gptj import create_sinusoidal_positions

from mmn_utils.models.encoders import HubBeit
from mmn_utils.models.limber import LIMBER, Limber, build_limber
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.captions import Caption, generate
from mmn_utils.neurons.targets import Target
from tests.tiny import tiny_images, tiny_tokenizer

GPTJ_6B = GPTJConfig()  # the class's defaults are the 6B model
BEIT_LARGE = BeitConfig(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    use_shared_relative_position_bias=True,
    use_mask_token=True,
)
GPTJ_TINY = GPTJConfig(
    vocab_size=50400, n_embd=32, n_layer=3, n_head=4, rotary_dim=4, n_positions=256
)
BEIT_TINY = BeitConfig(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=96,
    use_shared_relative_position_bias=True,
    use_mask_token=True,
)
_BLOCK = 1_048_573  # a prime, so that no two rows of a matrix come out the same


@dataclass
class Protocol:
    """Times of the steps, and the peak of memory after each."""

    rows: list[tuple[str, float, float]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure one step and print its line."""
        start = time.perf_counter()
        yield
        _wait()
        self.rows.append((name, time.perf_counter() - start, peak_memory()))
        print("{:<34}{:>9.2f} s   peak {:>6.2f} GiB".format(*self.rows[-1]), flush=True)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> float:
    """Return the peak of this process's resident memory in GiB, of the GPU's where one is used."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


@torch.no_grad()
def random_gptj(config: GPTJConfig, device: str, dtype: torch.dtype) -> GPTJForCausalLM:
    """Build a GPT-J in place of its weights: no float32 copy, no slow initialisation."""
    with torch.device("meta"):
        model = GPTJForCausalLM(config).to(dtype)
    model = model.to_empty(device=device)
    generator = torch.Generator().manual_seed(0)
    block = (torch.randn(_BLOCK, generator=generator) * 0.02).to(device, dtype)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1)
            module.bias.zero_()
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            _fill(module.weight, block)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
        if hasattr(module, "embed_positions"):  # a buffer, empty like all the rest
            table = create_sinusoidal_positions(module.max_positions, module.pos_embd_dim)
            module.embed_positions.copy_(table)
    model.lm_head.bias[config.eos_token_id] = -1e4  # two tokens are wanted, not the end
    return model


def _fill(weight: torch.Tensor, block: torch.Tensor) -> None:
    """Fill a matrix with a block of random numbers, again and again."""
    flat = weight.view(-1)
    for start in range(0, len(flat), len(block)):
        part = flat[start : start + len(block)]
        part.copy_(block[: len(part)])


def random_limber(gptj: GPTJConfig, beit: BeitConfig, device: str, dtype: torch.dtype) -> Limber:
    """Join a random GPT-J and a random BEiT by a random projection."""
    encoder = HubBeit(BeitModel(beit, add_pooling_layer=False))
    language_model = random_gptj(gptj, device, dtype)
    projection = nn.Linear(encoder.width, gptj.n_embd)
    facts = replace(LIMBER, name="random limber", revision="random")
    return build_limber(facts, encoder, projection, language_model, tiny_tokenizer())


def second_token(caption: Caption) -> Target:
    """Take the caption's second token as the target, as a noun after an article is."""
    first, second = caption.ids[:2]
    return Target(image="noise", noun="noun", token=second, prefix=(first,))


def run(tiny: bool = False, device: str = "cpu", dtype: str = "bfloat16", k: int = 100):
    """Build, prompt, caption, attribute; returns the model, the protocol and the neuron table."""
    protocol, image = Protocol(), tiny_images(1, side=224)
    gptj, beit = (GPTJ_TINY, BEIT_TINY) if tiny else (GPTJ_6B, BEIT_LARGE)
    gptj.bos_token_id = gptj.eos_token_id = tiny_tokenizer().eos_token_id
    with protocol.step("random weights"):
        model = random_limber(gptj, beit, device, getattr(torch, dtype))
    with protocol.step("prompt"):
        prompt = model.prompt(image)
    with protocol.step("caption of two tokens"):
        caption = generate(model, prompt, max_new_tokens=2)[0]
    with protocol.step("attribution of one image"):
        table = attribution(model, image, [second_token(caption)], k=k)
    return model, protocol, table


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the script")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, help="of torch; its own choice if not given")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    model, _, table = run(options.tiny, options.device, options.dtype)
    weights = sum(p.numel() * p.element_size() for m in model.modules() for p in m.parameters())
    print(f"{model.sizes}, {model.image_tokens}, {weights / 2**30:.2f} GiB of weights")
    print(table.head(5).to_string(index=False))


if __name__ == "__main__":
    main()
