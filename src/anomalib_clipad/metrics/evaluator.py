# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics per category and their mean: the numbers that the paper's tables hold.

Results over several categories are published as unweighted means of per-category values. anomalib's evaluator pools
all images of a test set, which mixes the score scales of different products and gives another number.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPR, AUPRO, AUROC, AnomalibMetric, Evaluator, F1Max
from lightning.pytorch import LightningModule, Trainer
from torchmetrics import Metric

from anomalib_clipad.base.processes import gather, world_size
from anomalib_clipad.data.categories import image_categories
from anomalib_clipad.metrics import rank_metrics
from anomalib_clipad.metrics.binned_pixels import BinnedPixels
from anomalib_clipad.metrics.category_buffer import CategoryBuffer, Columns
from anomalib_clipad.metrics.report import MetricsReport

logger = logging.getLogger(__name__)

SINGLE_CATEGORY = "all"  # name of the only row where neither the datamodule nor the paths tell a category

_PIXEL_FIELDS = ("anomaly_map", "gt_mask")
_CURVE_FUNCTIONS = {AUROC: rank_metrics.auroc, AUPR: rank_metrics.aupr, F1Max: rank_metrics.f1_max}


def default_metrics(pixel_metrics: bool = True) -> list[AnomalibMetric]:
    """Return image AUROC, F1Max and AUPR, and pixel AUROC, F1Max, AUPR and AUPRO (to a false positive rate of 0.3)."""
    image = {"fields": ["pred_score", "gt_label"], "prefix": "image_"}
    metrics = [AUROC(**image), F1Max(**image), AUPR(**image)]
    if pixel_metrics:
        pixel = {"fields": ["anomaly_map", "gt_mask"], "prefix": "pixel_", "strict": False}
        metrics += [AUROC(**pixel), F1Max(**pixel), AUPR(**pixel), AUPRO(**pixel, fpr_limit=0.3)]
    return metrics


