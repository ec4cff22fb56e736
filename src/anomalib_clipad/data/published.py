# Copyright (C) 2026 The anomalib-clipad authors
# SPDX-License-Identifier: Apache-2.0
"""Published datasets of several categories: where their folders lie, how they are obtained, read and named.

anomalib reads one category at a time; here any of a dataset's categories are joined into one anomalib dataset.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomalib.data import AnomalibDataset, Visa
from anomalib.data.datamodules.image.mvtecad import DOWNLOAD_INFO as MVTEC_AD_DOWNLOAD
from anomalib.data.datamodules.image.visa import DOWNLOAD_INFO as VISA_DOWNLOAD
from anomalib.data.datasets.image.mvtecad import CATEGORIES as MVTEC_AD_CATEGORIES
from anomalib.data.datasets.image.mvtecad import MVTecADDataset
from anomalib.data.datasets.image.visa import CATEGORIES as VISA_CATEGORIES
from anomalib.data.datasets.image.visa import VisaDataset
from anomalib.data.errors import MisMatchError
from anomalib.data.utils import DownloadInfo, Split, concatenate_datasets, download_and_extract

from anomalib_clipad.base.text import list_some
from anomalib_clipad.data.masks import unpaired_in_layout


def select_names(what: str, given: Sequence[str] | str, valid: Sequence[str], *sets: str) -> tuple[str, ...]:
    """Resolve a user's choice of names, a list or one string with commas, each once.

    A ``ValueError`` says ``what`` was expected, and names ``sets`` beside the valid ones.
    """
    chosen = tuple(dict.fromkeys(name.strip() for name in (given.split(",") if isinstance(given, str) else given)))
    unknown = [name for name in chosen if name not in valid]
    if unknown or not chosen:
        more = f"; or one of {', '.join(sets)}" if sets else ""
        msg = f"Expected {what}, but got {unknown or given!r}. Valid: {', '.join(valid)}{more}."
        raise ValueError(msg)
    return chosen


@dataclass(frozen=True)
class PublishedDataset:
    """A dataset in the layout ``<root>/<subfolder>/<category>/{train,test,ground_truth}/<label>/<image>``."""

    name: str  # for messages
    folder_name: str  # the host's name of the root folder
    categories: tuple[str, ...]
    dataset: Callable[..., AnomalibDataset]  # the host's class, called with root, category and split
    download: DownloadInfo | None = None  # None for a dataset that is generated
    subfolder: str = ""
    convert: Callable[[Path], None] | None = None  # brings an unpacked download into the layout above

    def select(self, categories: Sequence[str] | str | None) -> tuple[str, ...]:
        """Resolve a user's choice of categories: ``None`` is all, a string may list several with commas."""
        if categories is None:
            return self.categories
        return select_names(f"categories to name categories of {self.name}", categories, self.categories)

    def prepare(self, root: Path, categories: Sequence[str]) -> None:
        """Download and convert the dataset unless it is there. Nothing is left behind when that fails.

        A root that holds some categories is taken as the user's own selection: nothing is downloaded into it.
        """
        if not self._found(root / self.subfolder):
            if not self._found(root):
                self._download(root)
            if self.convert is not None:
                self.convert(root)
        self.check(root, categories)

    def check(self, root: Path, categories: Sequence[str]) -> None:
        """Raise ``FileNotFoundError`` unless each category has its folder below the root."""
        folder = root / self.subfolder
        found = self._found(folder)
        missing = [category for category in categories if category not in found]
        if not missing:
            return
        if found:
            msg = (
                f"Expected {folder} to hold the categories {missing}, but got {found}. "
                f"Pass categories={found} to use those. {self._how_to_get(root)}"
            )
        else:
            got = "a folder without any category" if root.is_dir() else "no such folder"
            msg = f"Expected root to be the folder of {self.name}, but got {root}: {got}. {self._how_to_get(root)}"
        raise FileNotFoundError(msg)

    def load(self, root: Path, categories: Sequence[str], split: Split) -> AnomalibDataset:
        """Read one split of several categories as one dataset, ordered by image path, hence by category."""
        self.check(root, categories)
        datasets = [self._load_category(root, category, split) for category in categories]
        joined = concatenate_datasets([dataset for dataset in datasets if len(dataset)] or datasets[:1])
        if len(datasets) > 1:
            joined.category = ""  # the host keeps the first one's
        return joined

    def category_of(self, root: Path, image_path: str | Path) -> str:
        """Return the category of an image by its path below the root, which must lead through a category folder."""
        path = Path(image_path)
        for base, candidate in ((root, path), (root.resolve(), path.resolve())):
            folder = base / self.subfolder
            if candidate.is_relative_to(folder) and (name := candidate.relative_to(folder).parts[0]) in self.categories:
                return name
        # A linked category folder resolves outside the root: fall back on <category>/<split>/<label>/<image>.
        if len(path.parts) > 3 and path.parts[-4] in self.categories:
            return path.parts[-4]
        msg = (
            f"Expected image_path to lie in a category folder of {root / self.subfolder}, but got {path}. "
            f"Valid categories: {', '.join(self.categories)}."
        )
        raise ValueError(msg)

    def _found(self, folder: Path) -> list[str]:
        return [category for category in self.categories if (folder / category).is_dir()]

    def _load_category(self, root: Path, category: str, split: Split) -> AnomalibDataset:
        folder = root / self.subfolder / category
        try:
            dataset = self.dataset(root=root / self.subfolder, category=category, split=split)
        except RuntimeError as error:
            msg = f"Expected {folder} to hold images, but got an empty folder. {self._how_to_get(root)}"
            raise FileNotFoundError(msg) from error
        except (MisMatchError, ValueError) as error:
            msg = (
                f"Expected {folder / 'ground_truth'} to hold one mask for each anomalous image in {folder / 'test'}, "
                f"but got files without a partner: {list_some(unpaired_in_layout(folder)) or error}. "
                "Add the missing masks or remove the images."
            )
            raise ValueError(msg) from error
        if split == Split.TEST and not len(dataset):
            msg = f"Expected {folder / 'test'} to hold test images, but got none. {self._how_to_get(root)}"
            raise FileNotFoundError(msg)
        return dataset

    def _download(self, root: Path) -> None:
        """Download and unpack into a temporary folder beside the root, then move the content into the root."""
        if self.download is None:
            return
        beside = next(parent for parent in root.absolute().parents if parent.is_dir())
        archive = self.download.filename or self.download.url.rsplit("/", maxsplit=1)[-1]
        try:
            with tempfile.TemporaryDirectory(dir=beside, prefix=f".{root.name}-") as staging:
                if (root / archive).is_file():
                    # The host unpacks an archive that it finds, then deletes it: give it a link, keep the user's file.
                    Path(staging, archive).symlink_to((root / archive).resolve())
                download_and_extract(Path(staging), self.download)
                root.mkdir(parents=True, exist_ok=True)
                for item in Path(staging).iterdir():
                    shutil.move(item, root / item.name)
        except Exception as error:  # network, disk, checksum, archive: each has error types of its own
            msg = (
                f"Expected root to be the folder of {self.name}, but got {root}, and the download failed "
                f"({type(error).__name__}: {error}). {self._how_to_get(root)}"
            )
            raise FileNotFoundError(msg) from error

    def _how_to_get(self, root: Path) -> str:
        if self.download is None:
            return "The anomalib commands and prepare_data() generate it."
        return (
            f"The anomalib commands and prepare_data() download it where there is network; elsewhere get "
            f"{self.download.url} and unpack it so that {root / self.categories[0]} exists, or pass another root."
        )


def _convert_visa(root: Path) -> None:
    """Sort raw VisA into train and test by its own ``split_csv/1cls.csv``, with the host's code.

    The host fills ``visa_pytorch`` file by file and later takes whatever is there as complete, so it works on a
    folder of another name here. It also makes a folder for each category; those without images are removed.
    """
    host = Visa(root=root)
    finished = host.split_root
    host.split_root = finished.with_name(f"{finished.name}.partial")
    shutil.rmtree(host.split_root, ignore_errors=True)
    host.apply_cls1_split()
    for folder in host.split_root.iterdir():
        if not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder)
    host.split_root.rename(finished)


MVTEC_AD = PublishedDataset("MVTec AD", "MVTecAD", MVTEC_AD_CATEGORIES, MVTecADDataset, MVTEC_AD_DOWNLOAD)
VISA = PublishedDataset(
    "VisA", "visa", VISA_CATEGORIES, VisaDataset, VISA_DOWNLOAD, subfolder="visa_pytorch", convert=_convert_visa
)
