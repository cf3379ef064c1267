#!/usr/bin/env bash
# Makes everything in this folder, from the project's root: about an hour on two CPU cores. Needs no data.
# Runs that are finished are not trained again; broken ones go on.
# The tables alone, from the records: bash results/make.sh results/scenes
set -euo pipefail
export OMP_NUM_THREADS=1
out=results/scenes

# The claims are recorded first, then 35 runs that they are about.
wfbench sweep sweeps/scenes.yaml --out $out --jobs 2 --threads 1 --device cpu

# The same weights on scenes of 64 to 256 px, with as many objects for each pixel: 256 to 4,096 tokens. Fifty scenes of each.
one() {
    [ -d "$1/eval" ] || wfbench eval "$1" --device cpu --set data.dense.held_out=50 \
        --resolution 64 --resolution 128 --resolution 192 --resolution 256
}
export -f one
printf '%s\n' $out/scenes-*-s[0-9]-* | xargs -P 2 -I {} bash -c 'one {}'

# What these models cost at these sizes, on an otherwise idle machine: without and with the depthwise convolution.
for local in none dwc; do
    wfbench profile --recipe scenes --mixer softmax --mixer linear --mixer static --mixer weightformer --mixer xca \
        --local-conv $local --resolution 64 --resolution 128 --resolution 192 --resolution 256 \
        --attention auto --no-isolate --no-memory --threads 1 --device cpu --out $out
done

wfbench report $out --out $out
