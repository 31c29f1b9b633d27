# shellcheck shell=bash
# Sourced by exp.sh: real text without a download (the Python sources on this machine), as token files.

# prepare_sample: makes what is missing of the sample, and names it in DATA_PATH, VOCAB_FILE and MERGE_FILE.
prepare_sample() {
  SAMPLE_DIR=${SAMPLE_DIR:-data/sample}
  SAMPLE_MEGABYTES=${SAMPLE_MEGABYTES:-30}
  local folder=$SAMPLE_DIR
  [[ $folder = /* ]] || folder=$PWD/$folder
  local corpus=$folder/python.jsonl tokenizer=$folder/tokenizer prefix=$folder/python
  DATA_PATH=${prefix}_content_document
  VOCAB_FILE=$tokenizer/vocab.json
  MERGE_FILE=$tokenizer/merges.txt
  export DATA_PATH VOCAB_FILE MERGE_FILE
  mkdir -p "$folder"
  exec 7>"$folder/.making" # one at a time, where several nodes share this folder
  ! command -v flock >/dev/null || flock 7
  step "sample corpus" "$corpus" \
    python tools/make_sample_corpus.py --output "$corpus" --json-key content --megabytes "$SAMPLE_MEGABYTES"
  step "tokenizer" "$MERGE_FILE" \
    python tools/train_tokenizer.py --input "$corpus" --json-key content --vocab-size 4096 \
    --output-dir "$tokenizer"
  step "token files" "$DATA_PATH.idx" \
    python tools/preprocess_data.py --input "$corpus" --output-prefix "$prefix" --json-keys content \
    --tokenizer-type GPT2BPETokenizer --vocab-file "$VOCAB_FILE" --merge-file "$MERGE_FILE" \
    --workers 4 --append-eod
  exec 7>&-
}

# step NAME OUTPUT COMMAND...: runs the command unless its output is there already.
step() {
  local name=$1 output=$2
  shift 2
  if [ -e "$output" ]; then
    say "$name: already there ($output)"
    return
  fi
  say "$name: making $output"
  "$@"
}
