"""What nibabel reads from NIfTI files, for the tests of the reader.

Writes small files of every kind that is read into `nifti/`, and `nifti.json` with what nibabel makes of
them, of the files in `nifti_written/` (which the tests write when XDIFF_WRITE_REFERENCE is set) and of the
volumes in the folder of real data that is given:

    python nifti.py [FOLDER OF REAL FILES]

Needs numpy and nibabel; the versions that were used stand in the file that is written.
"""

import gzip
import hashlib
import json
import pathlib
import struct
import sys

import nibabel
import numpy as np

HERE = pathlib.Path(__file__).parent
SMALL = HERE / "nifti"
SHAPE = (3, 4, 2)
TURNED = np.array([[0.0, -1.2, 0.1, 5.0], [0.7, 0.05, 0.0, -6.0], [0.0, 0.1, 2.0, 7.5], [0, 0, 0, 1]])


def known(path):
    """What nibabel says of one file."""
    image = nibabel.load(path)
    values = image.get_fdata(dtype=np.float64).astype("<f4")
    space, time = image.header.get_xyzt_units()
    unit = {"meter": 1000.0, "micron": 0.001}.get(space, 1.0)
    frames = values.shape[3] if values.ndim > 3 else 1
    seconds = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}.get(time)
    step = float(image.header["pixdim"][4])
    # This project's affine maps are in mm; nibabel's are in the file's own unit.
    affine = np.asarray(image.affine, dtype=np.float64)[:3] * unit
    shape = (list(values.shape) + [1, 1, 1])[:3]
    return {
        "dims": [int(n) for n in shape],
        "frames": int(frames),
        "frame_seconds": step * seconds if frames > 1 and seconds and step > 0 else None,
        "affine": affine.tolist(),
        "orientation": "".join(nibabel.aff2axcodes(image.affine)),
        "sha256": hashlib.sha256(values.tobytes("F")).hexdigest(),
        "first": float(values.ravel("F")[0]),
        "last": float(values.ravel("F")[-1]),
    }


def patch(path, fields):
    """Overwrites fields of a NIfTI-1 header: offset, format, value."""
    content = bytearray(path.read_bytes())
    for offset, form, value in fields:
        struct.pack_into(form, content, offset, value)
    path.write_bytes(content)


def save(name, data, affine=TURNED, version=1, order="<", change=None):
    kind = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}[version]
    header_kind = {1: nibabel.Nifti1Header, 2: nibabel.Nifti2Header}[version]
    header = header_kind(endianness=order)
    header.set_data_dtype(data.dtype)
    header.set_xyzt_units("mm", "sec")
    image = kind(data, affine, header)
    if change:
        change(image.header)
    path = SMALL / name
    nibabel.save(image, path)
    return path


def ramp(kind):
    """Numbers that use the width of the type."""
    info = np.iinfo(kind) if np.issubdtype(kind, np.integer) else None
    n = np.arange(np.prod(SHAPE))
    if info is None:
        return (np.sin(n) * 1e3).astype(kind).reshape(SHAPE, order="F")
    spread = np.linspace(float(info.min) * 0.99, float(info.max) * 0.99, n.size)
    return spread.astype(kind).reshape(SHAPE, order="F")


