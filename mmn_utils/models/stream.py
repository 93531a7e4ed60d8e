"""How what MLPs write reaches the residual stream, and the stream the logits.

In most language models a unit adds its activation times its write vector, and the logits are
what the unembedding gives. Elsewhere a norm stands between an MLP and the stream, factors
stand before and behind it, and the logits are scaled or capped: data of the architecture
(``Architecture.mlp_norm`` and ``scales``), read off here and nowhere else. Behind a norm a
unit adds its activation times ``written_vectors``, over what the norm divides that token by
(``mlp_scale``, or ``capture.mlp_scales`` of a pass): with that number held the units' shares
sum to what the MLP adds. Ablations and edits act before the norm, which sees them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmn_utils.models.architectures import Adds
from mmn_utils.models.frozen_norm import FrozenNorm, freeze
from mmn_utils.models.products import linear


class Stream:
    """The part of the contract that says what reaches stream and logits; see the module's text."""

    def adds(self, layer: int) -> Adds:
        """Return the factors with which a layer adds up."""
        layers = self.architecture.scales.layers
        return layers[layer] if layers else Adds()

    def carried(self, layer: int) -> float:
        """Return the factor of what is in the stream when a layer adds up, at the final norm."""
        return math.prod(self.adds(later).whole for later in range(layer, self.sizes.layers))

    def mlp_norm(self, layer: int) -> FrozenNorm | None:
        """Return the norm between an MLP and the stream, its scale to be frozen; None without."""
        path = self.architecture.mlp_norm
        if path is None:
            return None
        return freeze(self.layer(layer).get_submodule(path), self.sizes.width, self.device)

    def also_modules(self, layer: int) -> list[nn.Module]:
        """Return the modules beside attention and MLP whose outputs a layer adds."""
        return [self.layer(layer).get_submodule(path) for path in self.architecture.also]

    def written_vectors(self, layer: int) -> Tensor:
        """Return what units at activation 1 add to the stream at the final norm: (units, d).

        The write vectors themselves where nothing stands between; behind a norm, but for the
        scale that it divides a token by (``mlp_scale``). Not to be written to.
        """
        return self.reached(layer, self.write_vectors(layer))

    def reached(self, layer: int, vectors: Tensor) -> Tensor:
        """Turn vectors (n, d) that an MLP may write into what they add, as ``written_vectors``."""
        norm, factor = self.mlp_norm(layer), self._mlp_factor(layer)
        vectors = vectors if norm is None else norm.share(vectors.to(norm.gain)).to(vectors)
        return vectors if factor == 1 else factor * vectors

    def read_at_mlp(self, layer: int, rows: Tensor) -> Tensor:
        """Turn rows (..., d) that read the stream into ones that read what an MLP writes.

        Their products with write vectors are those of ``rows`` with ``written_vectors``.
        """
        norm, factor = self.mlp_norm(layer), self._mlp_factor(layer)
        rows = rows if factor == 1 else factor * rows
        return rows if norm is None else norm.fold(rows)

    def mlp_scale(self, layer: int, written: Tensor) -> Tensor | None:
        """Return what the norm behind an MLP divides each token of its output (..., d) by."""
        norm = self.mlp_norm(layer)
        return None if norm is None else norm.scale(written)

    def always_added(self, layer: int) -> Tensor | float:
        """Return what an MLP adds whatever its units do, the shift of the norm behind it: (d)."""
        norm = self.mlp_norm(layer)
        return 0.0 if norm is None else self._mlp_factor(layer) * norm.shift

    def read_out(self, normed: Tensor) -> Tensor:
        """Turn what the final norm gives (..., d) into the logits that the model emits (..., V)."""
        return self.emitted(linear(normed, *self.unembedding))

    def emitted(self, logits: Tensor) -> Tensor:
        """Scale and cap what the unembedding gives, as the model does."""
        scales = self.architecture.scales
        logits = logits if scales.logits == 1 else scales.logits * logits
        return logits if scales.cap is None else scales.cap * torch.tanh(logits / scales.cap)

    def _mlp_factor(self, layer: int) -> float:
        return self.adds(layer).mlp * self.carried(layer)
