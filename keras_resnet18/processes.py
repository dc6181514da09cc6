"""`Processes`: those that train one network together, and what each of them makes and hears."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class Processes:
    """This process among those that train one network together.

    Attributes:
        index: Number of this process, from 0. The first one alone writes and prints.
        count: How many there are.
    """

    index: int = 0
    count: int = 1

    def rows(self, batch_size: int) -> npt.NDArray[np.int64]:
        """The rows of a global batch that this process makes, in their order.

        As many come from its beginning as from its end, at the mirrored places: so the two images
        that mixup and CutMix mix are made by one process, where its number of rows is even. Of an
        odd number, the one in the middle has its mirror image elsewhere.

        Args:
            batch_size: Images in the global batch, a multiple of `count`.
        """
        half, odd = divmod(batch_size // self.count, 2)
        front = np.arange(half * self.index, half * (self.index + 1))
        middle = half * self.count + self.index + np.arange(odd)
        return np.concatenate([front, middle, batch_size - 1 - front[::-1]])


ALONE = Processes()
