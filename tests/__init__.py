"""Tests start programs by fork; gRPC must not start its threads in the child again, whose files are then closed."""

import os

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
