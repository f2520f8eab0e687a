"""Volumes as images: NIfTI, NRRD and MetaImage files, read slice by slice.

Each of these formats is a header and one block of numbers, stored as they are or packed with zlib
(module `voxels`). The headers (modules `nifti`, `nrrd`, `metaimage`) are read and checked first,
and of a block that is not packed only the slices that are asked for. Module `volume` turns them
into images. nibabel and SimpleITK are not used: docs/design.md says why.
"""
