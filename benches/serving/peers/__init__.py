"""The servers that are compared. Each says how it is had, how it is started and what it answers to."""

from .base import Peer, Running
from .mizzen import Mizzen
from .python_servers import BentoMl, KServe, LitServe, MlServer, Mosec, RayServe
from .torchserve import TorchServe
from .triton import Triton

ALL = [Mizzen, Triton, Mosec, KServe, MlServer, LitServe, BentoMl, RayServe, TorchServe]

__all__ = ["ALL", "Peer", "Running", *[peer.__name__ for peer in ALL]]
