"""CLAIM 2024, the checklist for artificial intelligence in medical imaging, as far as a run knows.

Source: Tejani et al. 2024, Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024
Update, Radiology: Artificial Intelligence 6(4):e240300. The items are in our words.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

ITEMS: Mapping[int, str] = MappingProxyType(
    {
        1: "Title: a study of artificial intelligence, with the kind of technology",
        2: "Abstract: summary of design, methods, results and conclusions",
        3: "Scientific and clinical background, with the intended use and role of the approach",
        4: "Aims, objectives and hypotheses",
        5: "Prospective or retrospective",
        6: "Goal of the study",
        7: "Sources of the data",
        8: "Inclusion and exclusion criteria",
        9: "Preprocessing of the data",
        10: "Selection of parts of the data",
        11: "De-identification",
        12: "Handling of missing data",
        13: "Image acquisition protocol",
        14: "How the reference standard was obtained",
        15: "Why this reference standard was chosen",
        16: "Who annotated the reference standard",
        17: "Annotation of the test set",
        18: "Variability between and within annotators",
        19: "Assignment of the data to partitions",
        20: "Level at which the partitions are disjoint",
        21: "Intended sample size",
        22: "Description of the model",
        23: "Software",
        24: "Initialisation of the weights",
        25: "Training",
        26: "Selection of the final model",
        27: "Ensemble",
        28: "Metrics of performance",
        29: "Measures of significance and of uncertainty",
        30: "Analysis of robustness or sensitivity",
        31: "Methods of explanation",
        32: "Evaluation on internal data",
        33: "Testing on external data",
        34: "Registration of a clinical trial",
        35: "Numbers of patients or examinations included and excluded",
        36: "Demographic and clinical characteristics in each partition",
        37: "Performance with its uncertainty",
        38: "Estimates of diagnostic performance, with their precision",
        39: "Analysis of failures",
        40: "Limitations",
        41: "Implications for practice, with the intended use",
        42: "Reference to the full protocol or further technical details",
        43: "Availability of software, model and data",
        44: "Funding, and the role of the funders",
    }
)


def checklist(answers: Mapping[int, str]) -> list[str]:
    """Lines in Markdown: the answered items as a table, then the open ones.

    Args:
        answers: Answers by the number of the item, in Markdown without line ends.
    """
    lines = ["| Item | Answer |", "|---|---|"]
    lines += [
        f"| {number}. {text} | {answers[number]} |"
        for number, text in ITEMS.items()
        if number in answers
    ]
    open_items = [f"{number}. {text}" for number, text in ITEMS.items() if number not in answers]
    return [
        *lines,
        "",
        "Open, for the authors to answer:",
        "",
        *(f"* {item}" for item in open_items),
    ]
