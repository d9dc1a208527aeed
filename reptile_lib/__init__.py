"""Reptile: learn an initialisation from which a few gradient steps solve a new task."""

from reptile_lib.data import Classes, Splits, load
from reptile_lib.engine import adapt
from reptile_lib.errors import UserError
from reptile_lib.evaluate import Evaluation, Score, adaptation_curve, evaluate
from reptile_lib.inner import Batch, adam, gd, momentum, sgd
from reptile_lib.meta import constant, cosine, linear
from reptile_lib.models import conv4, mlp
from reptile_lib.optim import Interpolated
from reptile_lib.quadratics import Quadratics
from reptile_lib.stopping import SwitchAtThreshold, SwitchEvery
from reptile_lib.tasks import FewShotTasks, Sine
from reptile_lib.train import FOMAML, MAML, Joint, MetaLearner, Reptile

__all__ = [
    "FOMAML",
    "MAML",
    "Batch",
    "Classes",
    "Evaluation",
    "FewShotTasks",
    "Interpolated",
    "Joint",
    "MetaLearner",
    "Quadratics",
    "Reptile",
    "Score",
    "Sine",
    "Splits",
    "SwitchAtThreshold",
    "SwitchEvery",
    "UserError",
    "adam",
    "adapt",
    "adaptation_curve",
    "constant",
    "conv4",
    "cosine",
    "evaluate",
    "gd",
    "linear",
    "load",
    "mlp",
    "momentum",
    "sgd",
]