class CategoryEvaluator(Evaluator):
    """Evaluator whose test metrics are means over categories.

    In testing each metric is computed for each category by itself. Its unweighted mean over categories is logged
    under the metric's own name; the values of each category are printed as a table where there are several, and
    always written to ``metrics_per_category.csv`` in the trainer's ``default_root_dir``. With one category the mean
    is what the host's ``Evaluator`` gives.

    A metric is undefined in a category without masks, or with only normal or only anomalous samples: its value there
    is NaN, a warning says so, and **the mean is over the other categories**. A metric that is undefined in all of
    them is not logged.

    A category is evaluated and its maps dropped as soon as its last image was seen, so memory does not grow with the
    number of categories; with ``pooled`` or several processes all maps are kept in main memory until the end. Several
    processes exchange their predictions, and images that the sampler repeated count once, so the numbers are
    those of one process. Validation metrics work as in the host.

    Args:
        val_metrics: Metrics of validation, on the whole validation set. None by default.
        test_metrics: Metrics of testing; :func:`default_metrics` by default.
        compute_on_cpu: Keep the states of validation metrics in main memory. Test metrics always are.
        pixel_metrics: Whether the default test metrics include those of pixels.
        pooled: Log each test metric over all images of all categories too, as ``pooled_<name>``.
        pixel_bins: Count pixels in so many bins of the score instead of keeping all maps: the memory of a test no
            longer grows with the number of images. 65536 bins keep the metrics to about 1e-4. For one process only.

    Raises:
        ValueError: If two test metrics have one name, or ``pixel_bins`` does not suit them.

    Example:
        >>> evaluator = CategoryEvaluator(pixel_metrics=False)
        >>> [metric.name for metric in evaluator.test_metrics]
        ['image_AUROC', 'image_F1Max', 'image_AUPR']
    """

    def __init__(
        self,
        val_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        test_metrics: AnomalibMetric | Sequence[AnomalibMetric] | None = None,
        compute_on_cpu: bool = True,
        pixel_metrics: bool = True,
        pooled: bool = False,
        pixel_bins: int | None = None,
    ) -> None:
        if test_metrics is None:
            test_metrics = default_metrics(pixel_metrics)
        super().__init__(val_metrics=val_metrics, test_metrics=test_metrics, compute_on_cpu=compute_on_cpu)
        names = [metric.name for metric in self.test_metrics]
        if len(set(names)) < len(names):
            msg = f"Expected test_metrics to have distinct names, but got {names}. Give them distinct prefixes."
            raise ValueError(msg)
        self.pooled = pooled
        self.pixel_bins = pixel_bins
        if pixel_bins is not None:
            BinnedPixels(pixel_bins)
            self._check_binned()
        self.fields = sorted({field for metric in self.test_metrics for field in metric.fields})
        self.report = MetricsReport(names)
        self.pro_curves: dict[str, rank_metrics.Drawn] = {}
        self._waiting: dict[str, CategoryBuffer] = {}
        self._pixels: dict[str, BinnedPixels] = {}
        self._done: list[CategoryBuffer] = []  # kept only for the pooled metrics
        self._expected: Counter[str] = Counter()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier tests and count the images of each category that are to come."""
        self.report, self.pro_curves = MetricsReport(self.report.metrics), {}
        self._waiting, self._done, self._expected, self._pixels = {}, [], Counter(), {}
        if world_size() == 1:
            samples = getattr(getattr(trainer.test_dataloaders, "dataset", None), "samples", None)
            if samples is not None:
                self._expected = Counter(image_categories(_datamodule(trainer), samples["image_path"]))
        elif self.pixel_bins is not None:
            msg = (
                f"Expected one process with pixel_bins, but got {world_size()}: the images that the sampler repeats "
                "could not be told apart. Test on one device, or leave pixel_bins out."
            )
            raise RuntimeError(msg)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: ImageBatch, *args: Any, **kwargs: Any
    ) -> None:
        """Sort the batch by category and evaluate the categories that are complete."""
        paths = batch.image_path or [None] * batch.batch_size
        categories = image_categories(_datamodule(trainer), paths) if batch.image_path else None
        categories = categories or [SINGLE_CATEGORY] * len(paths)
        for category in dict.fromkeys(categories):
            rows = [row for row, name in enumerate(categories) if name == category]
            values = {field: getattr(batch, field, None) for field in self.fields}
            columns = {field: None if value is None else value[rows] for field, value in values.items()}
            if self.pixel_bins is not None:
                pixels = self._pixels.setdefault(category, BinnedPixels(self.pixel_bins))
                maps, masks = (columns.pop(field, None) for field in _PIXEL_FIELDS)
                if maps is not None and masks is not None:
                    pixels.update(maps, masks)
            buffer = self._waiting.setdefault(category, CategoryBuffer())
            buffer.append(columns, [paths[row] for row in rows])
            if len(buffer) == self._expected.get(category):
                self._finish(category)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate what is left, log the means, print the table and write the CSV file."""
        # Every process sees the same categories in the same order, as the exchange of buffers requires.
        for category in dict.fromkeys(name for names in gather(list(self._waiting)) for name in names):
            if world_size() > 1:
                self._waiting[category] = self._waiting.get(category, CategoryBuffer()).gather()
            self._finish(category)
        if self.pooled and self._done:
            everything = CategoryBuffer.merge(self._done)
            pixels = None if self.pixel_bins is None else BinnedPixels.merged(list(self._pixels.values()))
            self.report.pooled, _ = self._evaluate(everything.joined(), "all categories", pixels)
            self._done = []
        for name, value in self.report.to_log().items():
            self.log(name, value, sync_dist=True)  # all processes hold the same value
            if trainer.barebones:  # where log() does nothing; the host's evaluator does the same
                trainer.callback_metrics[name] = trainer.logged_metrics[name] = torch.tensor(value)
        if trainer.is_global_zero and self.report.categories:
            self.report.print()
            self.report.write(trainer.default_root_dir)

    def _finish(self, category: str) -> None:
        buffer = self._waiting.pop(category)
        pixels = self._pixels.get(category)
        values, pro = self._evaluate(buffer.joined(), f"category {category!r}", pixels)
        self.report.add(category, len(buffer), values)
        if pro is not None:
            self.pro_curves[category] = pro
        if self.pooled:
            self._done.append(buffer)

    def _check_binned(self) -> None:
        """Refuse what cannot be computed from counts of pixels."""
        for metric in self.test_metrics:
            fields = tuple(metric.fields)
            if fields != _PIXEL_FIELDS and set(fields) & set(_PIXEL_FIELDS):
                reason = f"the fields {list(fields)}"
            elif fields == _PIXEL_FIELDS and not _reads_a_rank_curve(metric):
                reason = f"a {type(metric).__name__} of its own kind"
            else:
                continue
            msg = (
                f"Expected the pixel metrics to be the default ones with pixel_bins, but got {metric.name} with "
                f"{reason}. Leave the metric or pixel_bins out."
            )
            raise ValueError(msg)

    def _evaluate(
        self, columns: Columns, what: str, pixels: BinnedPixels | None
    ) -> tuple[dict[str, float], rank_metrics.Drawn | None]:
        """Compute all test metrics of one set of images, and the curve of AUPRO, where that is among them.

        Undefined ones are NaN and warned of once a reason.
        """
        data = {field: values for field, values in columns.items() if values is not None}
        # Metrics of the same fields share one look at them, and AUROC, AUPR, F1Max and AUPRO one sort.
        reasons: dict[tuple[str, ...], str | None] = {}
        curves: dict[tuple[str, ...], rank_metrics.RankCurve] = {}
        values: dict[str, float] = {}
        undefined: dict[str, list[str]] = {}
        pro: rank_metrics.Drawn | None = None
        for metric in self.test_metrics:
            fields = tuple(metric.fields)
            binned = pixels if fields == _PIXEL_FIELDS else None
            if fields not in reasons:
                reasons[fields] = _why_undefined(fields, data) if binned is None else _why_uncounted(binned)
            reason = reasons[fields]
            if reason is not None:
                undefined.setdefault(reason, []).append(metric.name)
                values[metric.name] = float("nan")
            elif binned is not None:
                values[metric.name], pro = _from_curve(metric, binned.curve(), binned, pro)
            elif _reads_a_rank_curve(metric):
                if fields not in curves:
                    curves[fields] = rank_metrics.RankCurve.from_scores(data[fields[0]], data[fields[1]])
                values[metric.name], pro = _from_curve(metric, curves[fields], data[fields[1]], pro)
            else:
                values[metric.name] = _by_the_host(metric, data)
        for reason, names in undefined.items():
            logger.warning("%s undefined for %s: %s. Left out of the mean.", ", ".join(names), what, reason)
        return values, pro


