"""One test of ``fedlag-swap``: what the devices' gains say about one candidate, and how sure that is.

A statistic sums up the gains ``x_1 .. x_n`` and says how far it may be off, as a standard error::

    mean          mean(x)                                 sd(x) / sqrt(n), ddof = 1
    median        median(x)                               1.2533 * 1.4826 * MAD(x) / sqrt(n)
    trimmed-mean  mean without the g smallest and the g   sqrt(n - 1) * sd(w) / sqrt(h (h - 1)), where h = n - 2 g and w
                  largest gains; g = floor(n / 5), or as  has those gains replaced by the nearest that are kept
                  many as may be lies

MAD is the median distance from the median; 1.4826 makes a standard deviation of it and 1.2533, ``sqrt(pi / 2)``, the
error of a median, both for normal gains. A mean believes every device. A median stands as long as more than half of the
devices are honest, a trimmed mean as long as at most ``g`` lie. The trimmed mean's error is that of J. W. Tukey and
D. H. McLaughlin, Sankhya A 25, 1963, as K. K. Yuen writes it, Biometrika 61, 1974.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float64

__all__ = ["STANDARD_ERRORS_TO_PASS", "Statistic", "SwapTest", "judge_swap"]

Statistic = Literal["mean", "median", "trimmed-mean"]
"""How the devices' gains are summed up."""

STANDARD_ERRORS_TO_PASS = 1.5
FEWEST_TESTERS = 2
DEVIATION_PER_MAD = 1.4826
MEDIAN_ERROR_PER_MEAN_ERROR = 1.2533
DEVICES_PER_TRIMMED = 5


class SwapTest(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """The outcome of one candidate's test.

    Args:
        gain: The statistic of the devices' gains, in units of the loss.
        standard_error: Of that statistic, at least 0.
        num_better: Devices whose own layer was better.
        num_devices: Devices that tested, at least 2.
        statistic: Which one.
    """

    gain: float
    standard_error: float
    num_better: int
    num_devices: int
    statistic: Statistic = "mean"

    def has_passed(self, standard_errors: float = STANDARD_ERRORS_TO_PASS) -> bool:
        """Whether the devices' own layers are better beyond doubt: by more than so many standard errors."""
        return self.gain > 0 and self.gain > standard_errors * self.standard_error

    def is_tolerable(self, loss_tolerance: float, standard_errors: float = STANDARD_ERRORS_TO_PASS) -> bool:
        """Whether own layers cost at most so much loss, even if it is so many standard errors more than was found."""
        return standard_errors * self.standard_error - self.gain <= loss_tolerance

    def __str__(self) -> str:
        """Return the outcome as the beginning of a sentence."""
        devices = f"{self.num_better} of {self.num_devices} devices do better with their own"
        figures = f"{self.gain:.4g} (standard error {self.standard_error:.2g})"
        return f"{devices}, {self.statistic.replace('-', ' ')} gain {figures}"


def judge_swap(
    gains: Float64[np.ndarray, " testers"], statistic: Statistic = "mean", num_malicious: int | None = None
) -> SwapTest | None:
    """Return the outcome of one candidate's test.

    Args:
        gains: One gain per device that tested, shape ``(testers,)``, in units of the loss; a gain that is not finite is
            left out.
        statistic: How they are summed up.
        num_malicious: How many gains may be lies; a trimmed mean leaves out as many at each end, None is a fifth.

    Returns:
        None if fewer than two devices gave a finite gain, or fewer than two gains beyond twice the lies.

    Example:
        >>> judge_swap(np.array([1.0, 3.0, 2.0, 6.0]))
        SwapTest(gain=3.0, standard_error=1.0801234497346435, num_better=4, num_devices=4)
        >>> print(judge_swap(np.array([1.0, 3.0, 2.0, 4.0, -900.0]), "median"))
        4 of 5 devices do better with their own, median gain 2 (standard error 0.83)
    """
    finite = gains[np.isfinite(gains)]
    num_devices = len(finite)
    if num_devices - 2 * (num_malicious or 0) < FEWEST_TESTERS:
        return None
    if statistic == "median":
        gain = float(np.median(finite))
        deviation = DEVIATION_PER_MAD * float(np.median(np.abs(finite - gain)))
        standard_error = MEDIAN_ERROR_PER_MEAN_ERROR * deviation / math.sqrt(num_devices)
    elif statistic == "trimmed-mean":
        num_trimmed = num_devices // DEVICES_PER_TRIMMED if num_malicious is None else num_malicious
        gain, standard_error = _trimmed_mean(finite, num_trimmed)
    else:
        gain = float(np.mean(finite))
        standard_error = float(np.std(finite, ddof=1)) / math.sqrt(num_devices)
    return SwapTest(gain, standard_error, int(np.count_nonzero(finite > 0)), num_devices, statistic)


def _trimmed_mean(gains: Float64[np.ndarray, " testers"], num_trimmed: int) -> tuple[float, float]:
    """Return the mean of the gains without so many at each end, and its standard error."""
    num_devices = len(gains)
    num_kept = num_devices - 2 * num_trimmed
    kept = np.sort(gains)[num_trimmed : num_devices - num_trimmed]
    deviation = float(np.std(np.clip(gains, kept[0], kept[-1]), ddof=1))
    return float(np.mean(kept)), deviation * math.sqrt((num_devices - 1) / (num_kept * (num_kept - 1)))
