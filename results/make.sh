#!/usr/bin/env bash
# Makes every table, figure and page in results/ again, from the records alone, then docs/RESULTS.md and the README's findings.
#   bash results/make.sh                      all folders
#   bash results/make.sh results/cifar10-strategies      one
# What is generated is deleted first; records, runs and make.sh stay. How the records came to be: each folder's make.sh, or
# the commands in its tables.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for place in "${@:-results/*/}"; do
    for folder in $place; do
        [ -n "$(find "$folder" -name records.jsonl -print -quit)" ] || continue
        find "$folder" -maxdepth 1 -type f ! -name records.jsonl ! -name make.sh -delete
        wfbench report "$folder" --out "$folder" > /dev/null
        echo "made $folder"
    done
done
python docs/update_readme.py
python docs/make_results.py
