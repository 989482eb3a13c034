"""Files as other programs write them: folders of DeepMIMO, logs of an Intel 5300."""

from __future__ import annotations

import json
import struct

import numpy as np
from scipy.io import savemat

from helpers.rays import CARRIER_HZ, STATION_M, USERS_M, rays


def street_folder(folder, ending="npz", sets=((1, 0, 2),), inter_of_first=None):
    """What DeepMIMO writes: single precision, padded by NaN, one file a quantity."""
    n_users, shape = len(USERS_M), (len(USERS_M), 25)
    data = {key: np.full(shape, np.nan, np.float32) for key in ("power", "phase", "delay", "inter")}
    data |= {
        f"{side}_{angle}": np.full(shape, np.nan, np.float32)
        for side in ("aoa", "aod")
        for angle in ("az", "el")
    }
    data["inter_pos"] = np.full((*shape, 10, 3), np.nan, np.float32)
    data["rx_pos"], data["tx_pos"] = USERS_M.astype(np.float32), STATION_M[None].astype(np.float32)
    for k in range(n_users - 1):  # the last user has no path
        for p, ray in enumerate(rays(USERS_M[k])):
            towards = (ray.points_m[0] if len(ray.points_m) else USERS_M[k]) - STATION_M
            data["power"][k, p] = 20 * np.log10(abs(ray.gain))
            data["phase"][k, p] = np.degrees(np.angle(ray.gain))
            data["delay"][k, p] = ray.length_m / 299_792_458.0
            data["aod_az"][k, p] = np.degrees(np.arctan2(towards[1], towards[0]))
            data["aod_el"][k, p] = np.degrees(np.arccos(towards[2] / np.linalg.norm(towards)))
            data["inter"][k, p] = int("1" * len(ray.points_m) or 0)
            data["inter_pos"][k, p, : len(ray.points_m)] = ray.points_m
    if inter_of_first is not None:
        data["inter"][0, 1] = inter_of_first
    for t, i, r in sets:
        for key, values in data.items():
            stem = folder / f"{key}_t{t:03}_tx{i:03}_r{r:03}"
            if ending == "npz":
                np.savez(stem.with_suffix(".npz"), **{key: values})
            elif ending == "npy":
                np.save(stem.with_suffix(".npy"), values)
            else:
                savemat(stem.with_suffix(".mat"), {key: values})
    parameters = {
        "rt_params": {"frequency": CARRIER_HZ},
        "txrx_sets": {f"txrx_set_{s}": {"id": s} for s in (1, 2)},
    }
    (folder / "params.json").write_text(json.dumps(parameters))
    return folder


def intel_report(rng, n_rx=3, n_tx=1, perm=(0, 1, 2)):
    """A beamforming report as the driver of the 5300 logs it, code 0xbb, and its channel (30, Rx, Tx)."""
    value = rng.integers(-100, 100, (30, n_rx * n_tx, 2))
    bits = []
    for group in value:
        bits += [0, 0, 0]
        for part in group.ravel():
            bits += [(int(part) & 0xFF) >> i & 1 for i in range(8)]
    bits += [0] * (-len(bits) % 8)
    payload = np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()
    length = (30 * (n_rx * n_tx * 8 * 2 + 3) + 7) // 8
    payload = payload[:length]
    selection = perm[0] | perm[1] << 2 | perm[2] << 4
    head = struct.pack(
        "<IHHBBBBBbBBHH",
        1000 * rng.integers(1, 9),
        1,
        0,
        n_rx,
        n_tx,
        40,
        38,
        36,
        -92,
        40,
        selection,
        length,
        0x101,
    )
    body = b"\xbb" + head + payload
    channel = (value[..., 0] + 1j * value[..., 1]).reshape(30, n_tx, n_rx).transpose(0, 2, 1)
    return struct.pack(">H", len(body)) + body, channel
