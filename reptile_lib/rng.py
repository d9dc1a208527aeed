"""Random numbers that depend on what they are for, not on who draws them.

Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as
1, 2, 3") hashes a counter under a key. With (seed, stream) as key and (meta-step, task,
slot, index) as counter, task 3 of meta-step 71 is the same on every device, in every
process, and after every restart, without any generator state to carry along.

32-bit words are held in int64 tensors: torch has no unsigned 32-bit arithmetic.
"""

import torch
from torch import Tensor

from reptile_lib.errors import UserError

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # golden ratio, sqrt(3) - 1: they bump the key
ROUNDS = 10
MASK = 0xFFFFFFFF

# What numbers are drawn for. Streams never meet, whatever the seed.
TRAIN, VALIDATE, TEST = 0, 1, 2

ORDER = 2  # the slot for a task's minibatches; task distributions leave it alone


def philox(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Hash four counter words under a two-word key into four random words.

    All words are 32-bit values in int64 tensors of one shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # The product of two words wraps to the right 64 bits; >> is arithmetic, so the
        # high word needs the mask as well.
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & MASK) ^ c1 ^ k0,
            p1 & MASK,
            ((p0 >> 32) & MASK) ^ c3 ^ k1,
            p0 & MASK,
        )
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


class Draws:
    """Random numbers for a list of tasks.

    Args:
        seed: 0 <= seed < 2**32.
        stream: TRAIN, VALIDATE or TEST.
        tasks: int64 [m, 2], the (meta-step, task index) of each task.
    """

    def __init__(self, seed: int, stream: int, tasks: Tensor) -> None:
        """Raise UserError if the seed does not fit into 32 bits."""
        if not 0 <= seed <= MASK:
            raise UserError(f"seed = {seed}; give one from 0 to {MASK}")
        self._key = (seed, stream)
        self.tasks = tasks
        self.device = tasks.device

    def with_seed(self, seed: int) -> "Draws":
        """Return the draws of the same tasks under another seed."""
        return Draws(seed, self._key[1], self.tasks)

    def uniform(self, slot: int, *shape: int) -> Tensor:
        """Return float64 ``[m, *shape]`` in [0, 1).

        `slot` separates the uses within one task (its classes, its examples, ...).
        """
        count = torch.Size(shape).numel()
        index = torch.arange(-(-count // 4), device=self.device)
        index = index.expand(len(self.tasks), -1)
        step, task = (
            column.unsqueeze(1).expand_as(index) for column in self.tasks.unbind(1)
        )
        words = philox((step, task, torch.full_like(index, slot), index), self._key)
        values = torch.stack(words, -1).flatten(1)[:, :count]
        return values.double().div(2**32).reshape(len(self.tasks), *shape)

    def permutations(self, slot: int, count: int, size: int) -> Tensor:
        """Return int64 [m, count, size]: `count` random orders of range(size)."""
        return self.uniform(slot, count, size).argsort(-1)

    def distinct(self, slot: int, count: int, size: int) -> Tensor:
        """Return int64 [m, count]: different numbers below `size`, in random order.

        Floyd's method: one draw a number, however large `size` is. It finds a uniform
        subset, but not in uniform order, so the result is shuffled once.
        """
        u, shuffle = self.uniform(slot, 2, count).unbind(1)
        chosen = torch.full(u.shape, -1, dtype=torch.int64, device=u.device)
        for i, largest in enumerate(range(size - count, size)):
            pick = (u[:, i] * (largest + 1)).long()
            taken = (chosen == pick[:, None]).any(1)
            chosen[:, i] = pick.where(~taken, torch.full_like(pick, largest))
        return chosen.gather(1, shuffle.argsort(1))


def draws(
    seed: int, stream: int, steps: range, tasks: range, device: torch.device
) -> Draws:
    """Name tasks `tasks` of each of the meta-steps `steps`, meta-step by meta-step."""
    numbers = (torch.arange(r.start, r.stop, device=device) for r in (steps, tasks))
    return Draws(seed, stream, torch.cartesian_prod(*numbers))
