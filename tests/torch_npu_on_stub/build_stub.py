"""Build a stub of CANN, just enough for the unmodified torch_npu wheel to load: `python build_stub.py FOLDER`.

The functions that have to do something are in acl_stub.c. All others that the wheel links to, or looks up by name, are
worked out from the installed wheel and become functions that return 0.
"""

import hashlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

LIBRARIES = ("hccl", "ascendcl", "acl_op_compiler", "ge_runner", "graph", "acl_tdt_channel", "opapi")
"""What libtorch_npu.so is linked to, and what it opens by name."""

CANN = re.compile(rb"(?:acl(?!nn)|Hccl|Msprof|rt[A-Z])[A-Za-z0-9_]+")


def wheel() -> Path:
    """The folder of the installed torch_npu, found without importing it."""
    return Path(str(importlib.metadata.distribution("torch_npu").locate_file("torch_npu")))


def wanted(folder: Path) -> set[str]:
    """The C functions of CANN that the wheel's libraries name: undefined symbols, and strings given to dlsym."""
    names = set()
    for library in (*folder.glob("lib/*.so"), *folder.glob("_C*.so")):
        listing = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, check=True).stdout
        names |= {line.split()[-1] for line in listing.splitlines() if CANN.fullmatch(line.split()[-1])}
        names |= {text for text in re.split(rb"[^\x20-\x7e]", library.read_bytes()) if CANN.fullmatch(text)}
    return {name.decode() for name in names}


def build(target: Path) -> None:
    """Compile the stub once and give it all the names; nothing to do where it is that of these sources and wheel."""
    target.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("acl_stub.c")
    made_of = (source.read_bytes(), Path(__file__).read_bytes(), importlib.metadata.version("torch_npu").encode())
    built, digest = target / "built", hashlib.sha256(b"".join(made_of)).hexdigest()
    if built.exists() and built.read_text() == digest:
        return
    built.unlink(missing_ok=True)
    written = set(re.findall(r"\b(\w+)\(", source.read_text(encoding="utf-8")))
    rest = sorted(wanted(wheel()) - written)
    generated = target / "returns_zero.c"
    generated.write_text("".join(f"long {name}(void) {{ return 0; }}\n" for name in rest), encoding="utf-8")
    first = target / f"lib{LIBRARIES[0]}.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-w", source, generated, "-o", first]
    subprocess.run(command, check=True)
    for name in LIBRARIES[1:]:
        link = target / f"lib{name}.so"
        link.unlink(missing_ok=True)
        link.symlink_to(first.name)
    built.write_text(digest)
    print(f"{first}: {len(written)} written, {len(rest)} generated functions")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
