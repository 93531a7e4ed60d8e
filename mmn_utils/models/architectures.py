"""Architectures are data: which modules of a language model hold its neurons."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """Where a language model keeps its parts: module paths, so that architectures are data.

    ``layers`` and what follows it are paths in the language model; ``pre``, ``act`` and
    ``attention`` are paths inside one layer. The output of ``pre`` is Z, the input of
    ``act`` is the activation, and the outputs of ``act`` and of ``attention`` are what
    the layer adds to the residual stream. In a gated MLP the output of ``gate`` is the
    gate activation, one factor of the activation; None where there is no gate. ``query`` makes
    attention's queries, and ``attend`` is a method ``(query, key, value, mask)`` of all heads;
    they only save time, and are None where they are not known.
    """

    layers: str
    pre: str
    act: str
    attention: str
    norm: str
    unembed: str
    gate: str | None = None
    query: str | None = None
    attend: str | None = None


GPTJ = Architecture(
    layers="transformer.h",
    pre="mlp.fc_in",
    act="mlp.fc_out",
    attention="attn.out_proj",
    norm="transformer.ln_f",
    unembed="lm_head",
    query="attn.q_proj",
    attend="attn._attn",
)
LLAMA = Architecture(
    layers="model.layers",
    pre="mlp.gate_proj",
    act="mlp.down_proj",
    attention="self_attn.o_proj",
    norm="model.norm",
    unembed="lm_head",
    gate="mlp.act_fn",
    query="self_attn.q_proj",
)
