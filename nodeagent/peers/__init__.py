"""Exchange images between nodes: the agent of a node fetches blobs from other agents and serves its own."""
