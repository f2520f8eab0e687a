"""Reading of DICOM images: headers, series, pixels and geometry.

`index_headers` reads all headers below a folder (module `index`). `series_facts` summarises them by
series, and a dataset's rules choose a series by these facts (module `header`). `read_pixels` reads
one image (module `pixels`) as grey values (module `grey`). Module `geometry` converts between
pixels and patient coordinates. Names of folders and files are ignored, because they differ between
downloads of one dataset.
"""

from __future__ import annotations

from hydrakit.data.dicom.header import Header, SeriesFacts, read_header, series_facts
from hydrakit.data.dicom.index import index_headers, report_index_progress, walk
from hydrakit.data.dicom.pixels import MissingCodecError, read_pixels

__all__ = [
    "Header",
    "MissingCodecError",
    "SeriesFacts",
    "index_headers",
    "read_header",
    "read_pixels",
    "report_index_progress",
    "series_facts",
    "walk",
]
