"""One method over many inputs."""
