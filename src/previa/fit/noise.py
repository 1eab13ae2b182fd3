"""Streams of normal noise, one a device, all from one seed: they can be saved and go on where they stopped."""

from typing import Any, final

import torch
from torch import Generator, Tensor


@final
class Noise:
    """Standard normal noise of its owner alone: nobody else's draws change it.

    ``generator`` (torch's global one by default) gives the seed, by one draw. A stream is named by its kind of device and
    its number among those of that kind in the order of first use, so that the only GPU of every process has stream
    "cuda:0", whatever its index: a state that one process saved goes on in all of them.
    """

    def __init__(self, generator: Generator | None = None) -> None:
        device = "cpu" if generator is None else generator.device
        self._seed = int(torch.randint(2**62, (), generator=generator, device=device))
        self._streams: dict[str, tuple[str, Generator]] = {}  # device -> (the stream's name, the stream)
        self._saved: dict[str, Tensor] = {}  # states of streams that were not needed since they were loaded

    def fill(self, tensors: list[Tensor]) -> None:
        """Overwrite the tensors with eps ~ N(0, 1)."""
        for tensor in tensors:
            tensor.normal_(generator=self._stream(str(tensor.device)))

    def __getstate__(self) -> dict[str, Any]:
        """The seed, and the state of each stream (a byte tensor)."""
        streams = {name: stream.get_state() for name, stream in self._streams.values()}
        return {"seed": self._seed, "streams": {**self._saved, **streams}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken; a stream that it does not have starts from its seed."""
        self._seed = state["seed"]
        self._streams = {}
        self._saved = {name: stream.to("cpu", copy=True) for name, stream in state["streams"].items()}

    def _stream(self, device: str) -> Generator:
        if device not in self._streams:
            kind = device.partition(":")[0]
            number = sum(other.partition(":")[0] == kind for other in self._streams)
            name = f"{kind}:{number}"
            stream = Generator(device).manual_seed(self._seed + number)
            if name in self._saved:
                stream.set_state(self._saved.pop(name))
            self._streams[device] = name, stream
        return self._streams[device][1]
