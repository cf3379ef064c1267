#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: about five minutes on two CPU cores. Needs no data, but the records of
# results/profile, results/profile-rivals and results/profile-sizes, measured on the same machine.
# Nothing else may run meanwhile: operators are timed. The tables alone, from the records: bash results/make.sh results/predict
set -euo pipefail

# Every measured cell in turn is left out and predicted; then sides that were never measured.
wfbench predict results/profile results/profile-rivals results/profile-sizes --calibrate --model vit-tiny --batch 1 \
    --resolution 384 --resolution 1024 --resolution 2048 --out results/predict
# From cells up to 672 px: crossovers beside those that were measured up to 1344 px.
wfbench predict results/profile --measured-to 672 --resolution 1344 --out results/predict
