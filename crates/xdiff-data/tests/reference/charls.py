"""Writes charls.tsv: small images encoded by CharLS (pyjpegls), with what CharLS decodes again.

    python charls.py > charls.tsv

A row has a name, rows, columns, components, bits, the stream in hexadecimal, and the decoded values,
pixel by pixel. Images are a formula of place and component: ramps, flats (runs) and noise.
"""

import importlib.metadata as metadata

import numpy as np
from jpeg_ls import decode_buffer, encode_buffer


def image(rows: int, columns: int, components: int, bits: int) -> np.ndarray:
    y, x, c = np.meshgrid(np.arange(rows), np.arange(columns), np.arange(components), indexing="ij")
    most = 2**bits - 1
    ramp = (x * 37 + y * 101 + c * 53) * most // 4096
    noise = (x * 7919 + y * 104729 + c * 1299709) ** 2 % 9973 * most // 9973
    flat = most // 3 + 0 * x
    values = np.where(y % 5 < 2, flat, np.where(y % 5 == 3, noise, ramp)) % (most + 1)
    return values.astype(np.uint8 if bits <= 8 else np.uint16)


def main() -> None:
    print(f"# pyjpegls {metadata.version('pyjpegls')}, numpy {np.__version__}")
    cases = [(1, 8, 0, 0), (1, 8, 3, 0), (1, 12, 0, 0), (1, 16, 0, 0), (1, 16, 5, 0), (1, 4, 0, 0)]
    cases += [(3, 8, near, mode) for near in (0, 2) for mode in (0, 1, 2)] + [(3, 16, 0, 1), (3, 16, 0, 2)]
    for components, bits, near, mode in cases:
        values = image(11, 23, components, bits)
        # CharLS takes planes without interleaving, and pixels for interleaving by line and by sample.
        order = (2, 0, 1) if mode == 0 else (0, 1, 2)
        source = np.ascontiguousarray(values.transpose(order))
        stream = bytes(encode_buffer(source.tobytes(), 11, 23, components, bits, near, interleave_mode=mode))
        raw, _ = decode_buffer(stream)
        decoded = np.frombuffer(bytes(raw), values.dtype).reshape(source.shape).transpose(np.argsort(order))
        decoded = decoded.ravel().astype(int)
        error = np.abs(decoded - values.ravel().astype(int)).max()
        assert error <= near, (components, bits, near, mode, error)
        name = f"{components} components, {bits} bits, error {near}, interleave {mode}"
        print(name, 11, 23, components, bits, stream.hex(), ",".join(map(str, decoded)), sep="\t")


if __name__ == "__main__":
    main()
