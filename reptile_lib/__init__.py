"""Reptile: learn an initialisation from which a few gradient steps solve a new task."""

from reptile_lib.data.sets import load
from reptile_lib.distributions.few_shot import FewShotTasks
from reptile_lib.distributions.groups import GroupTasks
from reptile_lib.distributions.sine import Sine
from reptile_lib.errors import UserError
from reptile_lib.evaluation import Evaluation, Score, adaptation_curve, evaluate
from reptile_lib.examples import Examples, Splits
from reptile_lib.inner import InnerOptimizer
from reptile_lib.inner_loop import InnerLoop, adapt
from reptile_lib.learner import FOMAML, MAML, Joint, MetaLearner, Reptile
from reptile_lib.models.conv4 import conv4
from reptile_lib.models.conv4_pool import conv4_pool
from reptile_lib.models.mlp import mlp
from reptile_lib.optimizers.formulas import adam, gd, momentum, sgd
from reptile_lib.optimizers.lookahead import Interpolated
from reptile_lib.optimizers.schedules import constant, cosine, linear
from reptile_lib.optimizers.stopping import SwitchAtThreshold, SwitchEvery
from reptile_lib.tasks import Batch, Episodes, draw
from reptile_lib.theory.quadratics import Quadratics

__all__ = [
    "FOMAML",
    "MAML",
    "Batch",
    "Episodes",
    "Evaluation",
    "Examples",
    "FewShotTasks",
    "GroupTasks",
    "InnerLoop",
    "InnerOptimizer",
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
    "conv4_pool",
    "cosine",
    "draw",
    "evaluate",
    "gd",
    "linear",
    "load",
    "mlp",
    "momentum",
    "sgd",
]
