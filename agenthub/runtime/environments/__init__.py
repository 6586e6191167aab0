"""Virtual environments of agents: interpreters, builders, bytecode, and what broke."""
