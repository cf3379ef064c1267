#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: about ten hours on two CPU cores (estimated). Needs no data.
# Run so far: two seeds of each line on majority, and a third of some. The same command goes on.
# Runs that are finished are not trained again; broken ones go on.
# The tables alone, from the records: bash results/make.sh results/probes-rivals
set -euo pipefail
export OMP_NUM_THREADS=1
out=results/probes-rivals

# Of each probe the claims are recorded first; then three rates are tried for each line, and five seeds are trained at the best.
for probe in majority needle shift recall; do
    wfbench sweep sweeps/rivals-$probe.yaml --out $out --jobs 2 --threads 1 --device cpu
done

wfbench report $out --out $out
