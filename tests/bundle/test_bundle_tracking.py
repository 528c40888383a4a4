# SPDX-License-Identifier: Apache-2.0
"""``--tracking mlflow``: where the whole of MLflow is installed (extra ``tracking``)."""

from __future__ import annotations

import sqlite3
from collections import Counter

import pytest
from monai.bundle import run
from tiny import config_files, make_images, short

from monai_n2v.bundle.resources import bundle_name, find_bundle
from monai_n2v.bundle.workflow import N2VWorkflow


@pytest.fixture
def _mlflow():
    pytest.importorskip("mlflow.tracking", exc_type=ImportError)


# MLflow is not ours: its imports and its database warn as they like.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("_mlflow")
@pytest.mark.parametrize("own", [False, True], ids=["run", "N2VWorkflow"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_metrics_arrive_in_the_store(own, spatial_dims, tmp_path):
    bundle = find_bundle(bundle_name(spatial_dims))
    out = tmp_path / "out"
    options = {
        "config_file": config_files(bundle, "train"),
        "tracking": "mlflow",
        "bundle_root": str(bundle),
        "dataset_dir": str(make_images(tmp_path / "images")),
        "output_dir": str(out),
        "run_name": "a run",
        **short(spatial_dims),
        "epochs": 2,
    }
    if own:
        flow = N2VWorkflow(logging_file=False, **options)
        flow.initialize()
        flow.run()
        flow.finalize()
    else:
        run(**options)
    with sqlite3.connect(out / "mlruns.db") as store:
        metrics = Counter(name for (name,) in store.execute("select key from metrics"))
        runs = store.execute("select name, status from runs").fetchall()
    store.close()
    assert metrics["train_loss"] == 2 * 2 + 2, "every step and every epoch"
    assert metrics["val_loss"] == 2
    assert runs == [("a run", "FINISHED")]
    assert len(list(out.glob("config_*.json"))) == 1


def test_tracking_keys_are_free_only_when_tracking():
    from monai_n2v.bundle.workflow import _tracking_keys, check_overrides

    assert {"tracking_uri", "experiment_name", "run_name"} <= set(_tracking_keys("mlflow"))
    check_overrides({"lr": 1}, {"run_name": "x"}, _tracking_keys("mlflow"))
    with pytest.raises(ValueError, match="run_name must be a key of the config"):
        check_overrides({"lr": 1}, {"run_name": "x"}, _tracking_keys(None))
