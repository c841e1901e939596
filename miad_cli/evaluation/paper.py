"""What MIAD-MARK (arXiv:2303.09858) reports, to stand beside our figures.

Measured on other pictures and other models. Where it names three data sets, the one of the same
kind of picture is taken: Messidor for fundus, ISIC2019 for dermoscopy, BTMRI for brain MRI.
Pairs are SplitNet / WDNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

BEST: Mapping[str, float] = MappingProxyType({"fundus": 0.0857, "dermoscopy": 0.1506})
"""HE-SIT, the model for which it does best, by task."""

SEEN: Mapping[str, float] = MappingProxyType({"random": 0.8430, "he": 0.3862, "he-sit": 0.3182})
"""Fig. 2b, mean accuracy of models attacked one by one."""

UNSEEN = 0.4583
"""The abstract's headline for models that had no part in the search."""

REMOVED = 0.3859
"""Fig. 5c, mean accuracy on what removal networks make of pictures with δ_D."""


@dataclass(frozen=True)
class Paper:
    """The figures for one kind of picture; None where the paper has none.

    Attributes:
        unseen: leave-one-out mean (Fig. 2c).
        auc, ssim: of watermarked pictures.
        queries: inferences a picture, mean.
        logos, logo_spread: mean accuracy over seven logos and its standard deviation (Fig. 7).
        marked, unblended: accuracy and SSIM of the watermarked picture and after inverse blending,
            δ still in it (Fig. 4b).
        removal: SSIM, PSNR and RMSE of a removal network's output against the original, without
            and with δ_D (Fig. 5b), both networks' mean.
        kinds: SSIM of its output by kind of δ (Table 1), both networks' mean.
        before, after: accuracy on its input and its output with δ added after the search (Fig. 8b),
            both networks' mean.
        removed: accuracy on its output without and with δ_D (Fig. 5c), mean over models and
            networks.
    """

    unseen: float | None = None
    auc: float | None = None
    ssim: float | None = None
    queries: float | None = None
    logos: float | None = None
    logo_spread: float | None = None
    marked: tuple[float, float] | None = None
    unblended: tuple[float, float] | None = None
    removal: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    kinds: Mapping[str, float] = field(default_factory=dict)
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    removed: tuple[float, float] | None = None


def _mean(*pair: float) -> float:
    return sum(pair) / len(pair)


_MESSIDOR = Paper(
    unseen=0.5673,
    auc=0.6388,
    ssim=0.8682,
    queries=34,
    logos=0.1349,
    logo_spread=0.0725,
    marked=(0.0435, 0.8682),
    unblended=(1.0, 0.9260),
    removal={
        "ssim": (_mean(0.9706, 0.9698), _mean(0.7110, 0.3579)),
        "psnr": (_mean(44.64, 43.89), _mean(33.46, 29.62)),
        "rmse": (_mean(1.611, 1.695), _mean(5.425, 8.527)),
    },
    kinds={
        "nothing": _mean(0.933, 0.942),
        "noise": _mean(0.947, 0.943),
        "disrupt": _mean(0.901, 0.681),
        "inerasable": _mean(0.981, 0.963),
    },
    before={
        "nothing": 0.0,
        "noise": _mean(0.282, 0.280),
        "disrupt": _mean(0.293, 0.275),
        "inerasable": _mean(0.273, 0.265),
    },
    after={
        "nothing": _mean(0.767, 0.712),
        "noise": _mean(0.411, 0.536),
        "disrupt": _mean(0.453, 0.410),
        "inerasable": _mean(0.277, 0.328),
    },
    removed=(
        _mean(0.303, 0.314, 0.401, 0.353, 0.480, 0.632, 0.490, 0.544, 0.432, 0.510, 0.504, 0.569),
        _mean(0.288, 0.294, 0.271, 0.229, 0.374, 0.533, 0.376, 0.333, 0.300, 0.383, 0.459, 0.483),
    ),
)

_ISIC = Paper(
    unseen=0.5890,
    auc=0.8641,
    ssim=0.8883,
    queries=44,
    logos=0.2095,
    logo_spread=0.0899,
    marked=(0.2040, 0.8883),
    unblended=(1.0, 0.9382),
    removal={
        "ssim": (_mean(0.9698, 0.9766), _mean(0.7666, 0.7732)),
        "psnr": (_mean(45.93, 45.74), _mean(33.49, 29.15)),
        "rmse": (_mean(1.307, 1.363), _mean(5.409, 8.995)),
    },
    kinds={
        "nothing": _mean(0.951, 0.954),
        "noise": _mean(0.955, 0.963),
        "disrupt": _mean(0.883, 0.801),
        "inerasable": _mean(0.983, 0.973),
    },
    before={
        "nothing": 0.0,
        "noise": _mean(0.341, 0.343),
        "disrupt": _mean(0.338, 0.343),
        "inerasable": _mean(0.345, 0.317),
    },
    after={
        "nothing": _mean(0.794, 0.832),
        "noise": _mean(0.607, 0.650),
        "disrupt": _mean(0.249, 0.151),
        "inerasable": _mean(0.343, 0.396),
    },
    removed=(
        _mean(0.790, 0.676, 0.638, 0.429, 0.685, 0.578, 0.750, 0.647, 0.604, 0.528, 0.581, 0.524),
        _mean(0.235, 0.261, 0.321, 0.259, 0.228, 0.191, 0.306, 0.232, 0.287, 0.237, 0.402, 0.261),
    ),
)

_BTMRI = Paper(
    auc=0.6198,
    ssim=0.8792,
    queries=128,
    logos=0.4544,
    logo_spread=0.0961,
    marked=(0.3607, 0.8792),
    unblended=(1.0, 0.9683),
    removal={
        "ssim": (_mean(0.9842, 0.9839), _mean(0.7732, 0.4705)),
        "psnr": (_mean(47.93, 47.84), _mean(33.00, 29.59)),
        "rmse": (_mean(1.028, 1.038), _mean(5.739, 8.506)),
    },
    kinds={
        "nothing": _mean(0.963, 0.969),
        "noise": _mean(0.965, 0.681),
        "disrupt": _mean(0.864, 0.576),
        "inerasable": _mean(0.974, 0.974),
    },
    before={
        "nothing": 0.0,
        "noise": _mean(0.016, 0.016),
        "disrupt": _mean(0.016, 0.005),
        "inerasable": _mean(0.026, 0.031),
    },
    after={
        "nothing": _mean(0.828, 1.0),
        "noise": _mean(0.016, 0.026),
        "disrupt": _mean(0.005, 0.042),
        "inerasable": _mean(0.026, 0.042),
    },
    removed=(
        _mean(0.846, 0.855, 0.787, 0.812, 0.814, 0.881, 0.708, 0.744, 0.651, 0.785, 0.762, 0.742),
        _mean(0.777, 0.385, 0.386, 0.660, 0.197, 0.660, 0.480, 0.296, 0.603, 0.651, 0.639, 0.591),
    ),
)

_BY_TASK = {"fundus": _MESSIDOR, "dermoscopy": _ISIC, "brain_mri": _BTMRI}


def paper_for(task: str) -> Paper:
    """The paper's figures for pictures of this task; none for tasks that it does not know."""
    return _BY_TASK.get(task, Paper())
