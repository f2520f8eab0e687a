"""What `hydrakit datasets check` calls a problem, and what a warning. This list is the whole list.

It imports nothing, so that the help of the command can show it at once.
"""

PROBLEMS = {
    "unusable": "no case can be used, or more than half of the cases cannot",
    "unlabelled": "no case has a label",
    "empty class": "a class has no usable case",
    "few patients": "too few patients to have every class in every split",
    "conflict": "copies of one image have different labels",
    "declared splits": "a patient, a group or copies lie across splits that the dataset declares",
}
"""Would spoil a result: exit status 1."""

WARNINGS = {
    "unusable": "some cases cannot be used",
    "copies": "there are copies, which a run keeps in one split",
    "shortcut": "a fact of the files alone tells the class",
}
"""Worth knowing before training."""
