"""Streams of normal noise, one a device, all from one seed: they can be saved and go on where they stopped."""

from typing import Any, final

import torch
from torch import Generator, Tensor


@final
class Noise:
    """Standard normal noise of its owner alone: nobody else's draws change it.

    ``generator`` (torch's global one by default) gives the seed, by one draw.
    """

    def __init__(self, generator: Generator | None = None) -> None:
        device = "cpu" if generator is None else generator.device
        self._seed = int(torch.randint(2**62, (), generator=generator, device=device))
        self._streams: dict[str, Generator] = {}
        self._saved: dict[str, Tensor] = {}  # states of streams that were not needed since they were loaded

    def fill(self, tensors: list[Tensor]) -> None:
        """Overwrite the tensors with eps ~ N(0, 1)."""
        for tensor in tensors:
            tensor.normal_(generator=self._stream(str(tensor.device)))

    def __getstate__(self) -> dict[str, Any]:
        """The seed, and the state of each device's stream (a byte tensor)."""
        streams = {device: generator.get_state() for device, generator in self._streams.items()}
        return {"seed": self._seed, "streams": {**self._saved, **streams}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken; a device that it does not know starts from its seed."""
        self._seed = state["seed"]
        self._streams = {}
        self._saved = {device: stream.to("cpu", copy=True) for device, stream in state["streams"].items()}

    def _stream(self, device: str) -> Generator:
        if device not in self._streams:
            self._streams[device] = Generator(device).manual_seed(self._seed)
            if device in self._saved:
                self._streams[device].set_state(self._saved.pop(device))
        return self._streams[device]
