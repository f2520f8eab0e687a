"""Preparation of a dataset: patches around each case's centre, stored on disk once.

Prepared data lies in one folder of the cache for each dataset, location and setting. Module `store`
holds its rows, module `manifest` the state of the source files. The index, written last and
atomically, gives the row of each case: while the dataset's files are unchanged, nothing else is
read. When files change, only their images are read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from contextvars import copy_context
from pathlib import Path
from typing import TypeVar

from hydrakit.compute.processors import processors
from hydrakit.data.dicom.cache import HeaderCache
from hydrakit.data.identity import normal_name, patient_of
from hydrakit.data.prepared.crop import (
    Statistics,
    canvas_side,
    crop,
    crop_fault,
    is_flat,
)
from hydrakit.data.prepared.folder import note_use
from hydrakit.data.prepared.index import (
    ExcludedCase,
    ImageIntensity,
    Index,
    Intensity,
    PreparedCase,
    PreparedDataset,
    ReadingRemark,
    open_prepared,
)
from hydrakit.data.prepared.manifest import NAME as MANIFEST
from hydrakit.data.prepared.manifest import Manifest, listing_digest
from hydrakit.data.prepared.store import NewEntry, Store, StoreEntry
from hydrakit.data.quality.duplicates import content_digest, texture, thumbnail
from hydrakit.data.quality.shortcuts import image_facts, mixed_units
from hydrakit.data.read import (
    check_channels,
    check_root,
    in_grey,
    load_image,
    read_cases,
    unreadable_case,
)
from hydrakit.errors import DataError, command_line
from hydrakit.hooks import DatasetAdapter, OptionValue, Remark, Sample, Unusable
from hydrakit.plugins.options import resolve_options
from hydrakit.storage.files import write_atomic
from hydrakit.storage.lock import FILES, cache_lock
from hydrakit.storage.paths import cache_folder, using_cache

FORMAT = 5
INDEX_FORMAT = 8  # increase when the same rows give another index: no image is read again
MAX_THREADS = 16
IN_FLIGHT = 4  # images per thread in progress, so that the threads do not wait for writing
MAX_NAMES = 3

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


def prepare(
    adapter: DatasetAdapter,
    root: Path,
    *,
    options: Mapping[str, OptionValue],
    patch: int,
    cache: Path | None = None,
    fresh: bool = False,
    threads: int | None = None,
    on_case: Callable[[int], None] = lambda _: None,
) -> PreparedDataset:
    """Return a dataset's prepared patches, from the cache or newly prepared.

    Patches are stored in the image's unit, together with mean and standard deviation per channel
    over all pixels but padding, of each image and of each patient's images, by which they are
    normalised when they are read (as in the paper). A dataset without patients gives each image
    its own patient, so that the rule ``patient`` normalises it image by image.

    An interrupted preparation continues and gives the same result. If another process prepares the
    same data, this function waits for it.

    Args:
        adapter: Adapter of the dataset.
        root: Folder of the dataset.
        options: Adapter options, as given by the user.
        patch: Side of the network's patches in pixels.
        cache: Folder of every cache; None for that of the active context (`cache_folder`).
        fresh: Read every file again, whatever has been prepared.
        threads: Number of images prepared at the same time; None for one per processor. It does
            not change the result.
        on_case: Called with the number of cases prepared so far.

    Raises:
        DataError: The dataset cannot be read, or has no usable case; or the cache is unusable.
    """
    check_root(adapter, root)
    with using_cache(cache):
        prepared = _prepare(
            adapter, root, options, patch=patch, fresh=fresh, on_case=on_case, threads=threads
        )
    note_use(prepared.folder, root)
    return prepared


def already_prepared(
    adapter: DatasetAdapter, root: Path, *, options: Mapping[str, OptionValue], patch: int
) -> PreparedDataset | None:
    """Return a dataset's prepared patches if `prepare` would read no file for them; else None.

    Args are those of `prepare`.

    Raises:
        DataError: The folder of the dataset is missing, or cannot be listed.
    """
    check_root(adapter, root)
    try:
        prepared = open_prepared(_index_path(adapter, root, options, patch=patch), reused=True)
    except (OSError, ValueError):  # missing, or broken
        return None
    note_use(prepared.folder, root)
    return prepared


def _index_path(
    adapter: DatasetAdapter, root: Path, options: Mapping[str, OptionValue], *, patch: int
) -> Path:
    """Path of the index of a dataset with its files as they are now."""
    cache = cache_folder()
    folder = _folder(adapter, root, resolve_options(adapter, options), patch=patch, cache=cache)
    listing = listing_digest(root, adapter.elsewhere, ignore=cache)
    return folder / f"index-{INDEX_FORMAT}-{listing[:16]}.json"


def _prepare(
    adapter: DatasetAdapter,
    root: Path,
    options: Mapping[str, OptionValue],
    *,
    patch: int,
    fresh: bool,
    on_case: Callable[[int], None],
    threads: int | None,
) -> PreparedDataset:
    """As `prepare`, with the cache of the active context."""
    path = _index_path(adapter, root, options, patch=patch)
    folder = path.parent
    if not fresh:
        with suppress(OSError, ValueError):  # missing, or broken: try again under the lock
            return open_prepared(path, reused=True)
    with _folder_lock(folder):
        try:
            if path.exists() and not fresh:
                return open_prepared(path, reused=True)
            with _cache_errors(folder):
                _clear(folder, keep_rows=not fresh)
                if fresh:
                    HeaderCache(root).path.unlink(missing_ok=True)
                manifest = Manifest(folder, root)
                store = Store(folder, side=canvas_side(patch))
        except (OSError, ValueError) as error:
            raise _broken_cache_error(folder, error) from None
        with store:
            preparation = _Preparation(adapter, root, patch=patch, manifest=manifest, store=store)
            index = preparation.run(options, threads=threads or reading_threads(), on_case=on_case)
        with _cache_errors(folder):
            write_atomic(path, index.model_dump_json().encode())
            store.remove_other_numbers()
            return open_prepared(path)


def _folder(
    adapter: DatasetAdapter,
    root: Path,
    options: Mapping[str, OptionValue],
    *,
    patch: int,
    cache: Path,
) -> Path:
    """Return the cache folder; its name is a digest of all settings that determine the patches."""
    view = [adapter.field_of_view.millimetres, adapter.field_of_view.share]
    if adapter.field_of_view.mask is not None:
        view.append(adapter.field_of_view.mask)
    facts = [FORMAT, adapter.name, adapter.version, adapter.classes, adapter.task, patch, view]
    if adapter.channels == "grey":
        facts.append("grey")
    text = json.dumps([facts, sorted(options.items()), os.path.realpath(root)])
    return cache / f"{adapter.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def reading_threads() -> int:
    """Number of threads that read images: one for each processor, 16 at most."""
    return min(processors(), MAX_THREADS)


class _Preparation:
    """One pass over a dataset's cases: reads those that are not in the store, and adds them."""

    def __init__(
        self, adapter: DatasetAdapter, root: Path, *, patch: int, manifest: Manifest, store: Store
    ) -> None:
        self.adapter, self.root, self.patch = adapter, root, patch
        self.manifest, self.store = manifest, store
        self.known = {entry.signature: entry for entry in store.entries if entry.signature}
        self.cases: list[PreparedCase] = []
        self.entries: list[StoreEntry] = []  # one for each of `cases`
        self.excluded: list[ExcludedCase] = []
        self.remarks: list[ReadingRemark] = []
        self.findings: dict[tuple[str, ...], str] = {}  # key of each finding's first case

    def run(
        self,
        options: Mapping[str, OptionValue],
        *,
        threads: int,
        on_case: Callable[[int], None],
    ) -> Index:
        """Prepare every case.

        Raises:
            DataError: The dataset cannot be read, or has no usable case.
        """
        cases = self._cases(options)
        with closing(map_in_order(self._prepare, cases, threads=threads)) as outcomes:
            for case, outcome in outcomes:
                self._add(case, outcome)
                on_case(len(self.cases) + len(self.excluded))
        if not self.cases:
            raise self._no_case_error()
        with _cache_errors(self.store.folder):
            self.store.commit()
            if len(self.store.entries) > 2 * len(self.entries):
                self.entries = self.store.compact(self.entries)
            self.manifest.save()
        self._warn_changes()
        units = mixed_units(case.facts for case in self.cases)
        if units is not None:
            _log.warning("%s: %s", self.adapter.name, units)
        return self._index()

    def _cases(self, options: Mapping[str, OptionValue]) -> Iterator[Sample | Unusable]:
        """Yield the cases, and collect the remarks between them."""
        for case in read_cases(self.adapter, self.root, options):
            if isinstance(case, Remark):
                self.remarks.append(ReadingRemark(text=case.text, warning=case.warning))
            else:
                yield case

    def _prepare(self, case: Sample | Unusable) -> StoreEntry | NewEntry | Unusable:
        """Prepare one case; called in worker threads."""
        if isinstance(case, Unusable):
            return case
        try:
            signature = self._signature(case)
        except OSError as error:
            reason = f"its file cannot be opened ({error.strerror or error})"
            return unreadable_case(self.adapter, case, reason)
        if signature in self.known:
            return self.known[signature]
        loaded = load_image(self.adapter, case)
        if isinstance(loaded, Unusable):
            return loaded
        # What finds copies and shortcuts describes the image as it is.
        seen = in_grey(self.adapter.name, loaded) if self.adapter.channels == "grey" else loaded
        if is_flat(seen.image):
            return Unusable(key=case.key, reason="the image has no contrast")
        fault = crop_fault(seen, self.adapter.field_of_view, self.patch)
        if fault is not None:
            return Unusable(key=case.key, reason=fault)
        for path in case.source:
            self.manifest.check_unchanged(path)
        return NewEntry(
            signature=signature,
            crop=crop(seen, self.adapter.field_of_view, self.patch),
            thumbnail=thumbnail(loaded.image),
            texture=texture(loaded.image),
            statistics=Statistics.of(seen.image, seen.padding),
            content=content_digest(loaded.image),
            facts=image_facts(loaded),
        )

    def _signature(self, sample: Sample) -> str | None:
        """Return the SHA-256 of what determines a sample's row; None if it names no file."""
        if not sample.source:
            return None
        pairs = [pair and [float(at) for at in pair] for pair in (sample.centre, sample.spacing)]
        if self.adapter.field_of_view.mask is not None and sample.extent is not None:
            pairs.append([float(size) for size in sample.extent])
        digests = [self.manifest.digest(path) for path in sample.source]
        return hashlib.sha256(json.dumps([sample.key, pairs, digests]).encode()).hexdigest()

    def _add(self, sample: Sample | Unusable, outcome: StoreEntry | NewEntry | Unusable) -> None:
        """Add the outcome of a case; called in the order of the cases."""
        if isinstance(outcome, Unusable):
            self.excluded.append(ExcludedCase(key=outcome.key, reason=outcome.reason))
            return
        assert isinstance(sample, Sample)  # an Unusable from the adapter has no other outcome
        channels = len(outcome.crop if isinstance(outcome, NewEntry) else outcome.mean)
        before = len(self.entries[0].mean) if self.entries else None
        check_channels(self.adapter, sample, channels=channels, before=before)
        if isinstance(outcome, NewEntry):
            with _cache_errors(self.store.folder):
                outcome = self.store.append(outcome)
        self.entries.append(outcome)
        identity = _finding(sample, outcome, exact=self.adapter.exact_names)
        finding = self.findings.setdefault(identity, sample.key)
        self.cases.append(_case(sample, outcome, finding))

    def _no_case_error(self) -> DataError:
        cases = f": {len(self.excluded)} cases, the first: " if self.excluded else ""
        reason = self.excluded[0].reason if self.excluded else ""
        return DataError(
            f"{self.adapter.name}: no usable case in {self.root}{cases}{reason} "
            f"(see `{command_line('hydrakit', 'datasets', 'check', self.adapter.name)}`)"
        )

    def _warn_changes(self) -> None:
        changed = sorted(self.manifest.changed)
        if changed:
            more = f", and {len(changed) - MAX_NAMES} more" if len(changed) > MAX_NAMES else ""
            _log.warning(
                "%s: %d %s prepared: %s%s",
                self.adapter.name,
                len(changed),
                "file changed since it was"
                if len(changed) == 1
                else "files changed since they were",
                ", ".join(changed[:MAX_NAMES]),
                more,
            )

    def _index(self) -> Index:
        totals: dict[str, Statistics] = {}
        hasher = hashlib.sha256()
        for case, entry in zip(self.cases, self.entries, strict=True):
            patient = self._patient(case)
            total = totals.get(patient)
            totals[patient] = total + entry.statistics if total else entry.statistics
            metadata = case.model_dump(mode="json", exclude={"facts", "named"})
            hasher.update(json.dumps([metadata, entry.crop]).encode())
        if len(totals) < len({case.patient for case in self.cases}):
            # Which spellings mean one patient decides the z-score (`DatasetAdapter.exact_names`).
            hasher.update(json.dumps(self._people()).encode())
        intensities = {
            patient: Intensity(
                mean=tuple(total.mean.tolist()),
                deviation=tuple(total.standard_deviation().tolist()),
            )
            for patient, total in totals.items()
        }
        return Index(
            dataset=self.adapter.name,
            content=hasher.hexdigest(),
            channels=len(self.entries[0].mean),
            side=canvas_side(self.patch),
            cases=tuple(self.cases),
            excluded=tuple(self.excluded),
            number=self.store.number,
            rows=tuple(entry.row for entry in self.entries),
            patches=tuple(entry.crop for entry in self.entries),
            patients={case.patient: intensities[self._patient(case)] for case in self.cases},
            images=tuple(map(_image_intensity, self.entries)),
            remarks=tuple(self.remarks),
        )

    def _patient(self, case: PreparedCase) -> str:
        return patient_of(case, exact=self.adapter.exact_names)

    def _people(self) -> list[str]:
        """Form of each patient's name; that of before `Sample.named` if the same are equal."""
        now = [self._patient(case) for case in self.cases]
        before = [self._patient(case.model_copy(update={"named": False})) for case in self.cases]
        return before if len(set(before)) == len(set(now)) else now


