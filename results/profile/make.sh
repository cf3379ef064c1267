#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: under half an hour on two CPU cores. Needs no data.
# Nothing else may run meanwhile: times are measured. The tables alone, from the records: bash results/make.sh results/profile
set -euo pipefail

wfbench profile --mixer softmax --mixer linear --mixer weightformer --mixer xca --mixer static \
    --resolution 224 --resolution 448 --resolution 672 --resolution 896 --resolution 1120 --resolution 1344 \
    --alternatives --rounds 6 --seconds 0.5 --out results/profile