def write_small():
    SMALL.mkdir(exist_ok=True)
    for old in SMALL.iterdir():
        old.unlink()
    kinds = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]
    for kind in kinds:
        save(f"one_{kind}.nii", ramp(np.dtype(kind)))
    for kind in ["i2", "f4", "u8"]:
        save(f"one_big_{kind}.nii", ramp(np.dtype(kind)), order=">")
        save(f"two_{kind}.nii", ramp(np.dtype(kind)), version=2)
    save("two_big_f8.nii.gz", ramp(np.dtype("f8")), version=2, order=">")
    data = ramp(np.dtype("i2"))

    patch(save("slope.nii", data), [(112, "<f", 0.37), (116, "<f", -1024.5)])
    patch(save("slope_float.nii", ramp(np.dtype("f4"))), [(112, "<f", 3.1), (116, "<f", 0.7)])
    patch(save("slope_zero.nii", data), [(112, "<f", 0.0), (116, "<f", 7.0)])
    patch(save("slope_nan.nii", data), [(112, "<f", float("nan")), (116, "<f", 7.0)])
    patch(save("slope_negative.nii", data), [(112, "<f", -2.0), (116, "<f", float(0))])

    def quaternion(b, c, d, qfac=1.0, code=1):
        fields = [(254, "<h", 0), (252, "<h", code), (76, "<f", qfac), (256, "<f", b), (260, "<f", c)]
        return fields + [(264, "<f", d), (268, "<f", 10.0), (272, "<f", -20.0), (276, "<f", 30.0)]

    patch(save("qform.nii", data), quaternion(0.1, -0.3, 0.5))
    patch(save("qform_left.nii", data), quaternion(0.1, -0.3, 0.5, qfac=-1.0))
    patch(save("qform_half_turn.nii", data), quaternion(0.6, 0.8, 0.0))
    patch(save("qform_qfac_zero.nii", data), quaternion(0.0, 0.0, 0.7, qfac=0.0))
    patch(save("both_forms.nii", data), quaternion(0.1, -0.3, 0.5) + [(254, "<h", 2)])
    patch(save("sform_unknown_code.nii", data), quaternion(0.1, -0.3, 0.5) + [(254, "<h", 77)])
    patch(save("no_form.nii", data), quaternion(0.1, 0.2, 0.3, code=0))
    patch(save("sizes_of_zero.nii", data), quaternion(0, 0, 0, code=0) + [(80, "<f", 0.0), (84, "<f", -2.5)])
    patch(save("qform_negative_size.nii", data), quaternion(0.1, 0.2, 0.3) + [(88, "<f", -2.5)])

    movie = np.stack([data, data // 2, data // 3], axis=3)
    patch(save("frames_seconds.nii", movie), [(92, "<f", 2.5)])
    patch(save("frames_ms.nii", movie), [(92, "<f", 2500.0), (123, "<B", 2 | 16)])
    patch(save("microns.nii", data), [(123, "<B", 3 | 8)])
    patch(save("metres.nii", data), [(123, "<B", 1)])
    patch(save("trailing_ones.nii", data), [(40, "<h", 7)])
    patch(save("plane.nii", data[:, :, :1]), [(40, "<h", 2)])

    def comment(header):
        text = nibabel.nifti1.Nifti1Extension("comment", b"a word to be skipped " * 9)
        header.extensions.append(text)

    save("extension.nii", data, change=comment)
    save("compressed.nii.gz", data)
    # Two gzip members one after the other are one stream.
    plain = (SMALL / "one_i2.nii").read_bytes()
    members = gzip.compress(plain[:200], mtime=0) + gzip.compress(plain[200:], mtime=0)
    (SMALL / "members.nii.gz").write_bytes(members)
    pair = nibabel.Nifti1Pair(data, TURNED)
    nibabel.save(pair, SMALL / "pair.img")
    pair = nibabel.Nifti2Pair(ramp(np.dtype("f4")), TURNED)
    nibabel.save(pair, SMALL / "pair_two.img.gz")


def text(result):
    """JSON with a line for each file."""
    parts = [f' "versions": {json.dumps(result["versions"])}']
    for part in ("small", "written", "real"):
        lines = [f"  {json.dumps(name)}: {json.dumps(known)}" for name, known in result[part].items()]
        parts.append(f' "{part}": {{\n' + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main():
    write_small()
    names = [p for p in sorted(SMALL.iterdir()) if ".hdr" not in p.name]
    result = {
        "versions": {"nibabel": nibabel.__version__, "numpy": np.__version__},
        "small": {p.name: known(p) for p in names},
    }
    result["written"] = {p.name: known(p) for p in sorted((HERE / "nifti_written").glob("*.nii"))}
    for path in (HERE / "nifti_written").glob("*.nii"):
        header = nibabel.load(path).header
        if header["qform_code"] != 0:
            # Whichever of the two a viewer reads, it is in the same place.
            np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)
    target = HERE / "nifti.json"
    if len(sys.argv) > 1:
        folder = pathlib.Path(sys.argv[1])
        result["real"] = {p.name: known(p) for p in sorted(folder.glob("*.nii*"))}
    elif target.exists():
        result["real"] = json.loads(target.read_text()).get("real", {})
    target.write_text(text(result))


main()
