"""Print what the installed vLLM requires, less what only pictures and sound need."""

from __future__ import annotations

from importlib import metadata

LEFT_OUT = ("torchaudio", "torchcodec", "torchvision")


def main() -> None:
    """Print one requirement a line."""
    (package,) = metadata.packages_distributions()["vllm"]
    for requirement in metadata.requires(package) or []:
        if not requirement.startswith(LEFT_OUT) and "extra ==" not in requirement:
            print(requirement)


if __name__ == "__main__":
    main()
