"""Many image files through a net: read ahead of their use and written behind it by threads, in batches of one shape."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from m2o_fast.data.parallel import cores
from m2o_fast.errors import UserError

_WINDOW = 512  # files among which those of one shape are looked for
_CHUNK = 16  # files that a thread takes at a time: to hand over single ones takes longer than to read a small one

Shape = TypeVar("Shape", bound=Hashable)
Image = TypeVar("Image")
Item = TypeVar("Item")
Found = TypeVar("Found")


class ImageStream(Generic[Shape, Image]):
    """Reads files and hands them out in batches; two batches are in memory at a time. Used in a ``with`` block.

    Args:
        shape_of: Tells from the head of a file which others may share its batch.
        read: Reads a file.
        batch_of: How many images of a shape make a batch.

    Attributes:
        failures: File -> why it cannot be read.
    """

    def __init__(
        self, shape_of: Callable[[Path], Shape], read: Callable[[Path], Image], batch_of: Callable[[Shape], int]
    ) -> None:
        self._shape_of, self._read, self._batch_of = shape_of, read, batch_of
        self._pool = ThreadPoolExecutor(cores())
        self._writes: list[Future[Any]] = []
        self.failures: dict[Path, str] = {}

    def __enter__(self) -> ImageStream[Shape, Image]:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def batches(self, files: Sequence[Path]) -> Iterator[list[Image]]:
        """The images of files, about in their order; those that cannot be read are left out.

        Raises:
            UserError: What a :meth:`write` met.
        """
        ahead: list[Future[list[Image | None]]] = []
        for batch in self._planned(files):
            behind, ahead = ahead, self._submitted(self._read, batch)
            yield from self._loaded(behind)
        yield from self._loaded(ahead)
        for future in self._writes:
            future.result()

    def write(self, function: Callable[[Sequence[Item]], None], items: Sequence[Item]) -> None:
        """Calls a function of some of the items at a time, in threads.

        It is done with them, or its error raised, before the batch after next.
        """
        for some in _chunks(items, _CHUNK):
            self._writes.append(self._pool.submit(function, some))

    def _planned(self, files: Sequence[Path]) -> Iterator[Sequence[Path]]:
        for window in _chunks(files, _WINDOW):
            alike: dict[Shape, list[Path]] = {}
            shapes = chain.from_iterable(future.result() for future in self._submitted(self._shape_of, window))
            for file, shape in zip(window, shapes, strict=True):
                if shape is not None:
                    alike.setdefault(shape, []).append(file)
            for shape, group in alike.items():
                yield from _chunks(group, self._batch_of(shape))

    def _submitted(self, function: Callable[[Path], Found], files: Sequence[Path]) -> list[Future[list[Found | None]]]:
        def several(some: Sequence[Path]) -> list[Found | None]:
            return [self._attempt(function, file) for file in some]

        return [self._pool.submit(several, some) for some in _chunks(files, _CHUNK)]

    def _attempt(self, function: Callable[[Path], Found], file: Path) -> Found | None:
        try:
            return function(file)
        except UserError as error:
            self.failures[file] = str(error)
            return None

    def _loaded(self, parts: Sequence[Future[list[Image | None]]]) -> Iterator[list[Image]]:
        loaded = [image for part in parts for image in part.result() if image is not None]
        writes, self._writes = self._writes, []
        if loaded:
            yield loaded
        for future in writes:
            future.result()


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
