#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: about ten minutes on two CPU cores. Needs no data.
# Forward, backward and optimiser step. Nothing else may run meanwhile: times are measured.
# The tables alone, from the records: bash results/make.sh results/profile-train
set -euo pipefail

wfbench profile --mode train --mixer softmax --mixer linear --mixer weightformer --mixer xca --mixer static \
    --resolution 112 --resolution 224 --resolution 448 --resolution 672 --attention auto --rounds 5 --seconds 0.3 \
    --out results/profile-train
