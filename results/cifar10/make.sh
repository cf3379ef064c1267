#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: about three hours on two CPU cores up to the first look, an hour for the ablations.
# Needs CIFAR-10 at data/cifar10 (docs/DATA.md). Runs that are finished are not trained again; broken ones go on.
# The tables alone, from the records: bash results/make.sh results/cifar10
set -euo pipefail
export OMP_NUM_THREADS=1
out=results/cifar10
data=data/cifar10

# The claims are recorded first; then five seeds of each line, and more at the looks, of the lines that an open claim needs.
wfbench sweep sweeps/cifar10.yaml --data $data --out $out --until decided --jobs 2 --threads 1 --device cpu

# What in the trained networks does the work: parts taken away, of all seeds of the first look.
for line in static weightformer softmax-every-3-between-static softmax-dwc linear-dwc wf-linear-bilateral wf-dwc-adaptive; do
    [ -d $out/ablation-$line ] || wfbench ablate $out/cifar10-$line-s1[0-4]-* --device cpu --out $out/ablation-$line
done

# What the claims of scaling ask for, on an otherwise idle machine.
OMP_NUM_THREADS=2 wfbench profile --mixer softmax --mixer weightformer --resolution 224 --resolution 448 --resolution 672 \
    --resolution 896 --resolution 1120 --resolution 1344 --no-memory --device cpu --out $out

wfbench report $out --out $out
