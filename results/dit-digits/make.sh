#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: about half an hour on two CPU cores, two runs side by side.
# Needs no data. Runs and samples that are finished are not made again; broken ones go on.
set -euo pipefail
export OMP_NUM_THREADS=1
out=results/dit-digits

one() {
    mixer=$1 seed=$2 run=$out/$1-s$2
    resume=() && [ ! -f "$run/config.yaml" ] || resume=(--resume)
    wfbench train --recipe dit-digits --mixer "$mixer" --seed "$seed" --device cpu --out "$run" "${resume[@]}"
    wfbench sample "$run" --num 500 --device cpu --out "$run/samples"
    [ -d "$run/eval" ] || {
        wfbench eval "$run" --weights ema --device cpu --out "$run/eval"
        wfbench eval "$run" --samples "$run/samples/samples.npz" --device cpu --out "$run/eval"
    }
}
export -f one
export out

for seed in 0 1 2; do
    for mixer in softmax linear weightformer; do echo "$mixer $seed"; done
done | xargs -P 2 -L 1 bash -c 'one $0 $1'

wfbench report $out --out $out
