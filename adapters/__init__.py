"""One outside thing per module: registries, the API server, the runtime. Libraries are translated here, once."""
