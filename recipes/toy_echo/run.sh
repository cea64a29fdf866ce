#!/usr/bin/env bash
# From nothing to a model that plays back the tones it hears; see README.md.
#
#   recipes/toy_echo/run.sh            all stages into runs/
#   STAGE=4 recipes/toy_echo/run.sh    from stage 4 on
#   SHORT=1 OUT=/tmp/x recipes/toy_echo/run.sh    a few steps of everything, to see that it runs (CI does this)
# Arguments go to both trainings: recipes/toy_echo/run.sh trainer.threads=1
set -euo pipefail
cd "$(dirname "$0")/../.."
out="${OUT:-runs}" stage="${STAGE:-1}" python="${PYTHON:-python}"
read -ra s2s <<<"${S2S:-s2s}"
count=0
codec=("folder=$out/toy_codec" "data.files=[$out/toy/audio.parquet]" "data.cache=$out/toy/audio.npy")
model=("folder=$out/toy_echo" "data.shards=[$out/toy/shards]" "codec_from=$out/toy_codec/checkpoints")
if [[ -n "${SHORT:-}" ]]; then
    count=8
    codec+=(debug=tiny) model+=(debug=tiny)
fi
prepare=("$python" recipes/toy_echo/prepare.py)

if ((stage <= 1)); then
    echo "1/5 tones for the codec"
    "${prepare[@]}" audio --out "$out/toy" --count "$count"
fi
if ((stage <= 2)); then
    echo "2/5 the codec"
    "${s2s[@]}" train experiment=toy_codec "${codec[@]}" "$@"
fi
if ((stage <= 3)); then
    echo "3/5 dialogues as codes and words"
    "${prepare[@]}" encode --out "$out/toy" --codec "$out/toy_codec" --count "$count"
fi
if ((stage <= 4)); then
    echo "4/5 the model"
    "${s2s[@]}" train experiment=toy_echo "${model[@]}" "$@"
fi
if ((stage <= 5)); then
    echo "5/5 live answers to new callers: $out/toy/answer-*.wav"
    "${prepare[@]}" listen --out "$out/toy" --codec "$out/toy_codec" --model "$out/toy_echo" --count "$count"
fi
