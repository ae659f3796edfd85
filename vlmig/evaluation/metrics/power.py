"""What a comparison could have found: the smallest difference that it detects with 80 % power."""

from __future__ import annotations

import numpy as np
from scipy import stats

from vlmig.evaluation.metrics.bootstrap import LEVEL

POWER = 0.8


def detectable(stderr: float, clusters: int, comparisons: int = 1) -> float:
    """Return the smallest true mean difference that is called "better" or "worse" with 80 % power.

    It is (t_(1 - a/2) + t_0.8) standard errors, Student's t with a degree of freedom less than
    there are clusters, and a = 0.05 / comparisons: what Holm's correction asks of the smallest p,
    which is its worst case and Bonferroni's level.

    Args:
        stderr: of the mean of paired differences. Where all clusters agree it is 0 and says
            nothing: it counts as at least that of one cluster in n which differs by 1.
        clusters: independent ones, n.
        comparisons: of the run, which are corrected together.
    """
    if clusters < 2:
        return 1.0
    least = np.sqrt(1 - 1 / clusters) / clusters
    level = (1 - LEVEL) / max(comparisons, 1)
    quantiles = stats.t.ppf([1 - level / 2, POWER], clusters - 1)
    return float(min(1.0, quantiles.sum() * max(stderr, least)))