def _image_intensity(entry: StoreEntry) -> ImageIntensity:
    deviation = entry.statistics.standard_deviation()
    return ImageIntensity(mean=entry.mean, deviation=tuple(deviation.tolist()), pixels=entry.count)


def _finding(sample: Sample, entry: StoreEntry, *, exact: bool) -> tuple[str, ...]:
    """Return what identifies a sample's finding.

    If the finding has no name, everything that the network sees identifies it: two lesions of one
    image differ in the crop.
    """
    patient = patient_of(sample, exact=exact)
    if sample.finding is not None:
        return "named", patient, normal_name(sample.finding, exact=exact)
    return "copies", patient, str(sample.label), entry.content, entry.crop


def _case(sample: Sample, entry: StoreEntry, finding: str) -> PreparedCase:
    facts = {
        name: value if isinstance(value, str) else float(value)
        for name, value in {**entry.facts, **sample.facts}.items()
        if isinstance(value, str) or math.isfinite(value)
    }
    return PreparedCase(
        key=sample.key,
        label=sample.label,
        patient=sample.patient,
        group=sample.group,
        finding=finding,
        split=sample.split,  # read_cases has checked it
        subgroups=dict(sample.subgroups),
        facts=facts,
        content=entry.content,
        named=sample.named,
    )


