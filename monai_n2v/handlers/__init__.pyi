# SPDX-License-Identifier: Apache-2.0
from .checkpoints import (
    BestModelSaver as BestModelSaver,
    ModelSaver as ModelSaver,
    ResumableCheckpoints as ResumableCheckpoints,
    load_weights as load_weights,
    require_checkpoint as require_checkpoint,
)
from .monitoring import (
    ImagePanel as ImagePanel,
    ListedOutput as ListedOutput,
    RunRecord as RunRecord,
    TrainingBar as TrainingBar,
)
from .prior import (
    load_prior as load_prior,
    start_from_prior as start_from_prior,
    trained_or_prior as trained_or_prior,
    write_prior as write_prior,
)
from .scores import ScoreDenoisingd as ScoreDenoisingd, ScoreTable as ScoreTable, image_loss as image_loss
from .training import (
    AnnealedBudget as AnnealedBudget,
    EpochSeeder as EpochSeeder,
    GradientClipper as GradientClipper,
    LossGuard as LossGuard,
    PrepareN2VBatch as PrepareN2VBatch,
    shared_handler as shared_handler,
)
from .weight_average import AveragedWeights as AveragedWeights, BufferAverage as BufferAverage
