"""What remains of Reptile on one data set: an optimiser that interpolates.

With one data set there is one task, and no start to learn for others. The outer step
is still defined: take k steps of any optimiser, then keep only a part ε of the way.
That is Lookahead (Zhang, Lucas, Ba & Hinton 2019, algorithm 1), a means of
optimisation, not of adaptation.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # lazy: torch.compiler.disable takes seconds
from torch.optim import Optimizer

from reptile_lib.errors import UserError
from reptile_lib.params import interpolate

_KEY = "interpolated"


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
    back. Groups and state are the inner optimiser's, so a scheduler may be given either
    of the two, but not both. `torch.compile` leaves a step uncompiled.

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
        self.inner = inner
        self.inner_steps = inner_steps
        self.epsilon = epsilon
        self.round_step = 0
        self._phi: dict[Tensor, Tensor] = {}
        # As in unpickling: Optimizer.__init__ would make groups and state of its own.
        self.__setstate__({"defaults": inner.defaults})

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """The inner optimiser's."""
        return self.inner.state

    @state.setter
    def state(self, state: defaultdict[Tensor, Any]) -> None:
        self.inner.state = state

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The inner optimiser's."""
        for group in self.inner.param_groups:
            group.setdefault(self._key)  # flat checkpoints load keys that are there
        return self.inner.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.inner.param_groups = groups

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
    def _key(self) -> str:
        inner = self.inner
        return f"outer_{inner._key}" if isinstance(inner, Interpolated) else _KEY

    @property
    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _is_trial(self) -> bool:
        """Whether the step only lets state be made, as torch.distributed's first do."""
        rates = [group.get("lr") for group in self.param_groups]
        return (
            not self.state
            and all(getattr(r, "is_cpu", True) and r == 0 for r in rates)
            and not any(p.grad.any() for p in self._parameters if p.grad is not None)
        )

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @_disable_dynamo
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
        if closure is None and self._is_trial():
            self.inner.step()
            return None
        phi = self._phi if self.round_step else {}
        new = [p for p in self._parameters if p not in phi]
        self._phi = phi | {p: p.detach().clone() for p in new}
        loss = None if closure is None else self.inner.step(closure)
        if closure is None:
            self.inner.step()
        self.round_step += 1
        if self.round_step >= self.inner_steps:
            with torch.no_grad():
                for p, phi_p in self._phi.items():
                    p.copy_(interpolate(phi_p, p, self.epsilon))
            self.round_step, self._phi = 0, {}
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; within a round its φ is where it stands at the next step."""
        self.inner.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimiser's state dict with an entry "interpolated" more.

        In a group it is the settings and the steps done in the open round; in a
        parameter's state, within a round, φ. ("outer_interpolated" around another.)
        """
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        key, theirs = self._key, self.inner.state_dict()
        own = {n: getattr(self, n) for n in ("inner_steps", "epsilon", "round_step")}
        groups = [{**group, key: own} for group in theirs["param_groups"]]
        state = dict(theirs["state"])
        for i, p in zip(_ids(groups), self._parameters, strict=True):
            if self.round_step and p in self._phi:
                state[i] = {**state.get(i, {}), key: self._phi[p]}
        saved = {**theirs, "state": state, "param_groups": groups}
        return self._call(self._optimizer_state_dict_post_hooks, saved)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; it is copied.

        The parameters themselves are the model's to restore. As in `torch.optim`, the
        settings are those of the saved run.

        Raises:
            UserError: it was saved by another kind of optimiser, or for other shapes,
                or its φ was lost.
            ValueError: as `torch.optim` raises it, for other parameter groups.
        """
        hooks = self._optimizer_load_state_dict_pre_hooks
        key, theirs = self._key, self._call(hooks, state_dict.copy())
        groups, state = theirs["param_groups"], theirs["state"]
        ids = _ids(groups)
        own = groups[0].get(key)
        saved = {i: state[i][key] for i in ids if key in state.get(i, {})}
        if own is None:
            raise UserError(
                "the state dict has no entry 'interpolated': another optimiser saved"
                " it; load it into `.inner`"
            )
        if own["round_step"] and not saved:
            raise UserError(
                "the state dict was saved within a round, and φ was lost on the way;"
                " save where a round ends, at round_step = 0"
            )
        here = [p for i, p in zip(ids, self._parameters, strict=False) if i in saved]
        theirs_are, ours_are = (
            [[*t.shape] for t in ts] for ts in (saved.values(), here)
        )
        if theirs_are != ours_are:
            raise UserError(
                f"the state dict is for parameters {theirs_are}, these are {ours_are};"
                " use the model it was saved with"
            )
        rest = {i: _without(s, key) if i in saved else s for i, s in state.items()}
        theirs = theirs | {
            "state": {i: s for i, s in rest.items() if s or i not in saved},
            "param_groups": [_without(group, key) for group in groups],
        }
        self.inner.load_state_dict(theirs)
        self.inner_steps, self.epsilon = own["inner_steps"], own["epsilon"]
        self.round_step = own["round_step"]
        pairs = zip(here, saved.values(), strict=True)
        self._phi = {p: phi.to(p, copy=True) for p, phi in pairs}
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def _call(self, hooks: dict[int, Any], saved: dict[str, Any]) -> dict[str, Any]:
        for hook in hooks.values():
            result = hook(self, saved)
            saved = saved if result is None else result
        return saved

    def __getstate__(self) -> dict[str, Any]:
        own = ("defaults", "inner", "inner_steps", "_epsilon", "round_step", "_phi")
        return {name: getattr(self, name) for name in own}


def _ids(groups: list[dict[str, Any]]) -> list[Any]:
    return [i for group in groups for i in group["params"]]


def _without(entries: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in entries.items() if k != key}
