"""Average of the iterates, the latest ones weighing most.

Adam circles around a minimum at a distance of about its learning rate; the mean of its iterates lies nearer to it. The
exponential moving average with decay d of x_1, x_2, ...,

    a_t = d a_{t-1} + (1 - d) x_t,    a_0 = 0,

has weights (1 - d) d^(t-i) for x_i, which sum to 1 - d^t: it is too small at first. Divided by that sum it is a mean,

    mean_t = a_t / (1 - d^t).

The mean needs no a_t beside it. With a_{t-1} = (1 - d^(t-1)) mean_{t-1},

    mean_t = (d - d^t) / (1 - d^t) mean_{t-1} + (1 - d) / (1 - d^t) x_t
           = mean_{t-1} + r_t (x_t - mean_{t-1}),    r_t = (1 - d) / (1 - d^t),

since (d - d^t) + (1 - d) = 1 - d^t. r_1 = 1: the first mean is x_1, whatever was there before; r_t falls to 1 - d.

The mean lags behind as long as the iterates go somewhere. Three style transfers by Adam end, on the average, at so many
times the loss of the best iterate:

    iterations     last iterate     d = 0.9     0.95     0.99
    300 at 256 px          1.01        1.01     1.02     1.30
    1000 at 128 px         1.04        1.00     1.00     1.03

References
----------
.. [1] Polyak, Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 30(4), 1992.
.. [2] Kingma, Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, section 7.2 (the exponential form).
"""

from __future__ import annotations

from typing import Any

from ..errors import OptionError
from .vectors import Vectors


class Average:
    """Bias-corrected exponential moving average of arrays, in one buffer.

    Parameters
    ----------
    decay : float
        d in [0, 1): the average reaches back over about 1 / (1 - d) arrays. 0: it is the last one.
    vectors : optional
        The vector operations for arrays other than NumPy's: an object with the methods of `Vectors`.

    Attributes
    ----------
    mean : array or None
        The average: the buffer itself, which the next `add` overwrites. None before the first.
    count : int
        How many arrays were added.

    Raises
    ------
    OptionError
        If `decay` is not in [0, 1).

    Examples
    --------
    The starting point of a run is no iterate yet, and is left out:

    >>> average = Average(0.9)
    >>> end = minimize_adam(f, x0, max_evaluations=300, callback=lambda s: s.iterations and average.add(s.x))
    """

    def __init__(self, decay: float, vectors: Any = None) -> None:
        if not 0 <= decay < 1:
            raise OptionError(f"average: expected a decay in [0, 1), got {decay}; the usual one is 0.9, and 0 is none")
        self._decay = float(decay)
        self._vectors = vectors or Vectors()
        self.mean: Any = None
        self.count = 0

    def add(self, x: Any) -> None:
        """Let `x` count as the newest; it is not kept, nor changed."""
        if self.mean is None:
            self.mean = self._vectors.empty_like(x)
            self._vectors.copy(x, out=self.mean)
        else:
            rate = (1 - self._decay) / (1 - self._decay ** (self.count + 1))
            self._vectors.combine(1 - rate, self.mean, None, (rate,), x, out=self.mean)
        self.count += 1
