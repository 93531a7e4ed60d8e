"""Architectures are data: which modules of a language model hold its neurons."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Adds:
    """How a layer adds up: out = ``whole`` (in + ``attention`` A + ``mlp`` M + ``also`` others).

    A, M and the others are what the modules named by an ``Architecture`` give.
    """

    whole: float = 1.0
    attention: float = 1.0
    mlp: float = 1.0
    also: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scales:
    """Factors between the parts of a language model; without any, each is 1.

    The stream begins as ``embeddings`` times what the model is given; ``layers`` has a record
    for each layer, or is empty where all are plain. With u what the unembedding gives, the
    logits are ``logits`` u, and with a soft ``cap`` c, c tanh(``logits`` u / c).
    """

    embeddings: float = 1.0
    layers: tuple[Adds, ...] = ()
    logits: float = 1.0
    cap: float | None = None


@dataclass(frozen=True)
class Experts:
    """How units lie in a mixture of experts: ``units`` of each of ``count``, then ``shared``."""

    count: int
    units: int
    shared: int = 0

    def name(self, unit: int) -> str:
        """Name a unit of the layer by its expert: ``e3.u120``, or ``shared.u120``."""
        expert, inside = divmod(unit, self.units)
        if expert < self.count:
            return f"e{expert}.u{inside}"
        return f"shared.u{unit - self.count * self.units}"

    def unit(self, expert: int | None, inside: int) -> int:
        """Number a unit of an expert, None for the shared one, among the layer's.

        ``ValueError`` for one that is not there.
        """
        limit = self.shared if expert is None else self.units
        if not (0 <= inside < limit and (expert is None or expert < self.count)):
            raise ValueError(
                f"unit {inside} of {'the shared expert' if expert is None else f'expert {expert}'} "
                f"is not in this model: {self.count} experts of {self.units} units, and "
                f"{self.shared} shared ones"
            )
        return (self.count if expert is None else expert) * self.units + inside


@dataclass(frozen=True)
class Architecture:
    """Where a language model keeps its parts: module paths, so that architectures are data.

    ``layers`` and what follows it are paths in the language model; ``pre``, ``act`` and
    ``attention`` are paths inside one layer. The output of ``pre`` is Z, the input of
    ``act`` is the activation, and the outputs of ``act`` and of ``attention`` are what
    the layer adds to the residual stream, as they are unless ``mlp_norm``, ``also`` or
    ``scales`` say else. In a gated MLP the output of ``gate`` is the gate activation, one
    factor of the activation; None where there is no gate. ``query`` makes attention's queries,
    and ``attend`` is a method ``(query, key, value, mask)`` of all heads; they only save time,
    and are None where they are not known.

    ``mlp_norm`` is a norm that stands between the output of ``act`` and the stream, None where
    there is none; ``also`` are further modules whose outputs a layer adds to the stream, and
    ``scales`` the factors of all that. ``experts`` says how units lie in a mixture of experts,
    and ``positions`` that learned positions are added to the embeddings. ``attention`` is one
    path for each layer where some mix tokens by something else, a recurrence or a convolution.
    ``stacked`` says that a layer is told nothing of the layers below but the stream, and the
    first one nothing else than the embeddings: a pass can begin at any layer. What else a layer
    gets, it gets for one row as well as for all, so that one row may become several on the way.
    """

    layers: str
    pre: str
    act: str
    attention: str | tuple[str, ...]
    norm: str
    unembed: str
    gate: str | None = None
    query: str | None = None
    attend: str | None = None
    mlp_norm: str | None = None
    also: tuple[str, ...] = ()
    scales: Scales = Scales()
    experts: Experts | None = None
    positions: bool = False
    stacked: bool = False

    def attention_of(self, layer: int) -> str:
        """Path, inside a layer, of the module whose output its attention adds, or what mixes."""
        return self.attention if isinstance(self.attention, str) else self.attention[layer]


GPTJ = Architecture(
    layers="transformer.h",
    pre="mlp.fc_in",
    act="mlp.fc_out",
    attention="attn.out_proj",
    norm="transformer.ln_f",
    unembed="lm_head",
    query="attn.q_proj",
    attend="attn._attn",
    stacked=True,
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
    stacked=True,
)