def map_in_order(
    work: Callable[[Item], Result], cases: Iterator[Item], *, threads: int
) -> Generator[tuple[Item, Result]]:
    """Yield each case with the result of ``work``, in order, computed by several threads.

    Only a few cases are in memory at a time.
    """
    pending: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prepare")
    with warnings.catch_warnings():
        # Warning filters are process-wide: an adapter that sets and restores them in one thread
        # would unset them in another. So the decoders' warnings are suppressed here.
        warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\b")
        try:
            for case in cases:
                pending.append((case, pool.submit(copy_context().run, work, case)))
                if len(pending) >= IN_FLIGHT * threads:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes; the lock is released when its process ends."""
    with _cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _cache_errors(folder):
            stack.enter_context(cache_lock(folder, say=_log.warning))
        yield


def _clear(folder: Path, *, keep_rows: bool) -> None:
    """Remove outdated indexes, and temporary files of interrupted processes.

    Indexes are removed before any rows, so that an existing index always has all of its rows.
    Without ``keep_rows``, all rows and the manifest are forgotten: `Store` removes rows that no
    journal lists.
    """
    outdated = (".", "index-") if keep_rows else (".", "index-", "journal-", MANIFEST)
    for path in sorted(folder.iterdir()):
        if path.name.startswith(outdated) and not path.name.startswith(FILES[0]):
            path.unlink()


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    """Convert an OSError in the cache folder to a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder.parent}: prepared data cannot be stored ({error.strerror or error}): "
            "choose another folder with `--cache` or $HYDRAKIT_CACHE"
        ) from None


def _broken_cache_error(folder: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0]
    return DataError(
        f"{folder}: prepared data cannot be read ({reason}): delete this folder to prepare it again"
    )
