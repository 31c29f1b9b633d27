"""Write a Hugging Face dataset as the JSON lines that tools/preprocess_data.py reads.

    python examples/data/export_dataset.py codeparrot/codeparrot-clean-train \
        --output codeparrot_data.json --columns content

The source is a name on the hub, a folder (of parquet, JSON or text files, or one that save_to_disk
wrote), or parquet files. Records are streamed: memory does not grow with the dataset. Then:

    python tools/preprocess_data.py --input codeparrot_data.json --output-prefix codeparrot \
        --vocab vocab.json --merge-file merges.txt --tokenizer-type GPT2BPETokenizer \
        --dataset-impl mmap --json-keys content --workers 32 --chunk-size 25 --append-eod
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tqdm import tqdm

from megatron.seq1f1b.data.files import atomic_file
from megatron.seq1f1b.data.stops import stoppable
from megatron.seq1f1b.errors import ConfigurationError, DataError
from tools.command_line import Parser, run

Record = Mapping[str, object]


def main() -> None:
    """Read the command line, stream the records, say how many there were."""
    parser = Parser(__doc__)
    parser.add_argument("source", nargs="+", help="name on the hub, folder, or parquet files")
    parser.add_argument("--split", default="train", help="split of the dataset")
    parser.add_argument("--columns", nargs="+", help="columns to keep; default: all")
    parser.add_argument("--output", type=Path, required=True, help="the JSON lines file to write")
    arguments = parser.parse_args()

    with stoppable():
        records = load(arguments.source, split=arguments.split)
        count = export(records, arguments.output, columns=arguments.columns)
    print(f"{arguments.output}: {count} records, {arguments.output.stat().st_size / 1e6:.1f} MB")


def load(source: list[str], *, split: str) -> Iterable[Record]:
    """The records of a dataset, read as they are asked for."""
    try:
        import datasets  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise ConfigurationError(
            "exporting a dataset needs the package datasets; pip install datasets, or this project "
            "with its extra: pip install .[data]"
        ) from error
    first = Path(source[0])
    try:
        if first.is_file():
            records = datasets.load_dataset("parquet", data_files=source, split="train", streaming=True)
        elif (first / "state.json").is_file() or (first / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(source[0])
            records = saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        else:
            records = datasets.load_dataset(source[0], split=split, streaming=True)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{' '.join(source)}, split {split}, cannot be loaded: {error}") from error
    found: Iterable[Record] = records
    return found


def export(records: Iterable[Record], output: Path, *, columns: list[str] | None) -> int:
    """Write the records, complete or not at all; their number."""
    count = 0
    with atomic_file(output) as stream:
        for record in tqdm(records, unit=" records"):
            missing = [name for name in columns or () if name not in record]
            if missing:
                raise DataError(f"no column {missing[0]!r}; the columns are {', '.join(record)}")
            kept = {name: record[name] for name in columns} if columns else dict(record)
            stream.write(json.dumps(kept, ensure_ascii=False, default=str).encode() + b"\n")
            count += 1
    return count


if __name__ == "__main__":
    run(main)
