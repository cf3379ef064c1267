#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: about ten minutes on two CPU cores. Needs no data.
# Larger models and batches than those of results/profile: what results/predict leaves out and predicts, a size in turn.
# Nothing else may run meanwhile: times are measured. The tables alone, from the records: bash results/make.sh results/profile-sizes
set -euo pipefail

profile() {
    wfbench profile --mixer softmax --mixer linear --mixer weightformer --mixer xca --mixer static "$@" \
        --attention auto --rounds 4 --seconds 0.3 --no-memory --out results/profile-sizes
}
profile --model vit-small --resolution 224 --resolution 448 --resolution 672
profile --model vit-base --resolution 224 --resolution 448
profile --batch 2 --resolution 224 --resolution 448
profile --batch 4 --resolution 224 --resolution 448
