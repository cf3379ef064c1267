#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: about ten minutes on two CPU cores.
# Needs Fashion-MNIST at data/fashion-mnist (docs/DATA.md).
set -euo pipefail
export OMP_NUM_THREADS=1
out=results/fashion

one() {
    resume=() && [ ! -f "$out/$1/config.yaml" ] || resume=(--resume)
    wfbench train --recipe fashion --mixer "$1" --data data/fashion-mnist --device cpu --out "$out/$1" "${resume[@]}"
}
export -f one
export out

printf '%s\n' softmax linear static weightformer | xargs -P 2 -L 1 bash -c 'one $0'
[ -f $out/records.jsonl ] || wfbench baselines --recipe fashion --data data/fashion-mnist --out $out
wfbench report $out --out $out
