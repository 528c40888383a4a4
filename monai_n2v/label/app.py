# SPDX-License-Identifier: Apache-2.0
"""The MONAI Label app."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First

from monai_n2v import __version__
from monai_n2v.bundle.resources import list_bundles
from monai_n2v.io.atomic import scratch
from monai_n2v.label.batch import DenoisingBatchTask
from monai_n2v.label.datastore import (
    add_denoised,
    check_all_served,
    check_can_add_images,
    has_image,
    image_id_of,
    is_denoised,
    keep_beside,
    n_noisy,
    needs_2d_network,
    noisy_images,
    open_folder,
)
from monai_n2v.label.infer import BESIDE, DenoiseTask
from monai_n2v.label.operators import make_torchvision_importable
from monai_n2v.label.options import refusals, sentence, switched
from monai_n2v.label.strategies import DenoisedFirst
from monai_n2v.label.tasks import as_clients_read, ask_the_app, end_with_the_server, name_the_server
from monai_n2v.label.train import TrainDenoiserTask
from monai_n2v.label.uploads import is_upload, remove_upload

make_torchvision_importable()  # before MONAI Label's tasks for segmenting
from monailabel.tasks.infer.bundle import BundleInferTask  # noqa: E402

from monai_n2v.label.segment_after import SegmentDenoisedTask, chained_name, is_segmenter  # noqa: E402

logger = logging.getLogger(__name__)


class DenoisingApp(MONAILabelApp):
    """Denoise studies, train on them without labels, and denoise before segmenting.

    The bundles lie in ``model/`` of the app's folder: ours, and any segmentation bundle, which is served as it is and
    as ``<name>_after_n2v``. Nothing is fetched from anywhere.

    Args:
        app_dir: folder of the app, as `make_app` makes it.
        studies: folder of images, or address of a DICOMweb server.
        conf: ``models``, names of the bundles to serve, with commas; ``denoiser``, which one denoises for segmenters,
            ``n2v_denoise_3d`` by default.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        wanted = [name.strip() for name in conf.get("models", "").split(",") if name.strip()]
        folders = [path for path in sorted((Path(app_dir) / "model").glob("*")) if path.is_dir()]
        known = [path.name for path in folders]
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise ValueError(f"models must be of {', '.join(known)}, got {', '.join(unknown)}. Leave it out for all.")
        self._bundles = [path for path in folders if not wanted or path.name in wanted]
        ours = list_bundles()
        denoisers = [DenoiseTask(path) for path in self._bundles if path.name in ours]
        # Clients offer the first model, and show the training of the first: volumes are more common than images.
        self._denoisers = {task.name: task for task in sorted(denoisers, key=lambda task: -task.spatial_dims)}
        ask_the_app()
        super().__init__(
            app_dir,
            studies,
            conf,
            name="MONAI Label - Noise2Void",
            description="Denoising learned from the noisy images alone; research only, not for diagnosis",
            version=__version__,
        )

    def init_datastore(self) -> Datastore:
        """The studies."""
        is_remote = self.studies.startswith(("http://", "https://"))
        return super().init_datastore() if is_remote else open_folder(self.studies)

    def on_init_complete(self) -> None:
        """As the server starts, before any request.

        Raises:
            ValueError: for studies that it would show empty, though images lie below.
        """
        check_all_served(self.datastore())
        name_the_server()
        super().on_init_complete()

    def init_infers(self) -> dict[str, InferTask]:
        """Denoisers, segmenters, and segmenters behind the denoiser."""
        infers: dict[str, InferTask] = dict(self._denoisers)
        name = self.conf.get("denoiser", next(iter(self._denoisers), ""))
        if self._denoisers and name not in self._denoisers:
            raise ValueError(f"denoiser must be of {', '.join(self._denoisers)}, got {name}. Leave it out.")
        for bundle in self._bundles:
            if bundle.name in infers or not is_segmenter(bundle):
                continue
            try:
                segmenter = BundleInferTask(str(bundle), self.conf)
                if not segmenter.is_valid():
                    continue
                found: dict[str, InferTask] = {bundle.name: segmenter}
                if self._denoisers:
                    chained = SegmentDenoisedTask(str(bundle), self.conf, self._denoisers[name])
                    found[chained_name(bundle.name)] = chained
            except Exception as error:  # noqa: BLE001 - the others are served all the same
                logger.warning("%s is not served: %s", bundle.name, sentence(error))
                continue
            infers |= found
        self._chained = [name for name, task in infers.items() if isinstance(task, SegmentDenoisedTask)]
        logger.info("Models: %s", ", ".join(infers))
        return infers

    def init_trainers(self) -> dict[str, TrainTask]:
        """The denoisers'."""
        return {name: TrainDenoiserTask(str(task.bundle), self.conf) for name, task in self._denoisers.items()}

    def init_strategies(self) -> dict[str, Strategy]:
        """MONAI Label's own two, and denoised images first."""
        return {**super().init_strategies(), "first": First(), "denoised_first": DenoisedFirst()}

    def init_batch_infer(self) -> Callable[..., Any]:
        """Batch inference."""
        return DenoisingBatchTask(self._denoisers, self._chained)

    def info(self) -> dict[str, Any]:
        """What clients show; of the studies, how many images can be trained on stands in the place of those labeled.

        3D Slicer lets a training start where images are labeled.
        """
        told = super().info()
        if self._trainers:
            told["datastore"] = {**told["datastore"], "completed": n_noisy(self.datastore())}
        told["train_stats"] = as_clients_read(told["train_stats"])
        return told

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a model on an image; ``save_image`` stores what a denoiser made as ``<id>_denoised``.

        Raises:
            HTTPException: for what cannot be, in one sentence.
        """
        datastore = datastore or self.datastore()
        with refusals():
            try:
                self._check(request, datastore)
                return self._infer(request, datastore)
            except Exception:
                remove_upload(request.get("image"))
                raise

    def _infer(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        model, image = request["model"], request["image"]
        if model in self._denoisers:
            with scratch() as folder:
                # A denoised image is no label, whatever a client's habit.
                beside = {"beside": str(folder)} if any(switched(request, name, False) for name in BESIDE) else {}
                result = super().infer({**request, **beside, "save_label": False}, datastore)
                told, source = result["params"], image_id_of(datastore, image)
                made = [tag for tag in BESIDE.values() if tag in told]
                links = {tag: keep_beside(datastore, source, Path(told[tag]), tag) for tag in made}
            if switched(request, "save_image", False):
                links["image_id"] = add_denoised(datastore, source, Path(result["file"]), model)
            result["params"] = {**told, **links}
            return result
        if model in self._chained and isinstance(image, str) and is_denoised(datastore, image_id_of(datastore, image)):
            request = {**request, "denoise": False}  # once is enough
        return super().infer(request, datastore)

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Run a model on many images; those that fail are listed at the end."""
        found = self._told(lambda: super(DenoisingApp, self).batch_infer(request, datastore))
        failed = [f"{image}: {one['error']}" for image, one in found.items() if one and "error" in one]
        if failed and not self._server_mode:  # a process of its own, whose status tells
            sys.exit("\n".join([f"{len(failed)} of {len(found)} images failed.", *failed]))
        return found

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train a denoiser on the noisy images of the studies."""

        def work() -> dict[str, Any]:
            self._check_trained(request.get("model"))
            return super(DenoisingApp, self).train(request)

        return self._told(work)

    def _check_trained(self, model: Any) -> None:
        if model not in self._trainers:
            raise FileNotFoundError(
                f"model must be of {', '.join(self._trainers)} to be trained, got {model}. Name one."
            )

    def check_task(self, method: str, request: dict[str, Any]) -> None:
        """Refuse a training or a batch before it is accepted.

        Raises:
            HTTPException: for what cannot be, in one sentence.
        """
        with refusals():
            model = request.get("model")
            if method == "train":
                self._check_trained(model)
                options = self._trainers[model].options(request)
                self._trainers[model].image_ids(options["images"], self.datastore())
            elif method == "batch_infer":
                self._check_model(model)
                if model in self._denoisers:
                    self._denoisers[model].check(request)
                    if switched(request, "save_image", True):
                        check_can_add_images(self.datastore())

    def needed_model(self, params: dict[str, Any] | None) -> str:
        """The model to train where a client names none: for volumes, or for images where there are no volumes.

        Args:
            params: of the request; may name a model.

        Raises:
            HTTPException: where there is none.
        """
        with refusals():
            if params and params.get("model"):
                return str(params["model"])
            if not self._trainers:
                raise FileNotFoundError(
                    "model must be a denoiser to be trained, got an app without. Start it with one."
                )
            first, *others = self._trainers
            flat = next((name for name in others if self._denoisers[name].spatial_dims == 2), None)
            is_flat = flat is not None and needs_2d_network(self.datastore(), noisy_images(self.datastore()))
            return flat if is_flat and flat is not None else first

    def bundle_path(self, model: str | None) -> str | None:
        """Folder of a trainer's bundle; asked for before a task starts, so an unknown model is refused here.

        Raises:
            HTTPException: for a model that is neither trained nor run here.
        """
        if model is not None:  # scoring names none
            with refusals():
                self._check_model(model)
        return super().bundle_path(model)

    def _told(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Tell in one sentence what is refused, to a client or, from a process of its own, on standard error."""
        if self._server_mode:
            with refusals():
                return work()
        end_with_the_server()
        try:
            return work()
        except Exception as error:
            logger.debug("A task failed", exc_info=True)
            sys.exit(sentence(error))

    def _check_model(self, model: Any) -> None:
        known = list(dict.fromkeys([*self._infers, *self._trainers]))
        if model not in known:
            raise FileNotFoundError(f"model must be of {', '.join(known)}, got {model}. GET /info/ lists them.")

    def _was_sent(self, path: Path) -> bool:
        """Whether a file of this machine came from a client; of all others a server must tell nothing."""
        sessions = getattr(self.sessions(), "store_path", None)
        return is_upload(path) or (sessions is not None and path.resolve().is_relative_to(Path(sessions).resolve()))

    def _check(self, request: dict[str, Any], datastore: Datastore) -> None:
        """Refuse a request before any work."""
        self._check_model(request.get("model"))
        image, model = request.get("image"), request["model"]
        is_file = isinstance(image, str) and Path(image).exists()
        known = isinstance(image, str) and has_image(datastore, image_id_of(datastore, image))
        if isinstance(image, str) and not known and not (is_file and self._was_sent(Path(image))):
            raise FileNotFoundError(f"image must be of the studies, got {image}. GET /datastore/ lists them.")
        if model not in self._denoisers:
            return
        self._denoisers[model].check(request)
        if request.get("label_info") is not None:
            raise ValueError(f"model must segment for DICOM SEG, got {model}. Use {chained_name('<segmenter>')}.")
        if not isinstance(image, str):
            raise ValueError(f"image must be an id or a file, got {type(image).__name__}. Send the file.")
        if is_denoised(datastore, image_id_of(datastore, image)):
            raise ValueError(f"image must be noisy, got {image}, which is denoised. Send its source.")
        kept = next((name for name in ("save_image", *BESIDE) if switched(request, name, False)), None)
        if kept is not None and not known:
            raise ValueError(f"image must be of the studies for {kept}, got {image}. Add it there first.")
        if switched(request, "save_image", False):
            check_can_add_images(datastore)
