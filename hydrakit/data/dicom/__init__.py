"""DICOM files found by their headers: an index, facts of a series, and pixels.

`index_headers` reads the headers of a tree (`dicom_index`), `series_facts` sums them up per series,
which is what a dataset's rules choose a series by (`dicom_header`), and `read_pixels` reads one
image (`dicom_pixels`). Names of folders and files are never looked at: they differ between
downloads of one and the same dataset. Where an image lies in the patient: `dicom_geometry`.
"""

from __future__ import annotations

from hydrakit.data.dicom.header import Header, SeriesFacts, read_header, series_facts
from hydrakit.data.dicom.index import index_headers, walk, watching_index
from hydrakit.data.dicom.pixels import MissingCodecError, read_pixels

__all__ = [
    "Header",
    "MissingCodecError",
    "SeriesFacts",
    "index_headers",
    "read_header",
    "read_pixels",
    "series_facts",
    "walk",
    "watching_index",
]
