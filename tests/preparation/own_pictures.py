"""Pictures as users have them, in all the forms they are kept in."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("ant", "bee")


def pixels(count=24, height=6, width=8, channels=3, seed=0):
    """Different pictures ``(n, h, w, c)``."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, channels), np.uint8)


def image(array):
    """Pillow's of ``(h, w, 1 or 3)``."""
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def encoded(array, suffix="png", **options):
    file = io.BytesIO()
    image(array).save(file, {"jpg": "jpeg"}.get(suffix, suffix), **options)
    return file.getvalue()


def names(count=24, suffix="png", classes=CLASSES):
    """Half of the files in each class folder, in natural order."""
    share = -(-count // len(classes))
    return [f"{classes[i // share]}/{i}.{suffix}" for i in range(count)]


def folder(root, array, places=None, suffix="png", **options):
    for name, one in zip(places or names(len(array), suffix), array, strict=True):
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(one, path.suffix[1:].lower(), **options))
    return Path(root)


def packed(path, array, places=None):
    places = places or names(len(array))
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, one in zip(places, array, strict=True):
                archive.writestr(name, encoded(one))
        return path
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, one in zip(places, array, strict=True):
            member, content = tarfile.TarInfo(name), encoded(one)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def idx(path, array):
    """MNIST's format."""
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + array.astype(np.uint8).tobytes())
    return path


def parquet(path, array, labels=None, classes=CLASSES, column="image", stated=True, group=7):
    """A shard as Hugging Face's ``datasets`` writes it."""
    rows = [{"bytes": encoded(one), "path": f"{i}.png"} for i, one in enumerate(array)]
    columns = {column: rows}
    features = {column: {"_type": "Image"}}
    if labels is not None:
        columns["label"] = labels
        features["label"] = {"_type": "ClassLabel", "names": list(classes)}
    table = pa.table(columns)
    if stated:
        told = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        table = table.replace_schema_metadata(told)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path
