"""Broken, huge and hostile files, made from sound ones, and what reads them.

`mutators` and `mutators_*` change the bytes of a sound file; `datasets` and `runs` write sound
files, and read changed ones; `targets` lists what is fuzzed; `watch` reads many inputs in one
process and measures its time and (by `memory`) its memory. The tests are in `test_fuzz`.
"""
