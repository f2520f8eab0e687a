"""Statistics of test results: metrics, intervals, paired comparisons, chance, verdicts."""
