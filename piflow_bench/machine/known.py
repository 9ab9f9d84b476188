"""What is known of the field's files before they are fetched: sizes, licences, gates.

Sizes in 16 bits, by counting weights, or as the hub lists them.
"""

from __future__ import annotations

from piflow_bench.files.hub import SCHEME

_OF_DEV = "FLUX.1 [dev] Non-Commercial licence"
KNOWN = {
    "black-forest-labs/FLUX.1-dev": f"33.8 GB, {_OF_DEV}, gated: accept it there first",
    "black-forest-labs/FLUX.1-dev/vae": f"0.2 GB, {_OF_DEV}, gated: accept it there first",
    "black-forest-labs/FLUX.1-schnell/transformer": "23.8 GB, Apache-2.0",
    "alimama-creative/FLUX.1-Turbo-Alpha": f"0.7 GB, {_OF_DEV}",
    "ByteDance/Hyper-SD": f"1.4 GB, a licence of its own beside the {_OF_DEV}",
    "domiso/SenseFlow": "23.8 GB, Apache-2.0 as marked, derived from FLUX.1 [dev]",
    "Lakonik/pi-FLUX.1": f"1.3 GB an adapter, derived from FLUX.1 [dev]: {_OF_DEV}",
    "Qwen/Qwen-Image": "57.7 GB, Apache-2.0",
    "Qwen/Qwen-Image/vae": "0.3 GB, Apache-2.0",
    "Lakonik/pi-Qwen-Image": "1.9 GB an adapter, derived from Qwen-Image",
    "lightx2v/Qwen-Image-Lightning": "0.8 to 1.7 GB, Apache-2.0",
    "zhiqiulin/clip-flant5-xxl": "22.9 GB, its vision tower among them",
    "nvidia/Qwen-Image-Flash": "40.9 GB, NVIDIA Open Model Agreement",
}


def about(source: str | None) -> str:
    """What is known of an address on the hub; empty where nothing is."""
    if source is None or not source.startswith(SCHEME):
        return ""
    name = source.removeprefix(SCHEME).partition("@")[0].rstrip("/")
    while name:
        if name in KNOWN:
            return KNOWN[name]
        name = name.rpartition("/")[0]
    return ""
