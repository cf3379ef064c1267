#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: about an hour on two CPU cores, two runs side by side.
# Needs CIFAR-10 at data/cifar10 (docs/DATA.md). Runs that are finished are not trained again; broken ones go on.
set -euo pipefail
export OMP_NUM_THREADS=1
out=results/cifar10

one() {
    mixer=$1 seed=$2 run=$out/$1-s$2
    resume=() && [ ! -f "$run/config.yaml" ] || resume=(--resume)
    wfbench train --recipe cifar10 --mixer "$mixer" --data data/cifar10 --seed "$seed" --device cpu --out "$run" "${resume[@]}"
    [ -d "$run/eval" ] || wfbench eval "$run" --device cpu --resolution 24 --resolution 32 --resolution 48
}
export -f one
export out

for seed in 0 1 2 3 4; do
    for mixer in softmax linear static weightformer; do echo "$mixer $seed"; done
done | xargs -P 2 -L 1 bash -c 'one $0 $1'

[ -f $out/records.jsonl ] || wfbench baselines --recipe cifar10 --data data/cifar10 --out $out
wfbench report $out --out $out
