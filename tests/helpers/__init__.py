"""What several tests share: pictures in true formats, small networks, processes, oracles."""
