"""Datasets declared without code: a folder of images with a ``dataset.toml``.

From the file to a sample: `schema` (the file); `patterns`, `tables`, `coco`, `arrays` (where the
cases come from); `columns`, `rows` (each case as fields of text); `labels`, `cases` (these fields
as a case); `by_name`, `listing` (all cases, and their files); `raster`, `images`, `picture` (one
image); `masks`, `read_case` (one sample); `adapter` (the dataset).

`given` makes cases of images that a user names for prediction. `guess` drafts a ``dataset.toml``
from what `guess_sources` and `guess_columns` recognise in a folder. `sets` has public datasets.
"""
