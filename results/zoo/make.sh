#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: about an hour on two CPU cores, half of it quiet. Needs no data.
# Nothing else may run during the profile: times are measured. The tables alone, from the records: bash results/make.sh results/zoo
set -euo pipefail
export OMP_NUM_THREADS=1
out=results/zoo

# Every registered mixer on the digits; then all are timed, with intervals of their speed-ups over softmax.
wfbench sweep sweeps/zoo.yaml --out $out --jobs 2 --threads 1 --device cpu
unset OMP_NUM_THREADS
mixers=(
    agent bi-gla differential fnet focused-linear gdn gfnet hydra identity
    inline large-kernel linear mala mhla mila-linear mlp-mixer nystrom performer
    polaformer pool pvt-sra rala random relu-linear softmax static ttt
    vim vrwkv vssd weightformer wf-dwc-adaptive wf-dwc-amp-dir wf-dwc-conv wf-dwc-gap wf-linear-bilateral
    wf-linear-deep wf-linear-gap wf-linear-linear wf-linear-nonlinear window xca
)
every=()
for mixer in "${mixers[@]}"; do every+=(--mixer "$mixer"); done
wfbench profile "${every[@]}" --resolution 112 --resolution 224 --resolution 448 --rounds 8 --seconds 0.5 --no-memory --out $out
