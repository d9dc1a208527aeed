"""What remains of Reptile on one data set: an optimiser that interpolates.

With one data set there is one task, and no start to learn for others. The outer step
is still defined: take k steps of any optimiser, then keep only a part ε of the way.
That is Lookahead (Zhang, Lucas, Ba & Hinton 2019, algorithm 1), a means of
optimisation, not of adaptation.
"""

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

from reptile_lib.errors import UserError
from reptile_lib.params import interpolate


class Interpolated(Optimizer):
    """Take k steps of `inner`, then go back: φ ← φ + ε(θ − φ), and θ restarts from φ.

    ::

        optimizer = Interpolated(SGD(model.parameters(), lr=0.1), 5, epsilon=0.5)

    It is used like the optimiser it wraps. A round begins with θ = φ, where the
    parameters stand, and ends after `inner_steps` calls of `step`. Within a round the
    parameters are θ, Lookahead's fast weights; where a round ends they are φ, its slow
    weights, so that is the place to evaluate and to save. φ costs one more copy of the
    parameters while a round is open.

    The state of the inner optimiser (momentum, Adam's moments) is kept over the end of
    a round, as Reptile's authors keep it from task to task; only the weights are set
    back. Parameter groups are those of the inner optimiser, so that a scheduler may be
    given either of the two, but not both.

    Args:
        inner: any `torch.optim` optimiser.
        inner_steps: k, steps a round; Lookahead's synchronisation period.
        epsilon: ε in [0, 1], Lookahead's slow step size α. 1 is `inner` itself. May be
            changed at any time by assignment.

    Attributes:
        inner: the optimiser inside.
        round_step: steps taken in the open round; 0 where the parameters are φ.

    Raises:
        UserError: `inner` is no optimiser, or a setting is out of range.
    """

    def __init__(self, inner: Optimizer, inner_steps: int, epsilon: float) -> None:
        if not isinstance(inner, Optimizer):
            raise UserError(
                f"inner = {inner!r} is no optimiser; give one of torch.optim, made with"
                " the parameters"
            )
        if inner_steps < 1:
            raise UserError(f"inner_steps = {inner_steps}; give at least 1")
        super().__init__(inner.param_groups, inner.defaults)
        self.inner = inner
        self.inner_steps = inner_steps
        self.epsilon = epsilon
        self.round_step = 0
        self._phi: dict[Tensor, Tensor] = {}
        self._share()

    def _share(self) -> None:
        """Let the groups and the state be the inner optimiser's, not copies of them."""
        self.param_groups = self.inner.param_groups
        self.state = self.inner.state

    @property
    def epsilon(self) -> float:
        """ε, the part of the way that is kept."""
        return self._epsilon

    @epsilon.setter
    def epsilon(self, epsilon: float) -> None:
        if not 0.0 <= epsilon <= 1.0:
            raise UserError(f"epsilon = {epsilon}; give a number in [0, 1]")
        self._epsilon = epsilon

    @property
    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one inner step; at the end of a round, the outer step as well.

        Args:
            closure: computes the loss again, for inner optimisers that want it.

        Returns:
            what the inner optimiser returns: the closure's loss, or None.
        """
        # Zhang et al., algorithm 1, for round t = 1, 2, ... with slow step size ε:
        #
        #     θ_{t,0} = φ_{t−1}
        #     θ_{t,i} = θ_{t,i−1} + A(L, θ_{t,i−1}, d)      for i = 1, ..., k
        #     φ_t     = φ_{t−1} + ε(θ_{t,k} − φ_{t−1})
        #
        # A round starts with θ = φ, so φ need not be kept from round to round: it is
        # copied from the parameters before their first step. If somebody else has
        # changed them since (loaded weights, say), the round starts from there.
        if self.round_step == 0:
            self._phi = {p: p.detach().clone() for p in self._parameters}
        loss = None if closure is None else self.inner.step(closure)
        if closure is None:
            self.inner.step()
        self.round_step += 1
        if self.round_step >= self.inner_steps:
            with torch.no_grad():
                for p, phi in self._phi.items():
                    p.copy_(interpolate(phi, p, self.epsilon))
            self.round_step, self._phi = 0, {}
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as `torch.optim.Optimizer.add_param_group` does.

        Within a round its φ is where its parameters stand now.
        """
        if not hasattr(self, "inner"):  # called by Optimizer.__init__
            super().add_param_group(param_group)
            return
        self.inner.add_param_group(param_group)
        if self.round_step:
            new = self.param_groups[-1]["params"]
            self._phi |= {p: p.detach().clone() for p in new}

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimiser's state dict with a further entry, "interpolated".

        That entry holds the settings, the steps done in the open round, and its φ: a
        tensor a parameter, in the order of the groups.
        """
        own = {
            "inner_steps": self.inner_steps,
            "epsilon": self.epsilon,
            "round_step": self.round_step,
            "phi": [self._phi[p] for p in self._parameters] if self._phi else [],
        }
        return {**self.inner.state_dict(), "interpolated": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; it is copied.

        The parameters themselves are the model's to restore. As in `torch.optim`, the
        settings are those of the saved run.

        Raises:
            UserError: it was saved by another kind of optimiser, or for other shapes.
            ValueError: as `torch.optim` raises it, for other parameter groups.
        """
        own = state_dict.get("interpolated")
        if own is None:
            raise UserError(
                "the state dict has no entry 'interpolated': another optimiser saved"
                " it; load it into `.inner`"
            )
        shapes = [p.shape for p in self._parameters]
        if own["round_step"] and [phi.shape for phi in own["phi"]] != shapes:
            raise UserError(
                f"the state dict is for parameters {[*map(_shape, own['phi'])]}, these"
                f" are {[*map(_shape, self._parameters)]}; use the model it was saved"
                " with"
            )
        theirs = dict(state_dict)
        del theirs["interpolated"]
        self.inner.load_state_dict(theirs)
        self._share()
        self.inner_steps, self.epsilon = own["inner_steps"], own["epsilon"]
        self.round_step = own["round_step"]
        saved = zip(self._parameters, own["phi"], strict=False)  # none between rounds
        self._phi = {p: phi.to(p, copy=True) for p, phi in saved}

    def __getstate__(self) -> dict[str, Any]:
        own = ("inner", "inner_steps", "_epsilon", "round_step", "_phi")
        return super().__getstate__() | {name: getattr(self, name) for name in own}


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
