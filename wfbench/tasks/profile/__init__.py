"""Profiling: mixers × resolutions, each cell a row, with exponents, crossovers and throughput beside them.

`run.profile` measures a `request.ProfileRequest`. Nothing is imported here: the processes that measure one cell each begin in
this package, and start the sooner for it.
"""
