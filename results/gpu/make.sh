#!/usr/bin/env bash
# Makes everything in this folder on one GPU, from the project's root, in four commands of at most ten minutes each:
#   bash results/gpu/make.sh train              8 lines with 5 seeds each on all of CIFAR-10 (estimated: 6 to 9 minutes)
#   bash results/gpu/make.sh profile            latency and memory, 224 to 2048 px (estimated: 8 minutes)
#   bash results/gpu/make.sh profile-compiled   the same through torch.compile, two mixers (estimated: 8 minutes)
#   bash results/gpu/make.sh report             tables, figures and the page; seconds, and needs no GPU
# Without a part it does all of them, in this order: train comes first, since it records the claims. The estimates are for an H200
# with 16 CPU cores; none of this has been run on a GPU yet. A part whose minutes are over stops with exit code 75, and the same
# command goes on: runs anywhere, from their last epoch; a profile on the same machine alone, since another's times are others.
#
# Environment:
#   DATA     CIFAR-10, binary or as images (docs/DATA.md)    data/cifar10
#   OUT      where everything goes                           results/gpu
#   DEVICE   auto, cpu or cuda                               cuda
#   JOBS     runs at once, all on one GPU                    12
#   MINUTES  after which a part stops; 0 never               9; without a part 0
#   TINY     1: try every part on a CPU in minutes           0
# TINY=1 takes two lines with two seeds, one epoch of 200 images, a model of two layers, and sides of 32 and 64 px; its claims are
# those of the sweep, cut to that. What it finds is worth nothing: it goes to runs/gpu-tiny, and never into results/.
set -euo pipefail

if [ "${TINY:-0}" = 1 ]; then
    out=${OUT:-runs/gpu-tiny} device=${DEVICE:-cpu} jobs=${JOBS:-2}
    case "$(realpath -m "$out")" in
        "$(realpath -m results)" | "$(realpath -m results)"/*) echo "error: TINY=1 makes no results; got OUT=$out; give another OUT" >&2; exit 2 ;;
    esac
    recipe=$out/cifar10-gpu-short.yaml
    mkdir -p "$out"
    sed -e 's/embed_dim: [0-9]*/embed_dim: 16/' -e 's/depth: [0-9]*/depth: 2/' -e 's/epochs: 30/epochs: 1/' \
        -e 's/warmup_epochs: [0-9]*/warmup_epochs: 0/' -e 's/batch_size: [0-9]*/batch_size: 32/' \
        recipes/cifar10-gpu-short.yaml > "$recipe"
    awk '/^  - id: / { cut = !/: (dynamic-both|linear-work|linear-time|faster-at-high-resolution)$/ } !cut' sweeps/gpu-claims.yaml |
        sed -e 's/^seeds: .*/seeds: [1, 2]/' -e 's/epochs: 30/epochs: 1/' -e 's/from: 1344/from: 32/' > "$out/claims.yaml"
    sweep=(--recipe "$recipe" --claims "$out/claims.yaml" --mixer static --mixer weightformer --seed 1 --seed 2
        --set data.limit=200)
    mixers=(--mixer softmax --mixer weightformer)
    sides=(--resolution 32 --resolution 64)
    eager=(--recipe "$recipe" --classes 10 --rounds 3)
    compiled=(--recipe "$recipe" --classes 10 --mixer weightformer --resolution 32 --rounds 1 --seconds 0.05 --budget 600)
    tokens=256
else
    out=${OUT:-results/gpu} device=${DEVICE:-cuda} jobs=${JOBS:-12}
    sweep=()
    mixers=(--mixer softmax --mixer linear --mixer static --mixer weightformer --mixer xca)
    sides=(--resolution 224 --resolution 448 --resolution 896 --resolution 1344 --resolution 2048)
    eager=()
    compiled=(--mixer softmax --mixer weightformer --resolution 224 --resolution 448 --resolution 896 --resolution 2048
        --rounds 3 --seconds 0.5)
    tokens=16384
fi
data=${DATA:-data/cifar10}
minutes=${MINUTES:-$(($# ? 9 : 0))}

# What a part does, until its minutes are over.
limited() {
    local code=0
    if ((minutes == 0)); then
        "$@"
        return
    fi
    local left=$((60 * minutes - SECONDS))
    if ((left > 0)); then timeout --kill-after=45 "$left" "$@" || code=$?; else code=124; fi
    case $code in
        0) ;;
        124 | 137) echo "not finished within $minutes minutes; what was done is kept, and the same command goes on" >&2; exit 75 ;;
        *) exit "$code" ;;
    esac
}

# The claims are recorded first, then the runs that they are about, seed after seed.
train() {
    if [ "${TINY:-0}" = 1 ]; then  # all lines and claims are looked at, whatever is run
        wfbench sweep sweeps/gpu.yaml --data "$data" --out "$out" --dry-run > /dev/null
    fi
    limited wfbench sweep sweeps/gpu.yaml ${sweep[@]+"${sweep[@]}"} --data "$data" --out "$out" --jobs "$jobs" --threads 1 \
        --device "$device"
}

# ViT-Tiny. Softmax is timed with every backend of its attention, and compared by the fastest one. First the same number of tokens in
# every call, which the claims are about; then one image in a call, with its memory.
profile() {
    limited wfbench profile "${mixers[@]}" "${sides[@]}" ${eager[@]+"${eager[@]}"} --tokens "$tokens" --dtype bfloat16 \
        --no-isolate --device "$device" --out "$out"
    limited wfbench profile "${mixers[@]}" "${sides[@]}" ${eager[@]+"${eager[@]}"} --dtype bfloat16 --no-isolate --memory \
        --device "$device" --out "$out"
}

# One image in a call. Compiling takes most of the time, in a process for each cell and round; so two mixers, and three rounds.
profile-compiled() {
    limited wfbench profile "${compiled[@]}" --attention auto --dtype bfloat16 --compile \
        --device "$device" --out "$out"
}

report() {
    wfbench report "$out" --out "$out"
}

[ $# -gt 0 ] || set -- train profile profile-compiled report
for part in "$@"; do
    case $part in
        train | profile | profile-compiled | report) ;;
        *) echo "error: no such part: $part; expected train, profile, profile-compiled or report" >&2; exit 2 ;;
    esac
done
for part in "$@"; do
    SECONDS=0
    "$part"
done
