"""Print the requirements of the installed vLLM, without those for pictures and sound."""

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
