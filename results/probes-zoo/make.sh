#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: about an hour on two CPU cores (estimated). Needs no data.
# Runs that are finished are not trained again; broken ones go on.
# The tables alone, from the records: bash results/make.sh results/probes-zoo
set -euo pipefail
export OMP_NUM_THREADS=1
out=results/probes-zoo

# The claims are recorded first; then three rates are tried for each line, and five seeds are trained at the best.
wfbench sweep sweeps/zoo-majority.yaml --out $out --jobs 2 --threads 1 --device cpu

wfbench report $out --out $out
