"""JSON lines to `.bin`/`.idx` pairs, in order, with any number of worker processes."""

from megatron.seq1f1b.data.preprocess.run import PreprocessSettings, Summary, preprocess

__all__ = ["PreprocessSettings", "Summary", "preprocess"]
