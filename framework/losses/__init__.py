"""The registered losses: each returns the mean, and `weight(target)` says what the mean is over."""

from framework.losses.bce import BCE, BCELogits
from framework.losses.cross_entropy import NLL, ClassLoss, CrossEntropy
from framework.losses.hinge import Hinge
from framework.losses.huber import Huber
from framework.losses.kl_divergence import KLDivergence
from framework.losses.mae import MAE
from framework.losses.mse import MSE

__all__ = [
    "BCE",
    "MAE",
    "MSE",
    "NLL",
    "BCELogits",
    "ClassLoss",
    "CrossEntropy",
    "Hinge",
    "Huber",
    "KLDivergence",
]
