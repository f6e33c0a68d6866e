"""Writes dicom.tsv: what pydicom reads from the DICOM files of the shared data.

    python dicom.py DATA_FOLDER > dicom.tsv

A row has the path, the transfer syntax, the shape (frames, channels, rows, columns), whether the
compression is lossy, the SHA-256 of the stored values (32-bit little endian, in the order of the shape),
their least and greatest, 16 probes at even distances, and the least, greatest and sum of the modality
values as 32-bit floats. Values that pydicom cannot decode have `-`.
"""

import hashlib
import importlib.metadata as metadata
import sys
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels import apply_modality_lut, pixel_array

LOSSY = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.91"}


def row(root: Path, path: Path) -> str:
    ds = pydicom.dcmread(path)
    uid = str(ds.file_meta.TransferSyntaxUID)
    # RGB for every photometric interpretation of three samples.
    values = pixel_array(ds, raw=False)
    frames = int(ds.get("NumberOfFrames", None) or 1)
    channels = int(ds.SamplesPerPixel)
    values = values.reshape(frames, ds.Rows, ds.Columns, channels).transpose(0, 3, 1, 2)
    whole = np.ascontiguousarray(values.astype("<i4"))
    flat = whole.ravel()
    probes = [int(flat[i * (flat.size - 1) // 15]) for i in range(16)]
    measured = apply_modality_lut(values, ds).astype(np.float32).astype(np.float64)
    fields = [
        path.relative_to(root).as_posix(), uid, "x".join(map(str, whole.shape)), "lossy" if uid in LOSSY else "exact",
        hashlib.sha256(whole.tobytes()).hexdigest(), flat.min(), flat.max(), ",".join(map(str, probes)),
        repr(float(measured.min())), repr(float(measured.max())), repr(float(measured.sum())),
    ]
    return "\t".join(map(str, fields))


def main() -> None:
    root = Path(sys.argv[1])
    packages = ["pydicom", "numpy", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle"]
    print("# " + ", ".join(f"{p} {metadata.version(p)}" for p in packages))
    print("file\tsyntax\tshape\tkind\tsha256\tleast\tgreatest\tprobes\tmodality_least\tmodality_greatest\tmodality_sum")
    for folder in ["dicom", "lung_ct_dicom", "nc_duke_breast/dicom"]:
        for path in sorted((root / folder).rglob("*.dcm")):
            print(row(root, path))


if __name__ == "__main__":
    main()
