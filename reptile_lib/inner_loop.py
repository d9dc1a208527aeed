"""The inner loop: U_τ^k(φ), k steps of an optimiser on each of n tasks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from reptile_lib.inner import InnerOptimizer, State
from reptile_lib.kernel import (
    Adapted,
    Kernel,
    batches_of,
    differentiated,
    in_kernel_order,
    reordered,
    steps_on,
)
from reptile_lib.tasks import Batch


@dataclass(frozen=True)
class InnerLoop:
    """The paper's U: what an inner optimiser makes of φ on a task.

    All vectors are in the kernel's order. Tasks are the first axis. φ [P] is the start
    of all of them; with a φ of several axes, such as [runs, P], tasks have the same
    further axes, [n, runs, ...]; and φ [n, P] is a start for each task. A state is
    shaped as φ is.
    """

    kernel: Kernel
    inner: InnerOptimizer

    def __call__(
        self, phi: Tensor, support: Batch, order: Tensor, state: State | None = None
    ) -> Adapted:
        """Run k inner steps on each of n tasks: φ̃ᵢ = U_τᵢ^k(φ).

        Args:
            phi: where they start, [P].
            support: x [n, S, ...], y [n, S, ...].
            order: [n, k, b], which of the S examples make up each minibatch.
            state: where the optimiser starts; as it begins, if None or empty.
        """
        found = self.kernel.descend(*self._flat(phi, support, order, state))
        return found.map(lambda t: t.view(*order.shape[:-2], *t.shape[1:]))

    def differentiable(
        self, phi: Tensor, support: Batch, order: Tensor, state: State | None = None
    ) -> Adapted:
        """Do the same and keep the graph: φ̃ can be differentiated by φ.

        Memory grows with k.
        """
        inner, theta, start, support, flat = self._flat(phi, support, order, state)
        gradient = differentiated(self.kernel.losses, keep_graph=True)
        batches = batches_of(support, flat)
        with torch.enable_grad():
            found = steps_on(gradient, inner, theta, start, batches)
            return found.map(lambda t: t.view(*order.shape[:-2], *t.shape[1:]))

    def losses(self, theta: Tensor, batch: Batch) -> Tensor:
        """Return the losses [n, ...] at theta [n, ..., P]; differentiable."""
        return self.kernel.losses(*_flat(theta, batch)).view(theta.shape[:-1])

    def gradient(self, theta: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return gradients [n, ..., P] at theta [n, ..., P], and losses [n, ...]."""
        g, losses = self.kernel.gradient(*_flat(theta, batch))
        return g.view(theta.shape), losses.view(theta.shape[:-1])

    def _flat(
        self, phi: Tensor, support: Batch, order: Tensor, state: State | None
    ) -> tuple[InnerOptimizer, Tensor, State, Batch, Tensor]:
        """Give each task its start, all axes of tasks made one."""
        axes = order.shape[:-2]
        inner = in_kernel_order(self.inner, self.kernel)
        theta = phi.expand(*axes, -1)
        start = state or inner.init(theta)
        if state and phi.dim() < theta.dim():
            start = {name: v.expand(axes[0], *v.shape) for name, v in state.items()}
        last = len(axes) - 1
        start = {name: v.flatten(0, last) for name, v in start.items()}
        theta, support = _flat(theta, support)
        return inner, theta, start, support, order.flatten(0, last)


def _flat(theta: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
    """Make all axes of tasks one: of theta [n, ..., P], and of a batch for it."""
    last = theta.dim() - 2
    return theta.flatten(0, last), batch.map(lambda t: t.flatten(0, last))


def adapt(
    kernel: Kernel,
    phi: Tensor,
    support: Batch,
    order: Tensor,
    inner: InnerOptimizer,
    state: State | None = None,
) -> Adapted:
    """Run `InnerLoop` on vectors in the model's order.

    Args:
        kernel: of the model and the criterion, such as `learner.kernel`.
        phi: start, [P] for all tasks or [n, P].
        support: x [n, S, ...], y [n, S, ...].
        order: [n, k, b].
        inner: the inner optimiser.
        state: where the optimiser starts, shaped as φ is; as it begins, if None.

    >>> from reptile_lib import mlp, sgd
    >>> from reptile_lib.kernel import of_model
    >>> from reptile_lib.params import ravel
    >>> model = mlp(1, 1)  # θ = (w, b), and every task asks for 0 at x = 1
    >>> kernel = of_model(model, torch.nn.functional.mse_loss)
    >>> support = Batch(torch.ones(3, 1, 1), torch.zeros(3, 1, 1))
    >>> order = torch.zeros(3, 5, 1, dtype=torch.int64)  # 3 tasks, 5 steps, 1 example
    >>> found = adapt(kernel, ravel(model), support, order, sgd(0.25))
    >>> found.theta.shape, found.losses.shape, found.steps
    (torch.Size([3, 2]), torch.Size([3, 5]), tensor([5, 5, 5]))
    >>> bool((found.theta.sum(1).abs() < 1e-6).all())  # w + b, after the first step
    True
    """
    start = reordered(state, phi, kernel.pack) if state else None
    found = InnerLoop(kernel, inner)(kernel.pack(phi), support, order, start)
    left = reordered(found.state, phi, kernel.unpack)
    return found._replace(theta=kernel.unpack(found.theta), state=left)