def _datamodule(trainer: Trainer) -> Any:  # the attribute only exists where one was passed
    return getattr(trainer, "datamodule", None)


def _why_undefined(fields: tuple[str, ...], data: dict[str, torch.Tensor]) -> str | None:
    """Why a metric of these fields has no value; ``None`` when it has one."""
    for field in fields:
        if field not in data:
            return f"images without {field}"
        values = data[field]
        if field.startswith("gt_") and values.bool().all():
            return f"{field} marks anomalous samples only"
        if field.startswith("gt_") and not values.any():
            return f"{field} marks normal samples only"
        # Extremes pass NaN on, and need no second tensor of the size of all maps, as isfinite() does.
        if values.is_floating_point() and not all(extreme.isfinite() for extreme in values.aminmax()):
            return f"{field} is not finite everywhere"
    return None


def _why_uncounted(pixels: BinnedPixels) -> str | None:
    """As :func:`_why_undefined`, of pixel metrics."""
    seen = [name for name in ("normal", "anomalous") if getattr(pixels, name).any()]
    if len(seen) < 2:
        return f"gt_mask marks {seen[0]} samples only" if seen else "images without gt_mask"
    return None if pixels.finite else "anomaly_map is not finite everywhere"


def _reads_a_rank_curve(metric: AnomalibMetric) -> bool:
    """Whether a metric is exactly one of the host's four, without options that change its value."""
    if type(metric) in {AUROC, AUPR}:
        return metric.thresholds is None and metric.ignore_index is None
    return type(metric) in {F1Max, AUPRO}


def _from_curve(
    metric: AnomalibMetric,
    curve: rank_metrics.RankCurve,
    regions: torch.Tensor | BinnedPixels,
    pro: rank_metrics.Drawn | None,
) -> tuple[float, rank_metrics.Drawn | None]:
    """Value of a metric; and for a picture the curve that AUPRO is the area of, where this is it."""
    if not isinstance(metric, AUPRO):
        return _CURVE_FUNCTIONS[type(metric)](curve), pro
    if isinstance(regions, BinnedPixels):
        overlap = regions.region_overlap()
    else:
        overlap = rank_metrics.region_overlap(curve, regions)
    limit = float(metric.fpr_limit)
    return rank_metrics.area_under_pro(curve, overlap, limit), rank_metrics.draw_pro(curve, overlap, limit)


def _by_the_host(metric: AnomalibMetric, data: dict[str, torch.Tensor]) -> float:
    """Compute any other metric with a copy of it: the host's ``F1Max.reset`` for one forgets to reset everything."""
    fresh = metric.clone().cpu()
    for part in fresh.modules():
        if isinstance(part, Metric):
            part.sync_on_compute = False  # the data are complete on every process already
    fresh.update(SimpleNamespace(**data))
    return float(fresh.compute())
