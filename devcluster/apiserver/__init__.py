"""A laptop-sized kube-apiserver; its contract is the recording of a real one."""

from devcluster.apiserver.core import ApiServer
from devcluster.apiserver.transport import InProcessTransport

__all__ = ["ApiServer", "InProcessTransport"]
