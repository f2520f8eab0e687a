"""What hydrakit costs, measured beside what it is compared with: ``python -m benchmarks``.

Every contender works in a process of its own, one at a time and in turns (`harness`); what is
compared is told in `rows`. The authors' way is in `authors`, the bare floor in `floor`, hydrakit in
`ours` and its likes, and only there.
"""
