"""Numbers from the system's headers. `headers.json` has them, for machines without the headers.

python -m tests.sysmem_protocol.headers > tests/sysmem_protocol/headers.json

writes the file on a machine with Debian's `libdrm-dev` and `linux-libc-dev`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TypeAlias

DRM = Path("/usr/include/libdrm/drm_fourcc.h")
V4L2 = Path("/usr/include/linux/videodev2.h")
KEPT = Path(__file__).with_suffix(".json")

#: By the macro's or enumerator's name.
Numbers: TypeAlias = dict[str, int]


def kept() -> dict[str, Numbers]:
    """Return the numbers by header, from the headers of Debian 12."""
    numbers: dict[str, Numbers] = json.loads(KEPT.read_text())
    return numbers


def drm(text: str) -> Numbers:
    """Return the fourccs and the parts of modifiers in drm_fourcc.h."""
    return {
        **_fourccs(text, "DRM_FORMAT_"),
        **{
            name: int(number, 16)
            for name, number in re.findall(
                r"#define (DRM_FORMAT_MOD_VENDOR_\w+)\s+(0x[0-9a-f]+|0)\b", text
            )
        },
        **{
            name: int(number)
            for name, number in re.findall(
                r"#define (I915_FORMAT_MOD_\w+)\s+fourcc_mod_code\(INTEL, (\d+)\)", text
            )
        },
        **{
            name: int(number) << int(shift or 0)
            for name, number, shift in re.findall(
                r"#define (AFBC_FORMAT_MOD_\w+)\s+\((\d+)ULL(?:\s*<<\s*(\d+))?\)", text
            )
        },
    }


def v4l2(text: str) -> Numbers:
    """Return the fourccs and the numbers for colours in videodev2.h."""
    colors = re.findall(r"(V4L2_(?:COLORSPACE|QUANTIZATION|XFER_FUNC)_\w+)\s+= (\d+)", text)
    return {
        **_fourccs(text, "V4L2_PIX_FMT_"),
        **{name: int(number) for name, number in colors},
    }


def _fourccs(text: str, prefix: str) -> Numbers:
    pattern = rf"#define\s+({prefix}\w+)\s+\w*fourcc(?:_code)?\('(.)',\s*'(.)',\s*'(.)',\s*'(.)'\)"
    return {
        name: sum(ord(character) << 8 * index for index, character in enumerate(characters))
        for name, *characters in re.findall(pattern, text)
    }


if __name__ == "__main__":
    found = {DRM.name: drm(DRM.read_text()), V4L2.name: v4l2(V4L2.read_text())}
    print(json.dumps(found, indent=0))
