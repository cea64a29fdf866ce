#!/usr/bin/env bash
# From phrases to the model that answers Harbor Parcel's phone; see README.md.
#
#   VOICES=package/voices recipes/support_desk/run.sh        all stages into runs/
#   CLIPS='clips/*.parquet' recipes/support_desk/run.sh      with ready-made caller clips instead of stage 1's Kokoro
#   STAGE=5 recipes/support_desk/run.sh                      from stage 5 on
#   SHORT=1 OUT=/tmp/short recipes/support_desk/run.sh       a little of everything, in minutes: does it work here?
#
# NOISE is a glob of tables of noises, SPEECH one of any other speech (audio bytes in a column `audio`, its words in `text`)
# for the codec's first stage and to be listened to; both may be left out. Every stage continues where it was stopped.
# With a GPU stages 5 and 7 end in a training more, which makes most of the difference; CALLS=2100 is enough without one.
set -euo pipefail
cd "$(dirname "$0")/../.."
out="${OUT:-runs/support_desk}" stage="${STAGE:-1}" python="${PYTHON:-python}" calls="${CALLS:-6800}"
prepare=("$python" recipes/support_desk/prepare.py --out "$out")
clips=()
set -f # globs are for the programs to open
for glob in ${CLIPS:-}; do clips+=(--clips "$glob"); done
clips+=(--clips "$out/callers/*.parquet")
noise=()
for glob in ${NOISE:-}; do noise+=(--noise "$glob"); done
speech=()
for glob in ${SPEECH:-}; do speech+=(--speech "$glob"); done
set +f
has_gpu() { "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; }
newest() { ls -t "$1"/checkpoints/*.ckpt | head -n 1; }
listed() { printf '%s,' "$@" | sed 's/,$//'; }
set -f
voices=$(listed "$out/agent.parquet" "$out/agent_general.parquet" "$out/callers/*.parquet" ${CLIPS:-} ${SPEECH:-})
set +f
passes=2 drawn=1500 again=1800 callers=() agent=() drill=() train=() short=()
if [[ -n "${SHORT:-}" ]]; then
    passes=1 drawn=2 again=6 calls=8 callers=(--each 2 --drawn 1) agent=(--numbers 6 --zips 4 --general 12) drill=(--drill 24)
    train=(debug=tiny) short=(count=1 "conditions=[clean]" read_backs=1 recogniser=tiny naturalness=false)
fi

if ((stage <= 1)); then
    echo "1/8 callers: every phrase in other voices, and many numbers"
    [[ -z "${VOICES:-}" ]] || "${prepare[@]}" --stage callers --voices "$VOICES" --passes "$passes" "${callers[@]}"
    "${prepare[@]}" --stage callers --passes "$passes" "${callers[@]}"
    [[ -z "${VOICES:-}" ]] || "${prepare[@]}" --stage heldout --voices "$VOICES"
fi
if ((stage <= 2)); then
    echo "2/8 the agent's voice"
    "${prepare[@]}" --stage agent "${clips[@]}" "${agent[@]}"
fi
if ((stage <= 3)); then
    echo "3/8 the codec, on all voices"
    s2s train experiment=codec_general folder="$out/codec" "data.files=[$voices]" data.cache="$out/codec.npy" "${train[@]}"
fi
if ((stage <= 4)); then
    echo "4/8 its tokens are fixed by now: 8-bit weights, so that the model learns from what is shipped"
    s2s export "$out/general" --codec "$(newest "$out/codec")" --weight-format int8
fi
if ((stage <= 5)); then
    echo "5/8 the codec's decoder, on the agent's voice, and a second one on all voices"
    s2s train experiment=codec_voice folder="$out/voice" init_from="$out/general" \
        "data.files=[$out/agent.parquet,$out/agent_general.parquet]" data.cache="$out/voice.npy" "${train[@]}"
    if has_gpu; then
        s2s train experiment=codec_judges folder="$out/judged" init_from="$(newest "$out/voice")" \
            "data.files=[$out/agent.parquet]" data.cache="$out/judged.npy" "${train[@]}"
    fi
    s2s train experiment=codec_many folder="$out/many" init_from="$out/general" "data.files=[$voices]" \
        data.cache="$out/codec.npy" "${train[@]}"
fi
if ((stage <= 6)); then
    echo "6/8 calls, single turns, speech that is only listened to and calls that are read, as codes and words"
    workers=$(nproc)
    encode() {
        for ((worker = 0; worker < workers; worker++)); do
            "${prepare[@]}" "$@" "${noise[@]}" --codec "$out/general" --worker "$worker" --workers "$workers" &
        done
        wait
    }
    "${prepare[@]}" --stage drill "${drill[@]}"
    [[ -z "${VOICES:-}" ]] || "${prepare[@]}" --stage drill --voices "$VOICES" "${drill[@]}"
    "${prepare[@]}" --stage seldom "${clips[@]}" "${drill[@]}"
    [[ -z "${VOICES:-}" ]] || "${prepare[@]}" --stage seldom --voices "$VOICES" "${clips[@]}" "${drill[@]}"
    encode --stage listen "${clips[@]}" "${speech[@]}" --seed 3
    encode --stage turns "${clips[@]}" --count $((6 * calls)) --seed 1
    encode --stage encode "${clips[@]}" --count "$calls" --seed 2
    encode --stage encode --lively "${clips[@]}" --count $((calls / 3)) --seed 6
    encode --stage encode --hesitant "${clips[@]}" --count $((calls / 4)) --seed 7
    encode --stage written --count $((2 * calls)) --drawn "$drawn" --seed 4
    encode --stage written --spoken --count $((calls * 2 / 3)) --drawn "$drawn" --seed 5
    encode --stage sentences --count $((6 * calls)) --drawn "$drawn" --seed 8
fi
if ((stage <= 7)); then
    echo "7/8 the model: hearing and speaking, which reply follows from which words, all again, how words are said, whose turn it is"
    shards="data.shards=[$out/train,$out/lively,$out/turns,$out/listen,$out/written,$out/spoken]"
    s2s train experiment=support_desk folder="$out/first" codec_from="$out/general" "$shards" "${train[@]}"
    s2s train experiment=support_desk_replies folder="$out/replies" codec_from="$out/general" \
        init_from="$(newest "$out/first")" "data.shards=[$out/written]" "${train[@]}"
    s2s train experiment=support_desk folder="$out/model" codec_from="$out/general" \
        init_from="$(newest "$out/replies")" optim.learning_rate=1e-3 optim.total_steps="$again" "$shards" "${train[@]}"
    if has_gpu; then
        s2s train experiment=support_desk_gpu folder="$out/longer" codec_from="$out/general" \
            init_from="$(newest "$out/model")" "$shards" "${train[@]}"
    fi
    model="$out/model"
    [[ ! -d "$out/longer" ]] || model="$out/longer"
    s2s train experiment=support_desk_talker folder="$out/talker" codec_from="$out/general" \
        init_from="$(newest "$model")" "data.shards=[$out/train,$out/lively,$out/spoken]" "${train[@]}"
    s2s train experiment=support_desk_turns folder="$out/taking" codec_from="$out/general" init_from="$(newest "$out/talker")" \
        "data.shards=[$out/train,$out/lively,$out/hesitant,$out/turns,$out/written,$out/sentences]" "${train[@]}"
fi
if ((stage <= 8)); then
    echo "8/8 export and evaluation"
    voice="$out/voice"
    [[ ! -d "$out/judged" ]] || voice="$out/judged"
    s2s export "$out/support_desk" --codec "$(newest "$voice")" --general-decoder "$(newest "$out/many")" \
        --model "$(newest "$out/taking")" --tokenizer "$out/tokenizer.json" --weight-format int8 --speed int8 --temperature 0
    set -f
    evaluation=("callers=[$(listed ${CLIPS:-} "$out/callers/*.parquet")]" "agent=$out/agent.parquet")
    [[ -z "${NOISE:-}" ]] || evaluation+=("noise=[$(listed $NOISE)]")
    [[ -z "${VOICES:-}" ]] || evaluation+=("heldout=[$out/heldout/*.parquet]")
    set +f
    # DIGITS and ACCENTS are tables of people's digits and sentences, see conf/evaluation/support_desk.yaml; SPEECH should not
    # hold them.
    s2s evaluate experiment=support_desk model="$out/support_desk" folder="$out/evaluation" cache="$out/cache" \
        workers="$(nproc)" digits="${DIGITS:-}" accents="${ACCENTS:-}" "${evaluation[@]}" "${short[@]}"
fi
