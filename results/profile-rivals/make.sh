#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: about twenty minutes on two CPU cores. Needs no data.
# Nothing else may run meanwhile: times are measured. The tables alone, from the records: bash results/make.sh results/profile-rivals
set -euo pipefail

mixers=(softmax differential window pvt-sra large-kernel mhla rala polaformer mala vim gdn vrwkv gfnet)
every=()
for mixer in "${mixers[@]}"; do every+=(--mixer "$mixer"); done
wfbench profile "${every[@]}" --resolution 224 --resolution 448 --resolution 672 --resolution 896 \
    --rounds 6 --seconds 0.5 --no-memory --out results/profile-rivals
