"""Tests, in folders that mirror `megatron/seq1f1b`, plus the harness and the tests of the house."""
