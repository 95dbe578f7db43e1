"""What the machine code of the built CUDA kernels says: local memory and tensor cores, by cuobjdump."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import indeed_ext
from indeed_ext import _extension

from .results import table

#: What is looked for: loads and stores of local memory, which spilled registers go to; tensor core instructions.
LOCAL, TENSOR = re.compile(r"\b(?:LDL|STL)\b"), re.compile(r"\b(?:HMMA|HGMMA|UTCHMMA)\b")


def library() -> Path | None:
    """The compiled extension, if it holds CUDA code."""
    if not _extension.BUILD_INFO.get("cuda"):
        return None
    return next(Path(indeed_ext.__file__).parent.glob("_C.*.so"), None)


def tool() -> str | None:
    """CUDA's own cuobjdump, or the copy that Triton brings."""
    found = shutil.which("cuobjdump")
    spec = importlib.util.find_spec("triton")
    if found is None and spec is not None and spec.origin is not None:
        copy = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump"
        found = str(copy) if copy.exists() else None
    return found


def kernels(lines: Iterator[str]) -> Iterator[tuple[str, str, bool, bool]]:
    """(architecture, kernel, whether it uses local memory, whether tensor cores) of a listing."""
    architecture = name = ""
    local = tensor = False
    for line in lines:
        if match := re.search(r"arch = (sm_\w+)", line):
            following, kernel = match.group(1), ""
        elif match := re.search(r"Function : (\S+)", line):
            following, kernel = architecture, match.group(1)
        else:
            local |= bool(LOCAL.search(line))
            tensor |= bool(TENSOR.search(line))
            continue
        if name:
            yield architecture, name, local, tensor
        architecture, name, local, tensor = following, kernel, False, False
    if name:
        yield architecture, name, local, tensor


def main() -> int:
    """Print a table, or why there is none."""
    found, program = library(), tool()
    if found is None or program is None:
        print("the extension holds no CUDA code" if found is None else "there is no cuobjdump here")
        return 0
    counts: dict[str, list[int]] = {}
    # Its warnings are of the format of the listing.
    command = [program, "-sass", str(found)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for architecture, _, local, tensor in kernels(iter(process.stdout)):
            count = counts.setdefault(architecture, [0, 0, 0])
            for index, each in enumerate((True, local, tensor)):
                count[index] += each
    header = ["architecture", "kernels", "with local memory (LDL, STL)", "with tensor cores"]
    print(table(header, [[name, *map(str, count)] for name, count in counts.items()]))
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
