#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: about four hours on two CPU cores. Needs no data.
# Runs that are finished are not trained again; broken ones go on.
# The tables alone, from the records: bash results/make.sh results/probes
set -euo pipefail
export OMP_NUM_THREADS=1
out=results/probes

# Of each probe the claims are recorded first; then three rates are tried for each line, and five seeds are trained at the best.
for probe in recall majority needle shift; do
    wfbench sweep sweeps/probes-$probe.yaml --out $out --jobs 2 --threads 1 --device cpu
done

wfbench report $out --out $out
