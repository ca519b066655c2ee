"""The tensors of a published model: every *.safetensors of a folder, mapped into memory and read where they are used.

The format is eight bytes of length, a JSON header {name: {dtype, shape, data_offsets}}, and the data. It is read here,
since its own library knows no FP8 in numpy.
"""

import json
import os
from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from r1jax.base.fields import UserError, require

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "I64": np.int64,
    "I32": np.int32,
}


class Tensors(Mapping[str, np.ndarray]):
    """name -> a read-only array that lies in the file. UserError where the folder holds none or a file is damaged."""

    def __init__(self, folder: os.PathLike):
        files = sorted(file for file in os.listdir(folder) if file.endswith(".safetensors"))
        require(len(files) > 0, f"no *.safetensors in {folder}")
        self._places: dict[str, tuple[str, int, dict]] = {}
        for file in files:
            path = os.path.join(folder, file)
            try:
                with open(path, "rb") as opened:
                    size = int.from_bytes(opened.read(8), "little")
                    header = json.loads(opened.read(size))
                ends = [place["data_offsets"][1] for name, place in header.items() if name != "__metadata__"]
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
                raise UserError(f"{path} is no file of safetensors, or was cut short") from error
            whole = 8 + size + max(ends, default=0) <= os.path.getsize(path)
            require(whole, f"{path} was cut short; download it again")
            self._places |= {name: (path, 8 + size, place) for name, place in header.items() if name != "__metadata__"}

    def __getitem__(self, name: str) -> np.ndarray:
        path, start, place = self._places[name]
        require(place["dtype"] in _DTYPES, f"{path}: {name} is of type {place['dtype']}, which is not known here")
        dtype, shape = np.dtype(_DTYPES[place["dtype"]]), tuple(place["shape"])
        return np.memmap(path, dtype, "r", start + place["data_offsets"][0], shape or (1,)).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
