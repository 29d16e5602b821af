"""A laptop-sized stand-in for kube-apiserver; its contract is what a recorded real one answered."""

from devcluster.apiserver.core import ApiServer
from devcluster.apiserver.transport import InProcessTransport

__all__ = ["ApiServer", "InProcessTransport"]
