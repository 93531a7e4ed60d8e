"""Muon, for matrices that map what a layer reads to what it writes; AdamW for all else.

AdamW sizes the step of each entry of a matrix by itself. Muon sizes that of each of its
directions: the momentum is made orthogonal, so that a direction that the gradient seldom shows
is learnt as fast as the common ones (Jordan et al. 2024). ``torch.optim.Muon`` multiplies in
bfloat16, a hundred times slower than float32 on a processor without the units for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
SIZE = 0.5  # root mean square of a step, as a share of the learning rate
ROUNDS = 5
# Of the odd polynomial that brings singular values near 1, fast rather than exactly.
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
TINY = 1e-7


def orthogonalised(x: Tensor) -> Tensor:
    """Return matrices (..., m, n) with their singular values brought to some .7 to 1.2.

    Rounds of Newton and Schulz, products alone. A matrix of zeros stays one.
    """
    if x.shape[-2] > x.shape[-1]:
        return orthogonalised(x.mT).mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=TINY)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = LINEAR * x + (CUBIC * gram + QUINTIC * gram @ gram) @ x
    return x


class Muon(torch.optim.AdamW):
    """AdamW whose groups with ``blocks`` learn by Muon instead, at the group's own rate.

    Each matrix (m, n) of such a group is ``blocks`` matrices, one below the other: queries,
    keys and values are three maps, though one product computes them. See ``parameter_groups``.
    """

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Tensor | None:
        """Make one step; the gradients of Muon's matrices are used up by it."""
        alike = defaultdict(list)
        for group in self.param_groups:
            for parameter in group["params"] if group["blocks"] else ():
                if parameter.grad is not None:
                    update = self._momentum(parameter).unflatten(0, (group["blocks"], -1))
                    alike[update.shape[1:]].append((group, parameter, update))
                    parameter.grad = None  # so AdamW passes it by
        for members in alike.values():
            self._apply(members)
        return super().step(closure)

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """Take in the gradient; return Nesterov's momentum."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros(())  # AdamW looks for one when a checkpoint is loaded
        state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(state["momentum"], MOMENTUM)

    @staticmethod
    def _apply(members: list[tuple[dict, nn.Parameter, Tensor]]) -> None:
        """Decay and move matrices of one shape, all in the same products."""
        moved = orthogonalised(torch.cat([update for _, _, update in members]))
        parts = moved.split([len(update) for _, _, update in members])
        for (group, parameter, _), part in zip(members, parts, strict=True):
            # an orthogonal matrix has entries of 1 / sqrt(longer side), root mean square
            size = SIZE * group["lr"] * max(part.shape[-2:]) ** 0.5
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(part.flatten(0, 1), alpha=-size)


def parameter_groups(
    parameters: Sequence[nn.Parameter],
    decay: float,
    *,
    share: float = 1.0,
    plain: Sequence[nn.Parameter] = (),
    by_muon: Mapping[int, Sequence[nn.Parameter]] | None = None,
) -> list[dict]:
    """Sort parameters into groups for ``Muon``.

    ``by_muon`` has those that learn by Muon, by the number of matrices that each holds.
    Of the others matrices decay, but for those among ``plain``. ``share`` is what a group
    takes of the learning rate, for who sets it.
    """
    by_muon = by_muon or {}
    muon = {id(p) for matrices in by_muon.values() for p in matrices}
    kept = {id(p) for p in plain}
    rest = [p for p in parameters if id(p) not in muon]
    decaying = [p for p in rest if p.ndim > 1 and id(p) not in kept]
    others = [p for p in rest if p.ndim < 2 or id(p) in kept]
    groups = [(decaying, decay, 0), (others, 0.0, 0)]
    groups += [(list(matrices), decay, blocks) for blocks, matrices in sorted(by_muon.items())]
    return [
        {"params": params, "weight_decay": of_group, "blocks": blocks, "share": share}
        for params, of_group, blocks in groups
    ]
