# SPDX-License-Identifier: Apache-2.0
from .distributed import (
    global_rank as global_rank,
    join_group as join_group,
    leave_group as leave_group,
    local_device as local_device,
    parallel as parallel,
    share as share,
)
from .options import PredictionOptions as PredictionOptions, TrainingOptions as TrainingOptions
from .resources import (
    copy_bundle as copy_bundle,
    find_bundle as find_bundle,
    find_config as find_config,
    list_bundles as list_bundles,
)
from .run import Denoiser as Denoiser, train as train
from .trained import TrainedNetwork as TrainedNetwork, resolve_model as resolve_model
from .workflow import N2VWorkflow as N2VWorkflow
