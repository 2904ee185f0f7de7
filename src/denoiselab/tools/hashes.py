"""python -m denoiselab.tools.hashes [requirements.txt]: update the hashes of all pinned packages in place.

To add or update a package, write its line, `name==version`, and run this. Comments and line order are kept. Hashes
cover every file of a release, so that the list serves every platform; no URL is written.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from denoiselab.errors import ConfigError

PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)")


def canonical(name: str) -> str:
    """Normalise a package name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    """Map canonical names to the pinned requirements "name==version" of a file."""
    found = (PIN.match(line) for line in text.splitlines())
    return {canonical(match[1]): match[0] for match in found if match}


def fetched(requirements: list[str]) -> dict[str, list[str]]:
    """Get the SHA-256 of every file of these releases from the package index, by canonical name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pins.txt"
        path.write_text("\n".join(requirements) + "\n")
        command = ["uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-deps", "--no-header"]
        command += ["--no-annotate", "--no-emit-index-url", "--no-emit-find-links", str(path)]
        uv = Path(sys.executable).with_name("uv")
        listed = subprocess.run([str(uv), *command[1:]], check=True, capture_output=True, text=True).stdout
    hashes: dict[str, list[str]] = {}
    for block in re.split(r"\n(?=\S)", listed):
        if match := PIN.match(block):
            hashes[canonical(match[1])] = re.findall(r"--hash=(sha256:[0-9a-f]{64})", block)
    return hashes


def rewritten(text: str, hashes: dict[str, list[str]]) -> str:
    """Replace the hashes of the requirements. Raises ConfigError for a package without hashes."""
    lines = []
    for line in text.splitlines():
        match = PIN.match(line)
        if line.lstrip().startswith("--hash="):
            continue
        lines.append(match[0] if match else line)
        if match:
            known = hashes.get(canonical(match[1]))
            if not known:
                raise ConfigError(f"{match[0]} has no hash: the package index does not list this version")
            lines[-1] += "".join(f" \\\n    --hash={value}" for value in sorted(known))
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> None:
    path = Path(argv[0] if argv else "requirements.txt")
    text = path.read_text()
    path.write_text(rewritten(text, fetched(list(pins(text).values()))))


if __name__ == "__main__":
    main(sys.argv[1:])
