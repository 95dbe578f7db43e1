"""A user's own images: a CSV of file names and labels."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ..errors import DataError
from .images import ImageData, Listing, make_listing

SEPARATOR = ";"


class CsvData(ImageData):
    """Images listed in CSV files with the columns ``file`` and ``labels``, the labels of an image joined by ``;``.

    Files are looked for beside their CSV. An image without labels shows none of the classes.

    Args:
        train_csv: the training images.
        test_csv: the test images.
        validation_csv: the validation images; null holds some of the training images out.
        classes: names in the order of the outputs; null: those of the training images in alphabetical order.
        options: those of every :class:`ImageData`.
    """

    def __init__(
        self,
        train_csv: str,
        test_csv: str,
        validation_csv: str | None = None,
        classes: list[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        paths = (train_csv, test_csv, validation_csv)
        tables = [read_table(Path(path)) for path in paths if path is not None]
        names = classes or sorted({name for _, _, shown in tables[0] for name in shown})
        self.use(names, *(to_listing(table, names) for table in tables))


def read_table(path: Path) -> list[tuple[str, Path, list[str]]]:
    """(where it stands, image, labels) of every row.

    Raises:
        DataError: the file is missing, has other columns, or has a bad row, which is given by its line number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if header != ["file", "labels"]:
                raise DataError(f"{path}: expected the columns file,labels, got {','.join(header)}")
            rows = []
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if not row:
                    continue  # an empty line
                if len(row) != len(header):
                    raise DataError(f"{where}: expected 2 columns, got {len(row)}")
                name, labels = row[0].strip(), [label.strip() for label in row[1].split(SEPARATOR)]
                if not name:
                    raise DataError(f"{where}: no file name")
                if labels == [""]:
                    labels = []
                if "" in labels:
                    raise DataError(f"{where}: an empty label in {row[1]!r}")
                rows.append((where, path.parent / name, labels))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a CSV file: {error}") from None
    if not rows:
        raise DataError(f"{path} lists no images")
    return rows


def to_listing(table: list[tuple[str, Path, list[str]]], classes: list[str]) -> Listing:
    """The listing of a table's rows.

    Raises:
        DataError: a row names a class that is not in ``classes``, or a file that is not there.
    """
    known = set(classes)
    for where, path, shown in table:
        for name in shown:
            if name not in known:
                raise DataError(f"{where}: unknown class {name!r}; the classes are: {', '.join(classes)}")
        if not path.is_file():
            raise DataError(f"{where}: there is no image {path}")
    return make_listing([path for _, path, _ in table], [shown for _, _, shown in table], classes)
