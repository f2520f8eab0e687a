"""Kinds of problems and warnings that `hydrakit datasets check` reports.

This module imports nothing, so that the command's help is quick.
"""

PROBLEMS = {
    "unusable": "no case is usable, or more than half of the cases are unusable",
    "unlabelled": "no case has a label",
    "empty class": "a class has no usable case",
    "few patients": "too few patients to have every class in every split",
    "conflict": "copies of one image have different labels",
    "declared splits": "one of the dataset's declared splits lacks a class, or a patient, group or "
    "copies are in several of them",
}
"""Problems make results invalid; the exit status is 1."""

WARNINGS = {
    "unusable": "some cases are unusable",
    "patients": "cases name no patient, so that each image counts as its own patient",
    "reading": "columns, files or spellings of names may mean something else than what was read",
    "copies": "there are copies; a run keeps all copies of an image in one split",
    "units": "only some DICOM files have rescale tags",
    "shape": "images have more than 4 channels, a side under 16 pixels, or far less width than the "
    "field of view",
    "shortcut": "a fact of the files alone predicts the class",
}
"""Warnings are worth checking before training."""
