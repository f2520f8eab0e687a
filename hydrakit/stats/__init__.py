"""How far figures from few cases can be trusted: intervals, differences, luck, verdicts."""
