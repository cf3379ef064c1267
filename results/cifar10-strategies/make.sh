#!/usr/bin/env bash
# Makes everything in this folder and in results/erf, from the project's root: about two hours and a half on two CPU cores.
# Needs CIFAR-10 at data/cifar10 (docs/DATA.md). Runs that are finished are not trained again; broken ones go on.
# The tables alone, from the records: bash results/make.sh results/cifar10-strategies
set -euo pipefail
export OMP_NUM_THREADS=1
out=results/cifar10-strategies
data=data/cifar10

# The claims are recorded first, then 75 runs that they are about; then rivals and controls.
wfbench sweep sweeps/cifar10-strategies.yaml --data $data --out $out --jobs 2 --threads 1 --device cpu
wfbench sweep sweeps/cifar10-strategies-rivals.yaml --data $data --out $out --jobs 2 --threads 1 --device cpu

# Image sides that the models were not trained at.
one() {
    [ -d "$1/eval" ] || wfbench eval "$1" --device cpu --resolution 24 --resolution 32 --resolution 48
}
export -f one
for line in softmax static weightformer; do
    printf '%s\n' $out/cifar10-$line-s[0-9]-*
done | xargs -P 2 -I {} bash -c 'one {}'

grep -q '"kind":"baseline"' $out/records.jsonl || wfbench baselines --recipe cifar10 --data $data --out $out

# What the claims of scaling ask for, on an otherwise idle machine.
OMP_NUM_THREADS=2 wfbench profile --mixer softmax --mixer weightformer --resolution 224 --resolution 448 --resolution 672 \
    --resolution 896 --resolution 1120 --resolution 1344 --no-memory --device cpu --out $out

# Receptive fields of one run of each line, before and after training; and of fresh models at 224 px.
[ -d results/erf ] || {
    wfbench erf $out/cifar10-*-s5-* --device cpu --out results/erf
    wfbench erf --images 8 --device cpu --out results/erf
}

wfbench report $out --out $out
