#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: about three hours on two CPU cores (estimated). Needs no data.
# Runs that are finished are not trained again; broken ones go on.
# The tables alone, from the records: bash results/make.sh results/probes-width
set -euo pipefail
export OMP_NUM_THREADS=1
out=results/probes-width

# Three rates are tried for each line and width, and five seeds are trained at the best.
wfbench sweep sweeps/probes-width.yaml --out $out --jobs 2 --threads 1 --device cpu

wfbench report $out --out $out
